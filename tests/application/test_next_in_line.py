"""A worker with free slots claims what is next in line, without having been handed it."""

from datetime import timedelta
from typing import Any

import pytest

from tidemill.application.manage_workers import drain_worker
from tidemill.application.next_in_line import NextClaimed, claim_next
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Priority, StrategyChoice
from tidemill.foundation.wakeups import Topic
from tidemill.testing.builders import worker
from tidemill.testing.clock import START
from tidemill.testing.inline import LEASE, InlineScheduler


def look(scheduler: InlineScheduler, at_most: int = 10, worker_id: str = "worker-1") -> NextClaimed:
    itself = worker(worker_id, max_concurrent_tasks=at_most)
    return scheduler.do(claim_next, itself, at_most, LEASE, scheduler.strategies)


def ids(claimed: NextClaimed) -> list[int]:
    return sorted(each.run.id for each in claimed.runs)


def test_what_is_claimed_was_dispatched_and_has_all_that_it_needs(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    run = scheduler.trigger(scheduler.create(), parameters={"n": 1})
    [claimed] = look(scheduler).runs

    assert (claimed.run.id, claimed.run.attempt, claimed.run.fence) == (run.id, 1, 1)
    assert claimed.run.parameters == {"n": 1}
    stored = scheduler.run(run)
    assert (stored.status, stored.worker_id) == (RunStatus.RUNNING, "worker-1")
    assert stored.created_at <= stored.dispatched_at <= stored.started_at  # type: ignore[operator]
    told = [event.type.value for event in scheduler.events(claimed.run)]
    assert told == ["RunCreated", "RunDispatched", "RunStarted"]


def test_the_most_urgent_go_first(scheduler: InlineScheduler) -> None:
    scheduler.register()
    usual = [scheduler.trigger(scheduler.create(f"usual-{number}")) for number in range(2)]
    urgent = scheduler.trigger(scheduler.create("urgent", priority=Priority.HIGH))

    assert ids(look(scheduler, at_most=2)) == [usual[0].id, urgent.id]


def test_of_few_a_worker_takes_its_share(scheduler: InlineScheduler) -> None:
    for name in ("worker-1", "worker-2"):
        scheduler.register(name)
    task = scheduler.create(overlap="allow")
    runs = [scheduler.trigger(task) for _ in range(5)]
    first = look(scheduler)
    second = look(scheduler, worker_id="worker-2")

    assert (ids(first), first.has_more) == ([run.id for run in runs[:3]], True)
    assert (ids(second), second.has_more) == ([runs[3].id], True)
    last = look(scheduler)
    assert (ids(last), last.has_more) == ([runs[4].id], False)


def test_of_many_a_worker_takes_as_many_as_it_has_slots(scheduler: InlineScheduler) -> None:
    for name in ("worker-1", "worker-2"):
        scheduler.register(name)
    task = scheduler.create(overlap="allow")
    for _ in range(9):
        scheduler.trigger(task)

    claimed = look(scheduler, at_most=4)
    assert (len(claimed.runs), claimed.has_more) == (4, False)


@pytest.mark.parametrize("strategy", ["least_loaded", "broadcast"])
def test_what_a_strategy_is_asked_for_is_left_its_slot(
    scheduler: InlineScheduler, strategy: StrategyChoice
) -> None:
    scheduler.register()
    placed = scheduler.trigger(scheduler.create("placed", strategy=strategy))
    behind = scheduler.trigger(scheduler.create("behind"))

    assert ids(look(scheduler, at_most=1)) == []
    assert ids(look(scheduler, at_most=2)) == [behind.id]
    assert scheduler.run(placed).status is RunStatus.PENDING


def test_what_counts_against_a_key_is_left_to_the_dispatcher(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.trigger(scheduler.create("limited", concurrency=Concurrency("key", 1)))

    assert ids(look(scheduler)) == []


def test_what_is_for_others_is_not_taken(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.trigger(scheduler.create("elsewhere", queue="other"))

    assert ids(look(scheduler)) == []


def test_one_that_is_drained_claims_nothing(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.trigger(scheduler.create())
    scheduler.do(drain_worker, "worker-1")

    assert ids(look(scheduler)) == []


@pytest.mark.parametrize(
    ("fields", "wish", "topic"),
    [
        ({}, {}, Topic.CLAIMABLE),
        ({"strategy": "least_loaded"}, {}, Topic.READY),
        ({"concurrency": Concurrency("key", 1)}, {}, Topic.READY),
        ({}, {"run_at": START + timedelta(seconds=5)}, Topic.READY),
    ],
)
def test_only_those_are_woken_who_have_something_to_do(
    scheduler: InlineScheduler, fields: Any, wish: Any, topic: Topic
) -> None:
    task = scheduler.create(**fields)
    transactions: list[Any] = []

    def act(transaction: Any) -> None:
        transactions.append(transaction)
        trigger_runs(transaction, [TriggerRequest(task=task.id, **wish)])

    scheduler.do(act)
    assert transactions[-1].topics == {topic, Topic.EVENTS}
