"""A worker that was full goes on with what waits, in the transaction of its report."""

from typing import Any

import pytest

from tidemill.application.go_on import report_and_go_on, report_and_make_room
from tidemill.application.manage_workers import drain_worker
from tidemill.domain.events import EventType
from tidemill.domain.outcome import success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Priority, StrategyChoice
from tidemill.domain.task_run import LeasedRun, TaskRun
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.wakeups import Topic
from tidemill.testing.builders import worker
from tidemill.testing.inline import LEASE, InlineScheduler


class Full:
    """A worker with two slots, both taken; what it reports, and whom that wakes."""

    def __init__(self, scheduler: InlineScheduler) -> None:
        self.scheduler = scheduler
        scheduler.register(max_concurrent_tasks=2)
        first = scheduler.create("first", overlap="allow")
        runs = [scheduler.trigger(first) for _ in range(2)]
        scheduler.dispatch()
        self.held = [scheduler.claim(run.id)[0].run for run in runs]
        self.topics: set[Topic] = set()

    def report(self, *ended: LeasedRun, free: int | None = None) -> list[int]:
        """The runs that it goes on with; `free` are its slots, those of what ended among them."""
        endings = [AttemptReport(run.id, run.fence, "itself", success(), 0) for run in ended]

        def act(transaction: Any) -> list[Any]:
            at_most = len(ended) if free is None else free
            claimed = report_and_go_on(
                transaction,
                [],
                endings,
                worker(max_concurrent_tasks=2),
                at_most,
                LEASE,
                self.scheduler.strategies,
                was_full=at_most <= len(ended),
            )
            self.topics = set(transaction.topics)
            return claimed

        return [each.run.id for each in self.scheduler.do(act)]


@pytest.fixture
def full(scheduler: InlineScheduler) -> Full:
    return Full(scheduler)


def waiting(full: Full, name: str, **fields: Any) -> TaskRun:
    """A ready run of a task of its own; it became ready a second after the one before."""
    full.scheduler.pass_time(1)
    return full.scheduler.trigger(full.scheduler.create(name, **fields))


def test_it_takes_what_should_start_first_as_much_as_it_has_slots_for(full: Full) -> None:
    usual = [waiting(full, f"usual-{number}") for number in range(3)]
    urgent = waiting(full, "urgent", priority=Priority.HIGH)

    assert set(full.report(*full.held)) == {urgent.id, usual[0].id}
    assert Topic.READY not in full.topics
    run = full.scheduler.run(urgent)
    assert (run.status, run.worker_id) == (RunStatus.RUNNING, "worker-1")
    told = [event.type for event in full.scheduler.events(full.scheduler.run(urgent))]
    assert told == [EventType.RUN_CREATED, EventType.RUN_DISPATCHED, EventType.RUN_STARTED]


def test_lanes_that_it_serves_are_one_line(full: Full) -> None:
    waiting(full, "elsewhere", queue="other")
    selected = waiting(full, "selected", worker_selector={"disk": "ssd"})
    usual, behind = waiting(full, "usual"), waiting(full, "behind")

    assert set(full.report(*full.held)) == {usual.id, behind.id}
    assert full.scheduler.run(selected).status is RunStatus.PENDING


def test_one_that_has_slots_free_leaves_what_waits_to_the_dispatcher(full: Full) -> None:
    run = waiting(full, "waits")
    first, second = full.held
    assert full.report(first) == [run.id]

    late = waiting(full, "late")
    assert full.report(second, free=2) == []
    assert full.scheduler.run(late).status is RunStatus.PENDING


def test_nothing_passes_a_run_that_somebody_else_has_to_dispatch(full: Full) -> None:
    before = waiting(full, "before")
    limited = waiting(full, "limited", concurrency=Concurrency("key", 1))
    behind = waiting(full, "behind")

    assert full.report(*full.held) == [before.id]
    assert Topic.READY in full.topics  # a slot is left for it
    assert [full.scheduler.run(run).status for run in (limited, behind)] == [RunStatus.PENDING] * 2
    dispatched = [run for each in full.scheduler.dispatch().messages for run in each.run_ids]
    assert dispatched == [limited.id, behind.id]


@pytest.mark.parametrize("strategy", ["least_loaded", "broadcast", "round_robin"])
def test_a_run_whose_strategy_is_asked_keeps_its_slot(full: Full, strategy: StrategyChoice) -> None:
    placed = waiting(full, "placed", strategy=strategy)
    behind = waiting(full, "behind")
    last = waiting(full, "last")

    assert full.report(*full.held) == [behind.id]
    assert Topic.READY in full.topics
    waits = [full.scheduler.run(run).status for run in (placed, last)]
    assert waits == [RunStatus.PENDING] * 2


def test_the_strategy_of_whoever_names_none_is_asked_too(full: Full) -> None:
    full.scheduler.strategies.set_default("broadcast")
    waiting(full, "for-all")

    assert full.report(*full.held) == []


def test_what_is_overdue_is_neither_taken_nor_waited_for(full: Full) -> None:
    overdue = waiting(full, "overdue", deadline_seconds=5)
    full.scheduler.pass_time(10)
    behind = waiting(full, "behind")

    assert full.report(*full.held) == [behind.id]
    assert full.scheduler.run(overdue).status is RunStatus.PENDING


def test_a_slot_that_is_left_wakes_the_dispatcher(full: Full) -> None:
    assert full.report(*full.held) == []
    assert Topic.READY in full.topics


def test_one_that_is_drained_takes_nothing(full: Full) -> None:
    waiting(full, "waits")
    full.scheduler.do(drain_worker, "worker-1")

    assert full.report(*full.held) == []


def test_whoever_does_not_go_on_by_itself_is_handed_the_next(full: Full) -> None:
    run = waiting(full, "waits")
    assert full.scheduler.dispatch().messages == []
    first, _ = full.held
    ending = AttemptReport(first.id, first.fence, "itself", success(), 0)
    topics: set[Topic] = set()

    def act(transaction: Any) -> None:
        report_and_make_room(transaction, [], [ending])
        topics.update(transaction.topics)

    full.scheduler.do(act)
    assert Topic.READY in topics
    assert [each.run_ids for each in full.scheduler.dispatch().messages] == [(run.id,)]


def test_a_lease_begins_with_the_claim(full: Full) -> None:
    run = waiting(full, "waits")
    full.scheduler.pass_time(3)
    full.report(full.held[0])

    found = full.scheduler.run(run)
    assert found.lease_expires_at == full.scheduler.clock.now() + LEASE
    assert found.attempt == found.fence == 1
