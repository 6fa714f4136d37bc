"""What a firing does while an earlier run of its task has not ended."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Hold

OverlapPolicy = Literal["allow", "skip", "queue", "cancel_running"]


class UnfinishedRun(msgspec.Struct, frozen=True):
    """As much of an unfinished run as the rule needs."""

    id: int
    task_id: int
    status: RunStatus
    hold: Hold | None


class OverlapDecision(msgspec.Struct, frozen=True):
    """Start, skip or hold the new run; `supersede` are skipped and `cancel` ended for it."""

    action: Literal["start", "skip", "hold"]
    hold: Hold | None = None
    supersede: tuple[int, ...] = ()
    cancel: tuple[int, ...] = ()


START = OverlapDecision("start")


def decide_overlap(
    policy: OverlapPolicy, unfinished: Sequence[UnfinishedRun], *, is_catch_up: bool = False
) -> OverlapDecision:
    """What becomes of a new firing, given the task's unfinished runs.

    Runs that `run_all` catches up wait for one another, whatever the policy says about firings
    that meet by themselves: a rule that asks for every missed run must not skip them for overlap.
    """
    if policy == "allow" or not unfinished:
        return START
    if is_catch_up:
        return OverlapDecision("hold", Hold.CATCH_UP)
    if policy == "skip":
        return OverlapDecision("skip")
    superseded = tuple(run.id for run in unfinished if run.hold is Hold.OVERLAP)
    if policy == "queue":
        return OverlapDecision("hold", Hold.OVERLAP, superseded)
    return OverlapDecision(
        "hold",
        Hold.OVERLAP,
        superseded,
        tuple(run.id for run in unfinished if run.hold is not Hold.OVERLAP),
    )
