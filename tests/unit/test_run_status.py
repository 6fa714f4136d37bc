"""Which status may follow which, as the semantics draw it."""

import pytest

from tidemill.domain.events import EventType
from tidemill.domain.new_run import fired_run
from tidemill.domain.run_status import FINAL, LEASED, NOT_STARTED, UNFINISHED, RunStatus, may_follow
from tidemill.domain.task_run import AGEING_STEP, move, rank_of
from tidemill.testing.builders import task
from tidemill.testing.clock import START

# Written down a second time, from the drawing.
DRAWN = """
waiting    -> pending skipped cancelled timed_out
pending    -> dispatched skipped cancelled timed_out
dispatched -> running pending skipped cancelled timed_out
running    -> succeeded failed timed_out retrying cancelling
retrying   -> pending failed cancelled timed_out
cancelling -> cancelled
"""


def drawn() -> dict[RunStatus, set[RunStatus]]:
    found: dict[RunStatus, set[RunStatus]] = {status: set() for status in RunStatus}
    for line in DRAWN.strip().splitlines():
        before, _, after = line.partition("->")
        found[RunStatus(before.strip())] = {RunStatus(each) for each in after.split()}
    return found


@pytest.mark.parametrize("before", RunStatus)
def test_a_status_is_followed_by_those_that_the_drawing_names(before: RunStatus) -> None:
    assert {after for after in RunStatus if may_follow(before, after)} == drawn()[before]


def test_final_statuses_never_change_and_the_others_can() -> None:
    assert {before for before, after in drawn().items() if not after} == FINAL
    assert set(RunStatus) == FINAL | UNFINISHED
    assert LEASED | NOT_STARTED == UNFINISHED
    assert not LEASED & NOT_STARTED


def test_every_unfinished_status_can_come_to_an_end() -> None:
    reachable = set(FINAL)
    while more := {s for s, after in drawn().items() if after & reachable} - reachable:
        reachable |= more

    assert reachable == set(RunStatus)


def test_a_move_that_is_not_drawn_is_refused() -> None:
    run = fired_run(task(), START, START)
    with pytest.raises(ValueError, match="pending to succeeded"):
        move(run, RunStatus.SUCCEEDED, START, EventType.RUN_FINISHED)


def test_five_minutes_of_waiting_are_worth_one_level_of_priority() -> None:
    assert rank_of(START, 1) == rank_of(START - AGEING_STEP, 0)
    assert rank_of(START, 3) < rank_of(START, 0)
    assert AGEING_STEP.total_seconds() == 300
