"""What every task is told about its run, whatever its kind.

Only the standard library is used here: processes of a task's tree import this.
"""

import json
from datetime import datetime
from typing import Any, Protocol

_as_json = json.JSONEncoder(separators=(",", ":")).encode


class RunFacts(Protocol):
    """One attempt of one run, as a task may know it."""

    @property
    def run_id(self) -> int: ...
    @property
    def task_id(self) -> int: ...
    @property
    def task_name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def fence(self) -> int: ...
    @property
    def scheduled_for(self) -> datetime: ...
    @property
    def previous_success_at(self) -> datetime | None: ...
    @property
    def missed_count(self) -> int: ...
    @property
    def flow_run_id(self) -> str | None: ...
    @property
    def parameters(self) -> dict[str, Any]: ...
    @property
    def shard_index(self) -> int: ...
    @property
    def shard_total(self) -> int: ...
    @property
    def traceparent(self) -> str | None: ...


def as_environment(run: RunFacts) -> dict[str, str]:
    """The variables of a shell task."""
    variables = {
        "TIDEMILL_RUN_ID": str(run.run_id),
        "TIDEMILL_TASK_ID": str(run.task_id),
        "TIDEMILL_TASK_NAME": run.task_name,
        "TIDEMILL_NAMESPACE": run.namespace,
        "TIDEMILL_ATTEMPT": str(run.attempt),
        "TIDEMILL_FENCE": str(run.fence),
        "TIDEMILL_SCHEDULED_FOR": rfc3339(run.scheduled_for),
        "TIDEMILL_PREVIOUS_SUCCESS_AT": rfc3339(run.previous_success_at),
        "TIDEMILL_MISSED_COUNT": str(run.missed_count),
        "TIDEMILL_FLOW_RUN_ID": run.flow_run_id or "",
        "TIDEMILL_SHARD_INDEX": str(run.shard_index),
        "TIDEMILL_SHARD_TOTAL": str(run.shard_total),
        "TIDEMILL_PARAMETERS": _as_json(run.parameters) if run.parameters else "{}",
    }
    if run.traceparent:
        variables["TRACEPARENT"] = run.traceparent
    return variables


def as_headers(run: RunFacts) -> dict[str, str]:
    """The headers of an HTTP task: the same facts, spelt `Tidemill-Run-Id`."""
    return {_header(variable): value for variable, value in as_environment(run).items()}


def _header(variable: str) -> str:
    return variable.replace("_", "-").title()


def rfc3339(instant: datetime | None) -> str:
    """UTC with milliseconds, or nothing."""
    return "" if instant is None else instant.isoformat(timespec="milliseconds")[:-6] + "Z"
