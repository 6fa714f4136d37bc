"""What every task is told about its run (CONTRACT §3), whatever its kind."""

import json
from datetime import datetime
from functools import cache

from tidemill.foundation.executor import Execution


def run_facts(execution: Execution) -> dict[str, str]:
    """Name → value; names are as in headers (`Run-Id`), to be spelt as each kind needs them."""
    return {
        "Run-Id": str(execution.run_id),
        "Task-Id": str(execution.task_id),
        "Task-Name": execution.task_name,
        "Namespace": execution.namespace,
        "Attempt": str(execution.attempt),
        "Fence": str(execution.fence),
        "Scheduled-For": rfc3339(execution.scheduled_for),
        "Previous-Success-At": rfc3339(execution.previous_success_at),
        "Missed-Count": str(execution.missed_count),
        "Flow-Run-Id": execution.flow_run_id or "",
        "Parameters": _parameters_of(execution),
    }


def run_environment(execution: Execution) -> dict[str, str]:
    """The variables of a shell task."""
    facts = {_variable(name): value for name, value in run_facts(execution).items()}
    return facts | ({"TRACEPARENT": execution.traceparent} if execution.traceparent else {})


def _parameters_of(execution: Execution) -> str:
    if not execution.parameters:
        return "{}"  # as most runs have it
    return json.dumps(execution.parameters, separators=(",", ":"))


@cache
def _variable(name: str) -> str:
    return f"TIDEMILL_{name.upper().replace('-', '_')}"


def rfc3339(instant: datetime | None) -> str:
    """UTC with milliseconds, or nothing."""
    return "" if instant is None else instant.isoformat(timespec="milliseconds")[:-6] + "Z"
