"""The flow runs of a backfill take turns."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.application.test_flow_runs import after, flow_run

from tidemill.application.backfill_task import Backfill, backfill_task
from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import delete_task
from tidemill.application.queries.explain import explain
from tidemill.domain.flow_run import FlowStatus
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task import Concurrency, Task
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.listing import FlowRunFilter, PageRequest
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


def backfill(scheduler: InlineScheduler, task: Task, hours: int, most: int) -> Backfill:
    return scheduler.do(backfill_task, task.id, START - hours * HOUR, START, max_parallel=most)


def two_tasks(scheduler: InlineScheduler, **fields: Any) -> tuple[Task, Task]:
    a = scheduler.create("a", schedule="0 * * * *", **fields)
    return a, scheduler.create("b", dependencies=after(a))


def by_status(scheduler: InlineScheduler) -> dict[str, list[int]]:
    """How many hours back the flow runs of each status are for."""
    page = PageRequest("id", 1_000)
    found: dict[str, list[int]] = {}
    for each in scheduler.look(lambda reads: reads.list_flow_runs(FlowRunFilter(), page)).items:
        found.setdefault(each.status.value, []).append((START - each.scheduled_for) // HOUR)
    return {status: sorted(hours, reverse=True) for status, hours in found.items()}


def ready(scheduler: InlineScheduler) -> list[TaskRun]:
    scheduler.dispatch()
    return scheduler.runs(status=(RunStatus.DISPATCHED,))


def test_no_more_flow_runs_are_under_way_than_was_said_and_the_earliest_come_first(
    scheduler: InlineScheduler,
) -> None:
    a, _ = two_tasks(scheduler)
    made = backfill(scheduler, a, 5, 2)
    assert [run.scheduled_for for run in made.runs] == made.fire_times
    assert by_status(scheduler) == {"running": [5, 4], "waiting": [3, 2, 1]}
    for run in ready(scheduler):
        scheduler.record(scheduler.start(run))
    # Both first runs ended, and neither flow run did: nobody else may begin.
    assert {run.task_name for run in ready(scheduler)} == {"b"}
    assert by_status(scheduler) == {"running": [5, 4], "waiting": [3, 2, 1]}
    scheduler.record(scheduler.start(ready(scheduler)[0]))
    assert len(by_status(scheduler)["running"]) == 2
    assert by_status(scheduler)["waiting"] == [2, 1]
    while runs := ready(scheduler):
        assert len({run.flow_run_id for run in runs}) <= 2
        scheduler.record(scheduler.start(runs[0]))

    assert by_status(scheduler) == {"succeeded": [5, 4, 3, 2, 1]}
    assert scheduler.do(lambda t: t.waiting_backfills()) == []


@pytest.mark.parametrize("ends", ["failed", "cancelled", "cancelled while it waits"])
def test_a_flow_run_that_ends_badly_makes_room_as_well(
    scheduler: InlineScheduler, ends: str
) -> None:
    a, _ = two_tasks(scheduler)
    made = backfill(scheduler, a, 3, 1)
    first, second, _ = (scheduler.run(run) for run in made.runs)
    if ends == "failed":
        scheduler.record(scheduler.start(first), failure("x", "x"))
    else:
        chosen = first if ends == "cancelled" else second
        scheduler.do(lambda t: cancel_runs(t, list(t.runs([chosen.id]).values()), "x"))

    expected = {
        "failed": {"failed": [3], "running": [2], "waiting": [1]},
        "cancelled": {"cancelled": [3], "running": [2], "waiting": [1]},
        "cancelled while it waits": {"cancelled": [2], "running": [3], "waiting": [1]},
    }
    assert by_status(scheduler) == expected[ends]


def test_time_limits_begin_with_the_turn(scheduler: InlineScheduler) -> None:
    a, _ = two_tasks(
        scheduler, queue_timeout_seconds=60, deadline_seconds=600, flow_deadline_seconds=120
    )
    made = backfill(scheduler, a, 2, 1)
    scheduler.pass_time(50)
    scheduler.record(scheduler.start(scheduler.run(made.runs[0])), failure("x", "x"))
    scheduler.recover()
    second = scheduler.run(made.runs[1])
    now = scheduler.clock.now()

    assert second.hold is None
    assert second.queue_deadline_at == now + timedelta(seconds=60)
    assert second.deadline_at == now + timedelta(seconds=120)
    assert flow_run(scheduler, second.flow_run_id).deadline_at == second.deadline_at


def test_no_run_of_a_flow_run_starts_before_its_turn_whatever_lets_it(
    scheduler: InlineScheduler,
) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a", schedule="0 * * * *")
    either = scheduler.create("either", dependencies=after(a, rates), trigger_rule="any")
    backfill(scheduler, a, 2, 1)
    scheduler.record(scheduler.start(scheduler.trigger(rates)))
    scheduler.recover()
    first, second, of_rates = scheduler.runs(either)
    assert (first.status.value, second.status.value) == ("pending", "pending")
    assert (first.hold, second.hold) == ("catch_up", "turn")
    scheduler.record(scheduler.start(of_rates))
    # Nobody waits for a run of its task that in turn waits for the end of this flow run.
    for run in [*scheduler.runs(a)[:1], scheduler.run(first)]:
        scheduler.record(scheduler.start(run))

    assert {run.hold for run in scheduler.runs() if run.status not in FINAL} == {None}


def test_a_run_that_waits_for_the_turn_of_its_flow_run_explains_it(
    scheduler: InlineScheduler,
) -> None:
    a, _ = two_tasks(scheduler)
    last = scheduler.run(backfill(scheduler, a, 2, 1).runs[1])
    found = scheduler.look(lambda reads: explain(reads, last, scheduler.strategies))
    [gate] = [each for each in found.gates if each.gate == "concurrency"]

    assert (found.blocking, found.may_start) == ("concurrency", False)
    assert "flow runs of its backfill" in gate.detail


def test_the_limit_of_the_task_binds_the_flow_runs_whose_turn_it_is(
    scheduler: InlineScheduler,
) -> None:
    a, _ = two_tasks(scheduler, concurrency=Concurrency(limit=1))
    backfill(scheduler, a, 4, 3)

    assert len(ready(scheduler)) == 1
    assert len(by_status(scheduler)["running"]) == 3


def test_a_backfill_beside_another_and_beside_live_runs_has_its_own_turns(
    scheduler: InlineScheduler,
) -> None:
    a, _ = two_tasks(scheduler, overlap="skip")
    backfill(scheduler, a, 3, 1)
    backfill(scheduler, a, 3, 2)
    scheduler.pass_time(3_600)
    scheduler.fire()

    assert by_status(scheduler) == {"running": [3, 3, 2, -1], "waiting": [2, 1, 1]}


def test_a_task_that_is_deleted_leaves_no_backfill_waiting(scheduler: InlineScheduler) -> None:
    a, b = two_tasks(scheduler)
    backfill(scheduler, a, 3, 1)
    scheduler.do(delete_task, b.id)
    scheduler.do(delete_task, a.id)

    assert by_status(scheduler) == {"cancelled": [3, 2, 1]}
    assert scheduler.do(lambda t: t.waiting_backfills()) == []


def test_a_sweep_lets_the_next_begin_where_whoever_ended_the_last_knew_no_turns(
    scheduler: InlineScheduler,
) -> None:
    a, _ = two_tasks(scheduler)
    made = backfill(scheduler, a, 2, 1)
    first = flow_run(scheduler, scheduler.run(made.runs[0]).flow_run_id)
    ended = msgspec.structs.replace(
        first, status=FlowStatus.CANCELLED, completed_at=scheduler.clock.now()
    )
    scheduler.do(lambda t: t.save_flow_runs([ended]))
    assert by_status(scheduler) == {"cancelled": [2], "waiting": [1]}
    scheduler.recover()

    assert by_status(scheduler) == {"cancelled": [2], "running": [1]}
