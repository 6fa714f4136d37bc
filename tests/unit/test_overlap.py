"""What a firing does while an earlier run of its task has not ended."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.misfire import PlannedFire
from tidemill.domain.overlap import (
    OverlapPolicy,
    UnfinishedRun,
    decide_overlap,
    plan_overlaps,
)
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Hold
from tidemill.testing.clock import START

POLICIES: tuple[OverlapPolicy, ...] = ("allow", "skip", "queue", "cancel_running")

RUNNING = UnfinishedRun(1, 7, RunStatus.RUNNING, None)
QUEUED = UnfinishedRun(2, 7, RunStatus.PENDING, Hold.OVERLAP)
CAUGHT_UP = UnfinishedRun(3, 7, RunStatus.PENDING, Hold.CATCH_UP)


def fires(count: int, *, catch_up: bool = False) -> list[PlannedFire]:
    return [PlannedFire(START + timedelta(seconds=n), 0, catch_up) for n in range(count)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_firing_that_nothing_stands_in_the_way_of_starts(policy: OverlapPolicy) -> None:
    assert decide_overlap(policy, []).action == "start"


def test_allow_starts_beside_what_runs() -> None:
    assert decide_overlap("allow", [RUNNING]).action == "start"


def test_skip_skips_while_a_run_has_not_ended() -> None:
    assert decide_overlap("skip", [RUNNING]).action == "skip"


def test_queue_keeps_the_newest_waiting_and_lets_the_running_one_be() -> None:
    decision = decide_overlap("queue", [RUNNING, QUEUED])

    assert (decision.action, decision.hold) == ("hold", Hold.OVERLAP)
    assert decision.supersede == (QUEUED.id,)
    assert decision.cancel == ()


def test_cancel_running_ends_what_runs_and_supersedes_what_waits() -> None:
    decision = decide_overlap("cancel_running", [RUNNING, QUEUED, CAUGHT_UP])

    assert decision.supersede == (QUEUED.id,)
    assert decision.cancel == (RUNNING.id,)  # a run made up for is never given up for a newer one


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel_running"])
def test_a_run_made_up_for_waits_whatever_the_policy(policy: OverlapPolicy) -> None:
    decision = decide_overlap(policy, [RUNNING], is_catch_up=True)

    assert (decision.action, decision.hold) == ("hold", Hold.CATCH_UP)
    assert decision.cancel == ()


@pytest.mark.parametrize(
    ("policy", "runs", "skipped"),
    [
        ("allow", [(0, None), (1, None), (2, None)], []),
        ("skip", [(0, None)], [1, 2]),
        ("queue", [(0, None), (2, Hold.OVERLAP)], [1]),
        ("cancel_running", [(2, None)], [0, 1]),
    ],
)
def test_several_firings_at_once_come_to_what_they_would_come_to_alone(
    policy: OverlapPolicy, runs: list[tuple[int, Hold | None]], skipped: list[int]
) -> None:
    due = fires(3)
    plan = plan_overlaps(policy, [], due)

    assert plan.runs == [(due[n], hold) for n, hold in runs]
    assert plan.skipped == [due[n] for n in skipped]


def test_several_firings_cancel_the_running_one_once_and_leave_one_successor() -> None:
    due = fires(3)
    plan = plan_overlaps("cancel_running", [RUNNING, QUEUED], due)

    assert plan.runs == [(due[2], Hold.OVERLAP)]
    assert plan.cancelled == [RUNNING.id]
    assert plan.superseded == [QUEUED.id]


def test_firings_in_time_do_not_take_the_place_of_those_made_up_for() -> None:
    missed, due = fires(2, catch_up=True), fires(2)
    plan = plan_overlaps("cancel_running", [], [*missed, *due])

    assert plan.runs == [
        (missed[0], None),
        (missed[1], Hold.CATCH_UP),
        (due[1], Hold.OVERLAP),
    ]
    assert plan.skipped == [due[0]]
    assert plan.cancelled == []


@given(
    policy=st.sampled_from(POLICIES),
    # Nothing waits for a run of its task while there is none.
    unfinished=st.sampled_from(
        [[], [RUNNING], [RUNNING, QUEUED], [RUNNING, CAUGHT_UP], [RUNNING, QUEUED, CAUGHT_UP]]
    ),
    missed=st.integers(0, 4),
    due=st.integers(0, 6),
)
def test_every_firing_is_run_or_skipped_and_no_more_than_one_starts_at_once(
    policy: OverlapPolicy, unfinished: list[UnfinishedRun], missed: int, due: int
) -> None:
    given = [*fires(missed, catch_up=True), *fires(due)]
    plan = plan_overlaps(policy, unfinished, given)

    accounted = [fire for fire, _ in plan.runs] + plan.skipped
    assert sorted(map(repr, accounted)) == sorted(map(repr, given))
    assert {fire for fire, _ in plan.runs} >= {fire for fire in given if fire.is_catch_up}
    starts = [fire for fire, hold in plan.runs if hold is None]
    waits = [fire for fire, hold in plan.runs if hold is Hold.OVERLAP]
    stays_open = bool({run.id for run in unfinished} - set(plan.superseded))
    if policy == "allow":
        assert plan.runs == [(fire, None) for fire in given]
    else:
        assert len(starts) == (0 if stays_open or not given else 1)
        assert len(waits) <= 1
