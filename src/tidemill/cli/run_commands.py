"""`tidemill run …`."""

import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from tidemill.cli.output import Common, say, show_many, show_one
from tidemill.client.client import Client

RUN_COLUMNS = (
    "id", "task_name", "status", "reason", "trigger", "attempt", "scheduled_for", "started_at",
    "completed_at",
)  # fmt: skip


def register(app: App) -> None:
    """Add these commands."""
    run = App(name="run", help="Runs: what was executed, when, and what came of it.")
    for command, name in (
        (list_runs, "list"), (get, "get"), (cancel, "cancel"), (retry, "retry"), (logs, "logs"),
        (events, "events"), (attempts, "attempts"), (explain, "explain"), (watch, "wait"),
    ):  # fmt: skip
        run.command(command, name=name)
    app.command(run)


def list_runs(
    *,
    status: str | None = None,
    task_id: int | None = None,
    trigger: str | None = None,
    limit: int = 20,
    common: Common | None = None,
) -> None:
    """List runs, the newest first."""
    common = common or Common()
    params = {
        "namespace": common.namespace,
        "status": status,
        "task_id": task_id,
        "trigger": trigger,
        "limit": limit,
    }
    with common.client() as client:
        found = client.call("GET", "/runs", params=params)
    show_many(found["items"], common.output, RUN_COLUMNS)


def get(run: int, *, common: Common | None = None) -> None:
    """Show a run."""
    common = common or Common()
    with common.client() as client:
        show_one(client.run(run), common.output)


def cancel(run: int, *, common: Common | None = None) -> None:
    """End a run before its time."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("POST", f"/runs/{run}/cancel"), common.output, RUN_COLUMNS)


def retry(run: int, *, common: Common | None = None) -> None:
    """Try a finished run again, as a new run."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("POST", f"/runs/{run}/retry"), common.output, RUN_COLUMNS)


def logs(
    run: int,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    after: int = 0,
    common: Common | None = None,
) -> None:
    """Print a run's output; stderr and log lines go to stderr."""
    common = common or Common()
    with common.client() as client:
        if follow:
            _follow(client, run, after)
            return
        while True:
            found = client.call("GET", f"/runs/{run}/logs", params={"after": after})["items"]
            for line in found:
                _print_line(line)
            if not found:
                return
            after = found[-1]["seq"]


def events(run: int, *, common: Common | None = None) -> None:
    """List the facts of a run's life."""
    common = common or Common()
    with common.client() as client:
        found = client.call("GET", f"/runs/{run}/events")
    show_many(found["items"], common.output, ("seq", "type", "at", "data"))


def attempts(run: int, *, common: Common | None = None) -> None:
    """List every try of a run."""
    common = common or Common()
    with common.client() as client:
        found = client.call("GET", f"/runs/{run}/attempts")
    columns = ("attempt", "outcome", "exit_code", "worker_id", "started_at", "completed_at")
    show_many(found["items"], common.output, columns)


def explain(run: int, *, common: Common | None = None) -> None:
    """Why has it started, or why not?"""
    from tidemill.cli.task_commands import show_explanation

    common = common or Common()
    with common.client() as client:
        show_explanation(client.call("GET", f"/runs/{run}/explain"), common)


def watch(
    run: int,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    timeout: float | None = None,
    common: Common | None = None,
) -> int:
    """Return when a run has ended: 0 where it succeeded, 1 where not, 6 where it took too long."""
    common = common or Common()
    with common.client() as client:
        return finish(client, client.run(run), common, follow=follow, timeout_seconds=timeout)


def finish(
    client: Client,
    run: dict[str, Any],
    common: Common,
    *,
    follow: bool,
    timeout_seconds: float | None,
) -> int:
    """Wait for a run and print it; its exit code. Raises TimeoutError."""
    if follow:
        say(f"run {run['id']} of {run['task_name']}")
        if timeout_seconds is None:
            _follow(client, run["id"], 0)
    ended = client.wait(run["id"], timeout_seconds=timeout_seconds)
    if common.output != "table":
        show_one(ended, common.output)
    else:
        why = f" ({ended['reason']}: {ended['error_message']})" if ended["reason"] else ""
        say(f"run {ended['id']} {ended['status']}{why}")
        if ended["result"] is not None:
            show_one({"result": ended["result"]}, "table")
    return 0 if ended["status"] == "succeeded" else 1


def _follow(client: Client, run_id: int, after: int) -> None:
    path = f"/runs/{run_id}/logs?follow=1&after={after}"
    for name, data in client.stream(path):
        if name == "log":
            _print_line(data)


def _print_line(line: dict[str, Any]) -> None:
    target = sys.stdout if line["stream"] == "stdout" else sys.stderr
    target.write(f"{line['text']}\n")
    target.flush()
