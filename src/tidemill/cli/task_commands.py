"""`tidemill task …`."""

import json
import sys
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter

from tidemill.cli.output import Common, Flag, say, show_many, show_one
from tidemill.cli.run_commands import RUN_COLUMNS, finish
from tidemill.client.client import task_key
from tidemill.errors import InvalidInput

TASK_COLUMNS = ("name", "id", "executor", "schedule", "timezone", "status", "next_run_at")


def list_tasks(
    *, status: str | None = None, tag: str | None = None, common: Common | None = None
) -> None:
    """List tasks."""
    common = common or Common()
    with common.client() as client:
        found = client.items("/tasks", namespace=common.namespace, status=status, tag=tag)
        show_many(found, common.output, TASK_COLUMNS)


def get(task: str, /, *, common: Common | None = None) -> None:
    """Show a task, by id or name."""
    common = common or Common()
    show_one(_call("GET", task, "", common), common.output)


def create(
    name: str,
    /,
    *,
    executor: str = "shell",
    command: str,
    argument: list[str] | None = None,
    schedule: str | None = None,
    timezone: str = "UTC",
    common: Common | None = None,
) -> None:
    """Define a task; what has more to say stands in a file: tidemill apply.

    Parameters
    ----------
    command
        the command line, URL or package.module:function
    argument
        with a shell task: run `command` as a program with these, without a shell
    schedule
        as in `tidemill schedule next`
    """
    common = common or Common()
    body: dict[str, Any] = {
        "name": name,
        "executor": executor,
        "command": command,
        "timezone": timezone,
    }
    if argument:
        body["arguments"] = argument
    if schedule is not None:
        body["schedule"] = schedule
    with common.client() as client:
        body["namespace"] = client.namespace
        show_one(client.call("POST", "/tasks", body=body), common.output, TASK_COLUMNS)


def delete(task: str, /, *, common: Common | None = None) -> None:
    """Delete a task; its history stays."""
    common = common or Common()
    _call("DELETE", task, "", common)
    say(f"deleted {task}")


def trigger(
    task: str,
    /,
    *,
    parameter: Annotated[
        list[str] | None, Parameter(name=["--parameter", "-p"], help="NAME=JSON or NAME=TEXT")
    ] = None,
    run_at: datetime | None = None,
    priority: str | None = None,
    wait: Flag = False,
    follow: Flag = False,
    timeout: Annotated[float | None, Parameter(help="seconds to wait at most")] = None,
    common: Common | None = None,
) -> int | None:
    """Ask for a run now.

    Parameters
    ----------
    wait
        return when it has ended: 0 where it succeeded, 1 where not, 6 where it took too long
    follow
        show its output and progress while it runs
    """
    common = common or Common()
    wish: dict[str, Any] = {"parameters": _parameters(parameter or [])}
    if run_at is not None:
        wish["run_at"] = run_at.astimezone().isoformat()
    if priority is not None:
        wish["priority"] = priority
    with common.client() as client:
        run = client.trigger(task, **wish)
        if not wait and not follow:
            show_one(run, common.output, RUN_COLUMNS)
            return None
        return finish(client, run, common, follow=follow, timeout_seconds=timeout)


def pause(task: str, /, *, common: Common | None = None) -> None:
    """Fire nothing until it is resumed."""
    common = common or Common()
    show_one(_call("POST", task, "/pause", common), common.output, TASK_COLUMNS)


def resume(task: str, /, *, common: Common | None = None) -> None:
    """Fire again from now on."""
    common = common or Common()
    show_one(_call("POST", task, "/resume", common), common.output, TASK_COLUMNS)


def runs(task: str, /, *, limit: int = 20, common: Common | None = None) -> None:
    """List the newest runs of a task."""
    common = common or Common()
    found = _call("GET", task, "/runs", common, limit=limit)
    show_many(found["items"], common.output, RUN_COLUMNS)


def preview(task: str, /, *, count: int = 10, common: Common | None = None) -> None:
    """Show the next fire times."""
    common = common or Common()
    found = _call("GET", task, "/preview", common, count=count)
    show_many(found["items"], common.output, ("at", "local", "note"))


def ledger(
    task: str,
    /,
    *,
    since: Annotated[datetime | None, Parameter(name="--from")] = None,
    to: datetime | None = None,
    common: Common | None = None,
) -> None:
    """Account for every due firing (by default of the last day)."""
    common = common or Common()
    span = {"from": _instant(since), "to": _instant(to)}
    found = _call("GET", task, "/ledger", common, **span)
    if common.output != "table":
        show_one(found, common.output)
        return
    say("  ".join(f"{name} {found[name]}" for name in _LEDGER))
    show_many(found["items"], "table", ("scheduled_for", "fate", "reason", "run_id", "count"))


_LEDGER = ("due", "ran", "coalesced", "skipped", "missed")


def stats(task: str, /, *, common: Common | None = None) -> None:
    """Show how the runs of the last day went."""
    common = common or Common()
    show_one(_call("GET", task, "/stats", common), common.output)


def versions(task: str, /, *, common: Common | None = None) -> None:
    """List every definition that was ever in force."""
    common = common or Common()
    found = _call("GET", task, "/versions", common)
    show_many(found["items"], common.output, ("version", "created_at", "definition"))


def explain(task: str, /, *, at: datetime | None = None, common: Common | None = None) -> None:
    """Would a firing start, and if not, why?"""
    common = common or Common()
    show_explanation(_call("GET", task, "/explain", common, at=_instant(at)), common)


def show_explanation(found: dict[str, Any], common: Common) -> None:
    """Every gate and what it found."""
    if common.output != "table":
        show_one(found, common.output)
        return
    say("may start" if found["may_start"] else f"may not start: {found['blocking']}")
    show_many(found["gates"], "table", ("gate", "passes", "detail"))


def backfill(
    task: str,
    /,
    *,
    since: Annotated[datetime, Parameter(name="--from")],
    to: datetime,
    max_parallel: int | None = None,
    dry_run: Flag = False,
    common: Common | None = None,
) -> None:
    """Make up for the fire times in [from, to)."""
    common = common or Common()
    body: dict[str, Any] = {"from": _instant(since), "to": _instant(to), "dry_run": dry_run}
    if max_parallel is not None:
        body["max_parallel"] = max_parallel
    with common.client() as client:
        path = f"/tasks/{task_key(task)}/backfill"
        made = client.call("POST", path, params={"namespace": client.namespace}, body=body)
    if common.output != "table":
        show_one(made, common.output)
        return
    say(f"{len(made['fire_times'])} fire times, {len(made['run_ids'])} runs")
    sys.stdout.writelines(f"{at}\n" for at in made["fire_times"])


def _call(method: str, task: str, rest: str, common: Common, **params: Any) -> Any:
    with common.client() as client:
        path = f"/tasks/{task_key(task)}{rest}"
        return client.call(method, path, params={"namespace": client.namespace, **params})


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone().isoformat()


def _parameters(given: list[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for each in given:
        name, sign, text = each.partition("=")
        if not sign or not name:
            raise InvalidInput(f"--parameter {each!r} must be NAME=VALUE")
        try:
            parameters[name] = json.loads(text)
        except ValueError:
            parameters[name] = text
    return parameters
