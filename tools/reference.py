"""Writes docs/reference from the code. A test holds the pages against it: `make reference`."""

import json
import typing
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from tidemill.cli import app
from tidemill.config.settings import Settings
from tidemill.domain.run_status import FINAL, TRANSITIONS, RunStatus
from tidemill.domain.task import TaskDefinition, TaskStatus

FOLDER = Path(__file__).parent.parent / "docs" / "reference"

TASK_FIELDS = {
    "name": "what people call it; unique within its namespace",
    "namespace": "where its name is looked up",
    "description": "for people",
    "task_type": "the kind of task; always the same as `executor` so far",
    "executor": "what performs it: `shell`, `http` or `python`; or `task`: "
    "[another task](../explanation/flow-runs.md#tasks-that-call-tasks), which it waits for",
    "command": "a command line, a URL, `package.module:function`, or `name:TASK`",
    "arguments": "shell: a list (argv, no shell between) or `argv`, `environment`, "
    "`working_directory`, `stdin`, `shell`; http: `url`, `method`, `headers`, `body`, `json`, "
    "`expected_status`, `follow_redirects`; python: keyword arguments; task: the parameters of the "
    "task that is called; "
    "[placeholders](../explanation/placeholders.md) in their values are filled in",
    "schedule": "cron with 5 or 6 fields (seconds first; names, ranges, steps, `L W # H`), "
    "`@hourly` … `@yearly`, `@every 30s`, `@after 10m`, `@at INSTANT`, "
    "`RRULE:…`; none: by hand only",
    "timezone": "the zone of the schedule's times",
    "dst.gap": "a fixed time that the clock skips: at the first instant after it, or not at all",
    "dst.fold": "a fixed time that comes twice: the first time, the second, or both",
    "misfire.policy": "firings that came too late: one run for all, a skipped row each, or all",
    "misfire.grace_seconds": "how late a firing may be and still count as on time; "
    "where thousands are, they become runs a thousand at a time",
    "misfire.max_runs": "`run_all`: at most so many",
    "misfire.window_seconds": "`run_all`: none older than this",
    "overlap": "a firing while an earlier run goes on: run beside it, skip, wait, or cancel it",
    "jitter_seconds": "spread by up to this, the same for everyone who computes it",
    "start_at": "nothing fires before it",
    "end_at": "nothing fires from it on",
    "priority": "which of two ready runs starts first; five minutes of waiting are worth a level",
    "retry.max_retries": "further attempts after the first",
    "retry.delay_seconds": "before the second attempt",
    "retry.backoff": "how the delay grows",
    "retry.factor": "`exponential`: by this much each time",
    "retry.max_delay_seconds": "the delay grows no further",
    "retry.jitter": "whether the delay is spread",
    "retry.retry_on": "reasons, exit codes or exception types; empty: all",
    "retry.never_retry_on": "as above; stronger than `retry_on`",
    "timeout_seconds": "an attempt that takes longer is ended; `null`: none",
    "queue_timeout_seconds": "a run that has not started after so long is `timed_out`",
    "deadline_seconds": "for all attempts together, from the fire time on",
    "flow_deadline_seconds": "for the whole flow run that the task opens, from its opening on",
    "concurrency.key": "runs that share a key are counted together; none: the task alone",
    "concurrency.limit": "at most so many of them at once",
    "queue": "only workers that serve it take its runs",
    "worker_selector": "labels that a worker must have",
    "strategy": "how a worker is chosen: a name, or `name` and settings "
    "([strategies](../explanation/strategies.md)); `null`: `dispatcher.strategy`",
    "dependencies": "upstream tasks, each `task` and `condition`",
    "trigger_rule": "how many of them must be so: `all`, `any` or `none_failed`; or "
    "[an expression](../explanation/expressions.md) over how they ended",
    "map_over": "one run for each item of a list that an upstream run returned: `task`, as it "
    "stands in `dependencies`, and `field`, `max_parallel`, `max_items`, `on_failure` "
    "([how](../explanation/flow-runs.md))",
    "tags": "for filters",
    "metadata": "yours; returned as it was given",
}
STATUSES = {
    "waiting": "for upstream runs of its flow run",
    "pending": "may start once its time has come and the limits allow",
    "dispatched": "handed to the queue",
    "running": "a worker holds its lease, or it waits for the task that it called",
    "retrying": "its next attempt is planned",
    "cancelling": "its worker was asked to end it, or what it called is being cancelled",
    "succeeded": "it did what was asked",
    "failed": "it did not; the reason says why",
    "timed_out": "it took too long, waiting or running",
    "cancelled": "somebody ended it",
    "skipped": "it fired, but was never to start; the reason says why",
}
REASONS = {
    "address_refused": "an HTTP task asked for an address that tasks may not reach",
    "artifact_unavailable": "a large result that it was to read as a file cannot be had",
    "cancelled": "the task was ended before it was done",
    "cancelled_by_user": "somebody cancelled it",
    "coalesced": "one later run stands for this missed firing",
    "connection": "an HTTP task got no answer",
    "deadline": "the deadline over all attempts passed, or that of its flow run",
    "exception": "a Python task raised; the message names the type",
    "execution_timeout": "an attempt took longer than `timeout_seconds`",
    "empty": "the list that it was to be mapped over has no items",
    "executor_error": "the executor itself failed",
    "executor_lost": "the process that ran a Python task is gone",
    "exit_code": "the command ended with a code other than 0",
    "expression": "the expression of its `trigger_rule` could not be told; the message says why",
    "handed_back": "its worker drained; costs no attempt",
    "http_status": "the answer's status was not an expected one",
    "invalid_result": "the result is not JSON",
    "killed": "the process that watched over the task was killed",
    "limit": "its concurrency key was full when it was to be claimed",
    "map_stopped": "another item of its map failed (`map_over.on_failure`: `stop`)",
    "misfire": "it was due too long ago",
    "no_executor": "the worker that claimed it has no such executor",
    "not_a_list": "there is no list where `map_over` looks for it; the message says what there is",
    "not_started": "the program cannot be started",
    "overlap": "an earlier run of the task was still going on",
    "paused": "its time came while the task was paused",
    "poison": "three workers were lost while they ran it",
    "queue_timeout": "it did not start within `queue_timeout_seconds`",
    "redirects": "an HTTP task was redirected too often",
    "response_too_large": "an HTTP answer was larger than a task may take in",
    "result_refused": "the result cannot be written to a file, or the server does not keep it",
    "result_too_large": "it has more than `worker.max_artifact_bytes`, or than a remote worker's "
    "server takes",
    "signal": "the command was ended by a signal",
    "subflow_failed": "the flow run of the task that it called failed or was cancelled",
    "task_deleted": "its task, or the one that it calls, was deleted before it started",
    "template": "a placeholder of its arguments cannot be filled in; it is not tried again",
    "too_many_items": "the list has more items than `map_over.max_items`",
    "unclaimed": "no worker took it in time; it goes back to the queue",
    "unpublished": "the queue did not confirm its message; it waits until the queue answers",
    "upstream": "what its upstream runs came to does not let it start any more",
    "worker_gone": "the worker that it was meant for takes no more; it goes to another",
    "worker_lost": "its worker is gone, and its lease with it",
}
EXIT_CODES = {
    app.OK: "it worked; the awaited run succeeded",
    app.FAILED: "it did not work; the awaited run failed; `diff` found a difference",
    app.USAGE: "the command line, a file or a value is wrong",
    app.NOT_FOUND: "there is no such task, run, worker, …",
    app.NOT_ALLOWED: "the server does not let you",
    app.CONFLICT: "the name is taken, or the thing is in a state that does not allow this",
    app.TIMED_OUT: "`--timeout` passed while waiting; the run goes on",
    app.UNREACHABLE: "no server answers",
    app.INTERRUPTED: "interrupted by Ctrl-C; the run goes on",
}


def pages() -> dict[Path, str]:
    """Each page and what it must say."""
    made = {
        "settings.md": settings_page(),
        "task-fields.md": task_page(),
        "runs.md": run_page(),
        "commands.md": command_page(),
    }
    return {FOLDER / name: f"{text.rstrip()}\n" for name, text in made.items()}


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Flags are stronger than the environment, then come `tidemill.toml` (`--config`, "
        "`TIDEMILL_CONFIG`), the profile in it that `TIDEMILL_ENV` names (`[profiles.NAME]`), and "
        "the defaults below. `TIDEMILL_SECTION__KEY` sets `section.key`, "
        "`TIDEMILL_SECTION__KEY_FILE` reads it from a file; lists and tables are written as JSON. "
        "An unknown key is an error that names the nearest known one. "
        "`tidemill config show` prints what is in force.",
    ]
    top = {name: field for name, field in Settings.model_fields.items() if not is_section(field)}
    lines += ["", *table(("key", "default", "values"), setting_rows(top))]
    for name, field in Settings.model_fields.items():
        if is_section(field):
            model = field.annotation
            assert model is not None
            lines += ["", f"## {name}", "", (model.__doc__ or "").strip(), ""]
            lines += table(("key", "default", "values"), setting_rows(model.model_fields))
    return "\n".join(lines)


def is_section(field: Any) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def setting_rows(fields: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        yield f"`{name}`", code(default), kind_of(field.annotation)


def task_page() -> str:
    lines = [
        "# Fields of a task",
        "",
        "As `tidemill apply` and the API take them. Only `name`, `executor` and `command` are "
        "required.",
        "",
        *table(("field", "default", "values", "meaning"), task_rows(TaskDefinition, "")),
        "",
        "`status` is `active` or `paused`; a file that does not say it leaves it as it is.",
    ]
    assert {status.value for status in TaskStatus} == {"active", "paused"}
    return "\n".join(lines)


def task_rows(struct: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(struct):
        kind = field.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from task_rows(kind, f"{field.name}.")
            continue
        name = prefix + field.name
        yield f"`{name}`", default_of(field), kind_of(kind), TASK_FIELDS[name]


def default_of(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return code(field.default_factory())
    if field.default is msgspec.NODEFAULT:
        return "as `executor`" if field.name == "task_type" else "required"
    return code(field.default)


def run_page() -> str:
    statuses = [
        (
            f"`{status}`",
            STATUSES[status],
            ", ".join(f"`{each}`" for each in RunStatus if each in TRANSITIONS[status])
            or "nothing: it is final",
        )
        for status in RunStatus
    ]
    assert {status for status in RunStatus if not TRANSITIONS[status]} == FINAL
    reasons = [(f"`{reason}`", meaning) for reason, meaning in sorted(REASONS.items())]
    return "\n".join(
        [
            "# Statuses and reasons of a run",
            "",
            *table(("status", "meaning", "may become"), statuses),
            "",
            "## Reasons",
            "",
            "`reason` says in one code why a run is where it is. A task of your own executor may "
            "give others.",
            "",
            *table(("reason", "meaning"), reasons),
        ]
    )


def command_page() -> str:
    lines = [
        "# Commands and exit codes",
        "",
        "`tidemill COMMAND --help` shows the options of each. The server is the one of `--server`, "
        "`TIDEMILL_SERVER`, the current context (`tidemill context use`), or "
        "`http://127.0.0.1:8080`. Data goes to stdout as `-o table|json|jsonl|yaml|name` has it, "
        "messages to stderr; there is no colour off a terminal or with `NO_COLOR`.",
        "",
        *table(("command", "what it does"), command_rows()),
        "",
        "## Exit codes",
        "",
        *table(("code", "meaning"), [(str(code), says) for code, says in EXIT_CODES.items()]),
    ]
    return "\n".join(lines)


def command_rows() -> Iterator[tuple[str, ...]]:
    for verb, place in app.VERBS.items():
        yield f"`{verb}`", first_line(place)
    for noun, (_, verbs) in app.NOUNS.items():
        for verb, place in verbs.items():
            yield f"`{noun} {verb}`", first_line(place)


def first_line(place: str) -> str:
    module, _, function = place.partition(":")
    found = getattr(import_module(f"tidemill.cli.{module}"), function)
    return (found.__doc__ or "").strip().splitlines()[0]


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def code(value: Any) -> str:
    if isinstance(value, BaseModel | msgspec.Struct):
        value = msgspec.to_builtins(value)
    return f"`{json.dumps(value)}`"


def kind_of(kind: Any) -> str:
    """A type in words."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return kind_of(typing.get_args(kind)[0])
    if origin is Literal:
        return " ".join(f"`{value}`" for value in typing.get_args(kind))
    if origin in {typing.Union, UnionType}:
        return " or ".join(kind_of(each) for each in typing.get_args(kind))
    if origin is list:
        return f"list of {kind_of(typing.get_args(kind)[0])}"
    if origin is dict:
        return "table"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " ".join(f"`{value}`" for value in kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "table"
    names = {str: "text", int: "whole number", float: "number", bool: "`true` `false`"}
    names |= {type(None): "`null`", datetime: "instant", Any: "anything"}
    return names[kind]


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)
