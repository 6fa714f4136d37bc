"""Ready runs are handed to the queue."""

from datetime import timedelta

import pytest

from tidemill.domain.gates import PREFETCH
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Priority, Retry
from tidemill.domain.task_run import Hold
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def handed_over(scheduler: InlineScheduler) -> list[str]:
    """The names of the tasks whose runs are dispatched now, in the order of the messages."""
    messages = scheduler.dispatch().messages
    return [scheduler.run(run_id).task_name for each in messages for run_id in each.run_ids]


def test_a_ready_run_is_handed_over_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    scheduler.trigger(scheduler.create())

    assert handed_over(scheduler) == ["a-task"]
    assert handed_over(scheduler) == []


def test_the_more_urgent_goes_first_and_the_older_among_equals(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register(max_concurrent_tasks=10)
    for name, priority in (("low", Priority.LOW), ("old", Priority.NORMAL)):
        scheduler.trigger(scheduler.create(name, priority=priority))
    scheduler.pass_time(1)
    for name, priority in (("young", Priority.NORMAL), ("critical", Priority.CRITICAL)):
        scheduler.trigger(scheduler.create(name, priority=priority))

    assert handed_over(scheduler) == ["critical", "old", "young", "low"]


def test_waiting_five_minutes_is_worth_one_level(scheduler: InlineScheduler) -> None:
    scheduler.trigger(scheduler.create("waited", priority=Priority.LOW))
    scheduler.pass_time(299)
    scheduler.trigger(scheduler.create("normal-at-299", priority=Priority.NORMAL))
    scheduler.pass_time(2)
    scheduler.trigger(scheduler.create("normal-at-301", priority=Priority.NORMAL))
    scheduler.register()

    assert handed_over(scheduler) == ["normal-at-299", "waited", "normal-at-301"]


def test_no_more_is_handed_over_than_workers_have_use_for(scheduler: InlineScheduler) -> None:
    scheduler.register(max_concurrent_tasks=2)
    task = scheduler.create()
    for _ in range(10):
        scheduler.trigger(task)

    assert len(handed_over(scheduler)) == 2 * PREFETCH
    first, second, third, fourth = scheduler.runs()[:4]
    held = [scheduler.claim(run.id)[0].run for run in (first, second)]
    assert handed_over(scheduler) == []  # as many wait as the worker has slots
    scheduler.record(held.pop())
    held += [scheduler.claim(run.id)[0].run for run in (third, fourth)]
    assert handed_over(scheduler) == []  # it is full: it goes on by itself
    scheduler.record(held.pop())
    assert handed_over(scheduler) == []  # still: it has more than it has slots for
    scheduler.record(held.pop())
    assert len(handed_over(scheduler)) == 3


def test_a_lane_that_nobody_serves_hides_no_other(scheduler: InlineScheduler) -> None:
    elsewhere = scheduler.create("elsewhere", queue="other", priority=Priority.CRITICAL)
    selected = scheduler.create("selected", worker_selector={"zone": "eu"})
    for task in (elsewhere, selected):
        for _ in range(20):
            scheduler.trigger(task)
    scheduler.trigger(scheduler.create())
    scheduler.register()

    assert handed_over(scheduler) == ["a-task"]
    scheduler.register("worker-2", labels={"zone": "eu", "disk": "ssd"}, max_concurrent_tasks=1)
    assert handed_over(scheduler) == ["selected"] * PREFETCH


def test_a_full_key_keeps_its_runs_back_and_hides_no_others(scheduler: InlineScheduler) -> None:
    scheduler.register(max_concurrent_tasks=2)
    limited = scheduler.create("limited", concurrency=Concurrency("key", 1))
    for _ in range(6):
        scheduler.trigger(limited)
    scheduler.pass_time(1)
    scheduler.trigger(scheduler.create("behind"))

    rounds = [scheduler.dispatch() for _ in range(6)]
    names = [
        scheduler.run(run_id).task_name
        for each in rounds
        for message in each.messages
        for run_id in message.run_ids
    ]
    assert names == ["limited", "behind"]
    assert rounds[0].has_more  # the loop looks again at once
    assert not rounds[-1].has_more
    assert [run.hold for run in scheduler.runs()[1:6]] == [Hold.LIMIT] * 5


def test_a_limit_counts_what_waits_in_the_queue_too(scheduler: InlineScheduler) -> None:
    scheduler.register()
    for name in ("one", "two"):
        scheduler.trigger(scheduler.create(name, concurrency=Concurrency("shared", 1)))
    assert handed_over(scheduler) == ["one"]
    first, second = scheduler.runs()
    scheduler.record(scheduler.claim(first.id)[0].run)

    assert scheduler.run(second).hold is None
    assert handed_over(scheduler) == ["two"]


def test_a_limit_without_a_key_is_the_tasks_own(scheduler: InlineScheduler) -> None:
    scheduler.register()
    for name in ("one", "two"):
        task = scheduler.create(name, concurrency=Concurrency(limit=1))
        scheduler.trigger(task)
        scheduler.trigger(task)

    assert handed_over(scheduler) == ["one", "two"]


def test_a_retry_becomes_ready_when_its_time_has_come(scheduler: InlineScheduler) -> None:
    scheduler.register()
    retry = Retry(max_retries=1, delay_seconds=30, jitter=False)
    run = scheduler.trigger(scheduler.create(retry=retry))
    scheduler.record(scheduler.start(run), failure("exit_code", "exit code 1", exit_code=1))
    waiting = scheduler.dispatch()
    assert waiting.messages == []
    assert waiting.next_ready_at == START + timedelta(seconds=30)
    scheduler.pass_time(30)

    assert handed_over(scheduler) == ["a-task"]
    assert scheduler.run(run).status is RunStatus.DISPATCHED


def test_a_draining_worker_makes_no_room(scheduler: InlineScheduler) -> None:
    scheduler.trigger(scheduler.create())
    assert handed_over(scheduler) == []
    scheduler.register()

    assert handed_over(scheduler) == ["a-task"]


@pytest.mark.parametrize("strategy", [None, "round_robin"])
def test_a_message_tells_the_attempts_of_its_runs_and_the_trace_that_all_of_them_share(
    scheduler: InlineScheduler, strategy: str | None
) -> None:
    scheduler.register(max_concurrent_tasks=10)
    retry = Retry(max_retries=1, delay_seconds=1, jitter=False)
    task = scheduler.create(strategy=strategy, retry=retry)
    traced = scheduler.trigger(task, traceparent=TRACE)
    [message] = scheduler.dispatch().messages
    assert (message.attempts, message.traceparent) == ((1,), TRACE)
    scheduler.record(scheduler.claim(traced.id)[0].run, failure("exit_code", "1", exit_code=1))
    scheduler.pass_time(2)
    [message] = scheduler.dispatch().messages
    assert (message.attempts, message.traceparent) == ((2,), TRACE)
    scheduler.trigger(task, traceparent=TRACE)
    scheduler.trigger(task)
    [message] = scheduler.dispatch().messages

    assert (message.attempts, message.traceparent) == ((1, 1), None)


def test_runs_are_dealt_to_as_many_workers_as_serve_them_the_most_urgent_first(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register("worker-1", max_concurrent_tasks=2)
    scheduler.register("worker-2", max_concurrent_tasks=2)
    task = scheduler.create()
    runs = [scheduler.trigger(task).id for _ in range(4)]
    assert [each.run_ids for each in scheduler.dispatch().messages] == [
        (runs[0], runs[2]),
        (runs[1], runs[3]),
    ]
    for run_id in runs:
        scheduler.record(scheduler.claim(run_id)[0].run)
    runs = [scheduler.trigger(task).id for _ in range(8)]

    # More than all have slots for: in hands that are small enough for whoever has room first.
    dealt = [each.run_ids for each in scheduler.dispatch().messages]
    assert dealt == [(runs[number], runs[number + 4]) for number in range(4)]
