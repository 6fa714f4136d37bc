"""The middle of a digest: a list is split, and what came of its items is merged."""

from typing import Any

from tidemill.task_context import RunContext


def split(run: RunContext) -> list[dict[str, Any]]:
    """One item for each task; of an HTTP task the result is the status and the body."""
    tasks = run.parameters["upstream"]["download-tasks"]["body"]["items"]
    return [{"id": task["id"], "name": task["name"]} for task in tasks]


def merge(run: RunContext) -> dict[str, Any]:
    """How many runs of each task ended; results of a mapped task have the order of its items."""
    upstream = run.parameters["upstream"]
    ended = {
        task["name"]: stats["body"]["finished"]
        for task, stats in zip(upstream["split-tasks"], upstream["ask-for-stats"], strict=True)
    }
    run.logger.info("%d tasks", len(ended))
    return {"runs": sum(ended.values()), "busiest": max(ended, key=ended.__getitem__), "of": ended}
