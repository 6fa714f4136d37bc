"""Where a run is, and which status may follow which.

Every status change in the product goes through `TRANSITIONS`; the store repeats the expected
status in each UPDATE, so that a change that lost a race changes nothing.
"""

from enum import StrEnum


class RunStatus(StrEnum):
    """Where a run is."""

    WAITING = "waiting"  # for upstream runs of its flow run
    PENDING = "pending"  # may start once its time has come and the limits allow
    DISPATCHED = "dispatched"  # handed to the queue
    RUNNING = "running"  # a worker holds its lease, or it waits for the task that it called
    RETRYING = "retrying"  # its next attempt is planned
    CANCELLING = "cancelling"  # its worker was asked to end it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"  # fired, but was never to start; the reason says why


_S = RunStatus

FINAL = frozenset({_S.SUCCEEDED, _S.FAILED, _S.TIMED_OUT, _S.CANCELLED, _S.SKIPPED})
FAILURES = frozenset({_S.FAILED, _S.TIMED_OUT})
UNFINISHED = frozenset(_S) - FINAL
LEASED = frozenset({_S.RUNNING, _S.CANCELLING})  # a worker holds the right to it
NOT_STARTED = frozenset({_S.WAITING, _S.PENDING, _S.DISPATCHED, _S.RETRYING})

TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    _S.WAITING: frozenset({_S.PENDING, _S.SKIPPED, _S.CANCELLED, _S.TIMED_OUT}),
    _S.PENDING: frozenset({_S.DISPATCHED, _S.SKIPPED, _S.CANCELLED, _S.TIMED_OUT}),
    # Back to pending: its message was lost, its limit was reached, or a worker handed it back.
    _S.DISPATCHED: frozenset({_S.RUNNING, _S.PENDING, _S.SKIPPED, _S.CANCELLED, _S.TIMED_OUT}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.TIMED_OUT, _S.RETRYING, _S.CANCELLING}),
    _S.RETRYING: frozenset({_S.PENDING, _S.FAILED, _S.CANCELLED, _S.TIMED_OUT}),
    _S.CANCELLING: frozenset({_S.CANCELLED}),
} | {final: frozenset() for final in FINAL}


def may_follow(before: RunStatus, after: RunStatus) -> bool:
    """Whether a run may go from `before` to `after`."""
    return after in TRANSITIONS[before]
