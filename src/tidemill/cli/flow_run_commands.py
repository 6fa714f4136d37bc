"""`tidemill flow-run …`."""

from typing import Literal

from tidemill.cli.output import Common, show_many, show_one

FLOW_RUN_COLUMNS = (
    "id", "root_task_id", "status", "reason", "total", "unfinished", "scheduled_for",
    "deadline_at", "completed_at", "retry_of", "called_by",
)  # fmt: skip


def list_flow_runs(
    *,
    status: str | None = None,
    called_by: int | None = None,
    common: Common | None = None,
) -> None:
    """List flow runs, the newest first.

    Parameters
    ----------
    called_by
        those that this run called
    """
    common = common or Common()
    with common.client() as client:
        found = client.items("/flow-runs", status=status, called_by=called_by)
        show_many(found, common.output, FLOW_RUN_COLUMNS)


def get(flow_run: str, /, *, common: Common | None = None) -> None:
    """Show a flow run: its runs, what waits for what, its critical path."""
    common = common or Common()
    with common.client() as client:
        path = f"/flow-runs/{flow_run}"
        found = client.call("GET", path)
        cursor = found.pop("next_cursor")
        while cursor is not None:
            page = client.call("GET", path, params={"cursor": cursor})
            found["runs"] += page["runs"]
            found["edges"] += page["edges"]
            cursor = page["next_cursor"]
        show_one(found, common.output)


def cancel(flow_run: str, /, *, common: Common | None = None) -> None:
    """End all runs of a flow run that have not ended."""
    common = common or Common()
    with common.client() as client:
        found = client.call("POST", f"/flow-runs/{flow_run}/cancel")
        show_one(found, common.output, FLOW_RUN_COLUMNS)


def retry(
    flow_run: str,
    /,
    *,
    versions: Literal["then", "now"] = "then",
    common: Common | None = None,
) -> None:
    """Run again what did not succeed, as a new flow run that carries over what did.

    Parameters
    ----------
    versions
        which versions of the tasks are run: those of then, or those in force now
    """
    common = common or Common()
    with common.client() as client:
        made = client.call("POST", f"/flow-runs/{flow_run}/retry", body={"versions": versions})
        show_one(made, common.output, FLOW_RUN_COLUMNS)
