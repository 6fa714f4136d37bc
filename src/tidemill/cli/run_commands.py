"""`tidemill run …`."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tidemill.cli.output import Common, Flag, say, show_many, show_one

if TYPE_CHECKING:
    from tidemill.client.client import Client

RUN_COLUMNS = (
    "id", "task_name", "status", "reason", "trigger", "attempt", "scheduled_for", "started_at",
    "completed_at",
)  # fmt: skip


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


def get(run: int, /, *, common: Common | None = None) -> None:
    """Show a run."""
    common = common or Common()
    with common.client() as client:
        show_one(client.run(run), common.output)


def result(run: int, /, *, common: Common | None = None) -> None:
    """Print what a run that has ended returned, as JSON, whatever its size."""
    common = common or Common()
    with common.client() as client:
        for part in client.result(run):
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def cancel(run: int, /, *, common: Common | None = None) -> None:
    """End a run before its time."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("POST", f"/runs/{run}/cancel"), common.output, RUN_COLUMNS)


def retry(run: int, /, *, common: Common | None = None) -> None:
    """Try a finished run again, as a new run."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("POST", f"/runs/{run}/retry"), common.output, RUN_COLUMNS)


def logs(
    run: int,
    /,
    *,
    follow: Annotated[Flag, Parameter(name=["--follow", "-f"])] = False,
    after: int = 0,
    common: Common | None = None,
) -> None:
    """Print a run's output; stderr and log lines go to stderr."""
    common = common or Common()
    with common.client() as client:
        lines = _live(client, run, after) if follow else _stored(client, run, after)
        if common.output == "table":
            for line in lines:
                _print_line(line)
        else:
            show_many(lines, common.output, ("seq", "stream", "at", "text"))


def events(run: int, /, *, common: Common | None = None) -> None:
    """List the facts of a run's life."""
    common = common or Common()
    with common.client() as client:
        found = client.call("GET", f"/runs/{run}/events")
    show_many(found["items"], common.output, ("seq", "type", "at", "data"))


def attempts(run: int, /, *, common: Common | None = None) -> None:
    """List every try of a run."""
    common = common or Common()
    with common.client() as client:
        found = client.call("GET", f"/runs/{run}/attempts")
    columns = ("attempt", "outcome", "exit_code", "worker_id", "started_at", "completed_at")
    show_many(found["items"], common.output, columns)


def explain(run: int, /, *, common: Common | None = None) -> None:
    """Why has it started, or why not?"""
    from tidemill.cli.task_commands import show_explanation

    common = common or Common()
    with common.client() as client:
        show_explanation(client.call("GET", f"/runs/{run}/explain"), common)


def wait(
    run: int,
    /,
    *,
    follow: Annotated[Flag, Parameter(name=["--follow", "-f"])] = False,
    timeout: float | None = None,
    common: Common | None = None,
) -> int:
    """Return when a run has ended: 0 where it succeeded, 1 where not, 6 where it took too long."""
    common = common or Common()
    with common.client() as client:
        return finish(client, client.run(run), common, follow=follow, timeout_seconds=timeout)


def finish(
    client: "Client",
    run: dict[str, Any],
    common: Common,
    *,
    follow: bool,
    timeout_seconds: float | None,
) -> int:
    """Wait for a run and print it; its exit code. Raises TimeoutError."""
    begin = time.monotonic()
    if follow:
        say(f"run {run['id']} of {run['task_name']}")
        with contextlib.suppress(TimeoutError):  # the last look is below, and says where it is
            for line in _live(client, run["id"], 0, timeout_seconds):
                _print_line(line)
    if timeout_seconds is not None:
        timeout_seconds -= time.monotonic() - begin
    ended = client.wait(run["id"], timeout_seconds=timeout_seconds)
    if common.output != "table":
        show_one(ended, common.output)
    else:
        why = f" ({ended['reason']}: {ended['error_message']})" if ended["reason"] else ""
        say(f"run {ended['id']} {ended['status']}{why}")
        if ended["result"] is not None:
            show_one({"result": ended["result"]}, "table")
    return 0 if ended["status"] == "succeeded" else 1


def _stored(client: "Client", run_id: int, after: int) -> Iterator[dict[str, Any]]:
    while True:
        found = client.call("GET", f"/runs/{run_id}/logs", params={"after": after})["items"]
        yield from found
        if not found:
            return
        after = found[-1]["seq"]


def _live(
    client: "Client", run_id: int, after: int, timeout_seconds: float | None = None
) -> Iterator[dict[str, Any]]:
    """Lines as they come, until the run has ended; says on the way how far it is."""
    said = ""
    path = f"/runs/{run_id}/logs?follow=1&after={after}"
    for name, data in client.stream(path, timeout_seconds=timeout_seconds):
        if name == "log":
            yield data
        elif name == "progress" and (text := _progress(data)) != said:
            said = text
            say(text)


def _progress(data: dict[str, Any]) -> str:
    fraction, message = data["fraction"], data["message"]
    return " ".join([*([] if fraction is None else [f"{fraction:.0%}"]), message]).strip()


def _print_line(line: dict[str, Any]) -> None:
    target = sys.stdout if line["stream"] == "stdout" else sys.stderr
    target.write(f"{line['text']}\n")
    target.flush()
