"""What a firing does while an earlier run of its task has not ended."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from tidemill.domain.misfire import PlannedFire
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import HOLDS_FOR_TASK, Hold

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


class OverlapPlan(msgspec.Struct, frozen=True):
    """What becomes of several firings of one task, and of the runs that it has already."""

    runs: list[tuple[PlannedFire, Hold | None]]
    skipped: list[PlannedFire]
    superseded: list[int]  # ids of runs that wait in vain: a newer one takes their place
    cancelled: list[int]  # ids of runs that are to be ended


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
        tuple(run.id for run in unfinished if run.hold not in HOLDS_FOR_TASK),
    )


def plan_overlaps(
    policy: OverlapPolicy, unfinished: Sequence[UnfinishedRun], fires: Sequence[PlannedFire]
) -> OverlapPlan:
    """What becomes of these firings, in order of time, as if each came alone.

    One that a later one of them takes the place of was never stored, so it is skipped.
    """
    if policy == "allow":
        return OverlapPlan([(fire, None) for fire in fires], [], [], [])
    open_runs = list(unfinished)
    planned: dict[int, tuple[PlannedFire, Hold | None]] = {}  # by ids below those of stored runs
    skipped: list[PlannedFire] = []
    superseded: dict[int, None] = {}
    cancelled: dict[int, None] = {}
    for place, fire in enumerate(fires, 1):
        decision = decide_overlap(policy, open_runs, is_catch_up=fire.is_catch_up)
        if decision.action == "skip":
            skipped.append(fire)
            continue
        gone = {*decision.supersede, *(each for each in decision.cancel if each in planned)}
        skipped += [planned.pop(each)[0] for each in sorted(gone & planned.keys(), reverse=True)]
        superseded |= dict.fromkeys(each for each in decision.supersede if each > 0)
        cancelled |= dict.fromkeys(each for each in decision.cancel if each > 0)
        open_runs = [run for run in open_runs if run.id not in gone]
        hold = decision.hold if open_runs else None
        planned[-place] = (fire, hold)
        kind = Hold.CATCH_UP if fire.is_catch_up else hold
        open_runs.append(UnfinishedRun(-place, 0, RunStatus.PENDING, kind))
    return OverlapPlan(list(planned.values()), skipped, list(superseded), list(cancelled))
