"""How an attempt ended, as a value.

What a task raises becomes an outcome in exactly one place: its executor.
"""

from typing import Any

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """What an executor reports of one attempt.

    `reason` is one stable code (`exit_code`, `exception`, `http_status`, …) and None on success;
    `result` is JSON-compatible and None unless the task gave one; `exit_code` is the process's,
    or minus the signal number that ended it.
    """

    succeeded: bool
    reason: str | None = None
    error_message: str | None = None
    exit_code: int | None = None
    result: Any = None
    exception_type: str | None = None  # dotted name, for retry.retry_on


def success(result: Any = None, exit_code: int | None = None) -> Outcome:
    """The attempt did what was asked."""
    return Outcome(succeeded=True, result=result, exit_code=exit_code)


def failure(
    reason: str,
    error_message: str,
    *,
    exit_code: int | None = None,
    exception_type: str | None = None,
) -> Outcome:
    """The attempt ended without doing what was asked, for `reason`."""
    return Outcome(
        succeeded=False,
        reason=reason,
        error_message=error_message,
        exit_code=exit_code,
        exception_type=exception_type,
    )
