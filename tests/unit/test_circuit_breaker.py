"""A part that is gone is asked by one call at a time, and the others are told at once."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tidemill.errors import Conflict, Unavailable
from tidemill.foundation.health import BreakerReading, BreakerState
from tidemill.infrastructure.resilience.circuit_breaker import (
    BreakerOptions,
    Call,
    CircuitBreaker,
)
from tidemill.testing.clock import FakeClock

OPTIONS = BreakerOptions(failure_threshold=3, reset_seconds=1, longest_reset_seconds=4)
CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> CircuitBreaker:
    return CircuitBreaker("message_queue", OPTIONS, clock)


def reach_nothing(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.note_failure(breaker.enter())


def wait(clock: FakeClock, seconds: float) -> None:
    clock.advance(timedelta(seconds=seconds))


def test_it_opens_when_enough_calls_in_a_row_reach_nothing(breaker: CircuitBreaker) -> None:
    reach_nothing(breaker, 2)
    breaker.note_answer(breaker.enter())
    reach_nothing(breaker, 2)
    assert breaker.state is CLOSED

    reach_nothing(breaker)
    assert breaker.state is OPEN


def test_it_says_what_does_not_answer_and_for_how_long_at_most(breaker: CircuitBreaker) -> None:
    reach_nothing(breaker, 3)

    with pytest.raises(Unavailable) as refusal:
        breaker.enter()
    assert str(refusal.value) == ("the message queue does not answer; it is asked again within 4 s")
    assert not refusal.value.was_reached


def test_one_call_goes_through_when_its_pause_is_over(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    wait(clock, 0.999)
    assert breaker.state is OPEN
    wait(clock, 0.001)
    assert breaker.state is HALF_OPEN

    probe = breaker.enter()
    for _ in range(3):
        with pytest.raises(Unavailable):
            breaker.enter()
    breaker.note_answer(probe)
    assert breaker.state is CLOSED
    assert breaker.enter() is not breaker.enter()


def test_its_pause_doubles_up_to_the_longest_while_nothing_is_reached_and_then_begins_anew(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    for pause in (1, 2, 4, 4):
        wait(clock, pause - 0.001)
        assert breaker.state is OPEN
        wait(clock, 0.001)
        reach_nothing(breaker)
    wait(clock, 4)
    breaker.note_answer(breaker.enter())

    reach_nothing(breaker, 3)
    wait(clock, 1)
    assert breaker.state is HALF_OPEN


def test_what_comes_of_a_call_counts_no_more_when_others_found_out_before(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    late = [breaker.enter() for _ in range(6)]
    for call in late[:3]:
        breaker.note_failure(call)
    breaker.note_answer(late[3])
    assert breaker.state is OPEN

    wait(clock, 1)
    probe = breaker.enter()
    breaker.note_failure(late[4])
    assert breaker.state is HALF_OPEN
    breaker.note_answer(probe)
    reach_nothing(breaker, 2)
    breaker.note_failure(late[5])
    assert breaker.state is CLOSED


def test_a_probe_that_is_given_up_leaves_room_for_the_next(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    wait(clock, 1)
    breaker.give_up(breaker.enter())

    breaker.note_answer(breaker.enter())
    assert breaker.state is CLOSED


def test_it_counts_how_often_it_opened_and_what_it_refused(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    for _ in range(2):
        with pytest.raises(Unavailable):
            breaker.enter()
    wait(clock, 1)
    reach_nothing(breaker)

    assert breaker.read() == BreakerReading("message_queue", OPEN, openings=1, refusals=2)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (Unavailable("silence", was_reached=False), True),
        (Unavailable("its disk is full"), False),
        (Conflict("the name is taken"), False),
        (ZeroDivisionError(), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_only_what_was_not_reached_counts(
    breaker: CircuitBreaker, error: BaseException, counts: bool
) -> None:
    for _ in range(3):
        with pytest.raises(type(error)), breaker.call():
            raise error

    assert (breaker.state is OPEN) is counts


@pytest.mark.parametrize("error", [Unavailable("full"), Conflict(""), asyncio.CancelledError()])
def test_a_probe_that_ends_with_another_error_leaves_room_for_the_next(
    breaker: CircuitBreaker, clock: FakeClock, error: BaseException
) -> None:
    reach_nothing(breaker, 3)
    wait(clock, 1)
    with pytest.raises(type(error)), breaker.call():
        raise error
    assert breaker.state is HALF_OPEN

    with breaker.call():
        pass
    assert breaker.state is CLOSED


def test_others_go_through_as_soon_as_a_probe_is_answered_and_not_only_when_it_ends(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    wait(clock, 1)
    with breaker.call() as call:
        call.is_answered()
        assert breaker.state is CLOSED


async def test_of_many_tasks_that_wait_one_asks_and_the_others_are_told_at_once(
    breaker: CircuitBreaker, clock: FakeClock
) -> None:
    reach_nothing(breaker, 3)
    wait(clock, 1)
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def use() -> str:
        with breaker.call():
            asked.set()
            await may_answer.wait()
        return "answered"

    tasks = [asyncio.create_task(use()) for _ in range(20)]
    await asked.wait()
    told, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    while len(waiting) > 1:
        more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        told |= more
    may_answer.set()

    assert [await each for each in waiting] == ["answered"]
    assert {type(each.exception()) for each in told} == {Unavailable}
    assert breaker.state is CLOSED


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Calls begin and end in any order, and time passes."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("database", OPTIONS, self.clock)
        self.under_way: set[Call] = set()
        self.since_open: set[Call] = set()

    @rule(target=calls)
    def enter(self) -> Call | None:
        before = self.breaker.state
        try:
            call = self.breaker.enter()
        except Unavailable:
            assert before is not CLOSED
            assert before is OPEN or self.since_open & self.under_way
            return None
        assert before is not OPEN
        self.under_way.add(call)
        if before is HALF_OPEN:
            self.since_open.add(call)
        return call

    @rule(call=consumes(calls), end=st.sampled_from(["note_answer", "note_failure", "give_up"]))
    def end(self, call: Call | None, end: str) -> None:
        if call is None:
            return
        before, is_probe = self.breaker.state, call in self.since_open
        getattr(self.breaker, end)(call)
        self.under_way.discard(call)
        after = self.breaker.state
        if before is not CLOSED and not is_probe:
            assert after is before
        if before is CLOSED and after is not CLOSED:
            assert (end, after) == ("note_failure", OPEN)
        if after is CLOSED and before is not CLOSED:
            assert end == "note_answer"

    @rule(seconds=st.sampled_from([0.5, 1, 2, 4]))
    def time_passes(self, seconds: float) -> None:
        is_closed = self.breaker.state is CLOSED
        wait(self.clock, seconds)
        assert (self.breaker.state is CLOSED) is is_closed
        if seconds >= OPTIONS.longest_reset_seconds:
            assert self.breaker.state is not OPEN

    @invariant()
    def one_call_at_most_finds_out(self) -> None:
        if self.breaker.state is CLOSED:
            self.since_open.clear()
        assert len(self.since_open & self.under_way) <= 1


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=50, deadline=None)
