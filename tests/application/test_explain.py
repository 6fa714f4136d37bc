"""What is explained is what the loops decide."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.manage_workers import drain_worker
from tidemill.application.pause_task import pause_task
from tidemill.application.queries.explain import explain, explain_firing
from tidemill.domain.gates import PREFETCH, Explanation
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Misfire, Priority, Task
from tidemill.domain.task_run import TaskRun
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler

GATES = [
    "status", "enabled", "schedule", "misfire", "overlap", "dependencies", "concurrency", "rate",
    "quota", "not_before", "worker", "priority",
]  # fmt: skip


def explained(scheduler: InlineScheduler, run: TaskRun) -> Explanation:
    now = scheduler.run(run)
    return scheduler.look(lambda reads: explain(reads, now, scheduler.strategies))


def firing(scheduler: InlineScheduler, task: Task, seconds: float) -> Explanation:
    now = scheduler.task(task)
    at = START + timedelta(seconds=seconds)
    return scheduler.look(lambda r: explain_firing(r, now, at, scheduler.strategies))


def detail_of(explanation: Explanation) -> str:
    return next(each.detail for each in explanation.gates if each.gate == explanation.blocking)


# Each makes a run that one gate keeps back.


def nobody_serves(scheduler: InlineScheduler) -> TaskRun:
    scheduler.do(drain_worker, "worker-1")
    return scheduler.trigger(scheduler.create())


def the_queue_is_full(scheduler: InlineScheduler) -> TaskRun:
    task = scheduler.create()
    for _ in range(4 * PREFETCH):
        scheduler.trigger(task)
    scheduler.dispatch()
    return scheduler.trigger(task)


def others_are_more_urgent(scheduler: InlineScheduler) -> TaskRun:
    urgent = scheduler.create("urgent", priority=Priority.CRITICAL)
    for _ in range(4 * PREFETCH):
        scheduler.trigger(urgent)
    return scheduler.trigger(scheduler.create())


def its_time_has_not_come(scheduler: InlineScheduler) -> TaskRun:
    return scheduler.trigger(scheduler.create(), run_at=START + timedelta(hours=1))


def its_key_is_full_of_running_ones(scheduler: InlineScheduler) -> TaskRun:
    task = scheduler.create(concurrency=Concurrency("key", 1))
    scheduler.start(scheduler.trigger(task))
    return scheduler.trigger(task)


def its_key_is_full_of_dispatched_ones(scheduler: InlineScheduler) -> TaskRun:
    task = scheduler.create(concurrency=Concurrency("key", 1))
    scheduler.trigger(task)
    scheduler.dispatch()
    return scheduler.trigger(task)


def an_earlier_one_runs(scheduler: InlineScheduler) -> TaskRun:
    scheduler.create(schedule="@every 4s", overlap="queue")
    scheduler.pass_time(4)
    scheduler.fire()
    scheduler.start(scheduler.runs()[0])
    scheduler.pass_time(4)
    scheduler.fire()
    return scheduler.runs()[1]


def it_was_cancelled(scheduler: InlineScheduler) -> TaskRun:
    run = scheduler.trigger(scheduler.create())
    scheduler.do(cancel_runs, [run], "cancelled_by_user")
    return run


@pytest.mark.parametrize(
    ("make", "gate", "said"),
    [
        (nobody_serves, "worker", "no active worker serves default/shell: none is active"),
        (the_queue_is_full, "worker", "8 runs have their slots or wait for them already"),
        (others_are_more_urgent, "priority", "8 ready runs stand before it"),
        (its_time_has_not_come, "not_before", "not before 2026-01-01T01:00:00.000000Z"),
        (its_key_is_full_of_running_ones, "concurrency", "1 of 1 running under 'key'"),
        (its_key_is_full_of_dispatched_ones, "concurrency", "1 of 1 running under 'key'"),
        (an_earlier_one_runs, "overlap", "waits for an earlier run of the task to end"),
        (it_was_cancelled, "status", "cancelled, cancelled_by_user"),
    ],
)
def test_the_gate_that_blocks_is_the_one_that_keeps_the_run_from_being_dispatched(
    scheduler: InlineScheduler, make: Callable[[InlineScheduler], TaskRun], gate: str, said: str
) -> None:
    scheduler.register()
    run = make(scheduler)
    before = explained(scheduler, run)
    scheduler.dispatch()

    assert [each.gate for each in before.gates] == GATES
    assert (before.may_start, before.blocking, detail_of(before)) == (False, gate, said)
    assert scheduler.run(run).status is not RunStatus.DISPATCHED
    assert not explained(scheduler, run).may_start


def test_a_run_that_nothing_blocks_is_dispatched_next(scheduler: InlineScheduler) -> None:
    scheduler.register()
    other = scheduler.create("other", concurrency=Concurrency("key", 2))
    scheduler.start(scheduler.trigger(other))
    run = scheduler.trigger(other)
    before = explained(scheduler, run)
    scheduler.dispatch()
    waiting = explained(scheduler, run)

    assert (before.may_start, before.blocking) == (True, None)
    assert before.earliest_start == scheduler.clock.now()
    assert scheduler.run(run).status is RunStatus.DISPATCHED
    assert waiting.may_start  # it waits in the queue and nothing keeps it from being claimed


def test_a_run_that_runs_does_not_count_against_itself(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(concurrency=Concurrency("key", 1))
    running = scheduler.start(scheduler.trigger(task))
    gates = {each.gate: each for each in explained(scheduler, running).gates}

    assert gates["concurrency"].passes
    assert gates["concurrency"].detail == "0 of 1 running under 'key'"


def test_a_skipped_firing_says_why(scheduler: InlineScheduler) -> None:
    scheduler.create("late", schedule="@every 10s", misfire=Misfire(grace_seconds=0))
    scheduler.pass_time(25)
    scheduler.fire()
    target, coalesced = scheduler.runs()
    gates = {each.gate: each for each in explained(scheduler, coalesced).gates}

    assert gates["misfire"].detail == f"the firing was late: coalesced into run {target.id}"
    target_gates = {each.gate: each for each in explained(scheduler, target).gates}
    assert target_gates["misfire"].detail == "stands for 1 missed firings too"


def test_a_firing_to_come_is_explained_before_it_comes(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@every 10s", overlap="skip")
    assert firing(scheduler, task, 20).may_start
    assert firing(scheduler, task, 15).blocking == "schedule"
    scheduler.start(scheduler.trigger(task))
    assert firing(scheduler, task, 20).blocking == "overlap"
    scheduler.do(pause_task, task.id)

    assert firing(scheduler, task, 20).blocking == "enabled"
    assert firing(scheduler, scheduler.create("bare"), 20).blocking == "schedule"


def test_a_fixed_delay_fires_at_the_one_time_that_is_known(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@after 10s")

    assert firing(scheduler, task, 10).may_start
    assert firing(scheduler, task, 20).blocking == "schedule"
