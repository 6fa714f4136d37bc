"""Somebody asks for runs."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tidemill.application.answer_once import KeyedCall
from tidemill.application.define_task import delete_task
from tidemill.application.prune_history import prune_history
from tidemill.application.trigger_runs import (
    TriggerCall,
    TriggerRequest,
    find_task,
    trigger_for_each,
    trigger_runs,
)
from tidemill.domain.task import Priority
from tidemill.domain.task_run import Hold, TaskRun
from tidemill.errors import Conflict, InvalidInput, KeyInUse, KeyReused, NotFound
from tidemill.foundation.store import AnswerKey
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def trigger(scheduler: InlineScheduler, *requests: TriggerRequest) -> list[TaskRun]:
    return scheduler.do(trigger_runs, requests)


def wish(task: int | str, key: str | None = None, **fields: object) -> TriggerRequest:
    return TriggerRequest(task=task, idempotency_key=key, **fields)  # type: ignore[arg-type]


def test_runs_come_in_the_order_of_the_requests(scheduler: InlineScheduler) -> None:
    one, two = scheduler.create("one"), scheduler.create("two")
    made = trigger(
        scheduler, wish("name:two"), wish(one.id), wish(str(two.id)), wish("name:two", "key")
    )

    assert [run.task_name for run in made] == ["two", "one", "two", "two"]
    assert made == scheduler.runs()
    assert scheduler.task(one).last_run_at == START


def test_a_wish_says_what_its_run_is_like(scheduler: InlineScheduler) -> None:
    task = scheduler.create(timeout_seconds=60)
    later = START + timedelta(hours=1)
    [run] = trigger(
        scheduler,
        wish(
            task.id,
            parameters={"n": 1},
            priority=Priority.CRITICAL,
            timeout_seconds=5,
            run_at=later,
        ),
    )

    assert (run.parameters, run.priority, run.timeout_seconds) == ({"n": 1}, 3, 5)
    assert (run.hold, run.not_before, run.scheduled_for) == (Hold.TIME, later, START)


def test_a_wish_for_the_past_may_start_at_once(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    [run] = trigger(scheduler, wish(task.id, run_at=START - timedelta(hours=1)))

    assert scheduler.start(run).started_at == START


def test_a_wish_for_later_starts_when_its_time_has_come(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    [run] = trigger(scheduler, wish(task.id, run_at=START + timedelta(seconds=5)))
    dispatched = scheduler.dispatch()
    assert dispatched.messages == []
    assert dispatched.next_ready_at == START + timedelta(seconds=5)
    scheduler.pass_time(5)

    assert scheduler.start(run).started_at == START + timedelta(seconds=5)


def test_all_or_none_is_made_and_each_unknown_task_is_named(scheduler: InlineScheduler) -> None:
    task = scheduler.create()
    gone = scheduler.create("gone")
    scheduler.do(delete_task, gone.id)

    with pytest.raises(InvalidInput) as refused:
        trigger(
            scheduler,
            wish(task.id),
            wish("name:gone", pointer="/items/1"),
            wish(2**80, pointer="/items/2"),
            wish("-1", pointer="/items/3"),
        )
    assert [problem.pointer for problem in refused.value.problems] == [
        "/items/1/task", "/items/2/task", "/items/3/task",
    ]  # fmt: skip
    assert scheduler.runs() == []


def test_a_task_of_another_namespace_is_not_found(scheduler: InlineScheduler) -> None:
    task = scheduler.create(namespace="elsewhere")

    with pytest.raises(InvalidInput):
        trigger(scheduler, wish(task.id))
    [run] = trigger(scheduler, wish(task.id, namespace="elsewhere"))
    assert run.namespace == "elsewhere"


def test_one_key_makes_one_run_within_a_day(scheduler: InlineScheduler) -> None:
    task = scheduler.create()
    [first] = trigger(scheduler, wish(task.id, "key"))
    scheduler.pass_time(86_399)
    [again] = trigger(scheduler, wish("name:a-task", "key"))
    assert again.id == first.id
    scheduler.pass_time(1)
    [other] = trigger(scheduler, wish(task.id, "key"))

    assert other.id != first.id


def test_one_key_at_two_items_makes_one_run(scheduler: InlineScheduler) -> None:
    task = scheduler.create()
    made = trigger(scheduler, wish(task.id, "key"), wish(task.id), wish("name:a-task", "key"))
    again = trigger(scheduler, wish(task.id, "key"))

    assert made[0] == made[2]
    assert made[1].id != made[0].id
    assert again == [made[0]]
    assert len(scheduler.runs()) == 2


def test_one_key_with_another_wish_is_refused(scheduler: InlineScheduler) -> None:
    task = scheduler.create()
    trigger(scheduler, wish(task.id, "key"))

    with pytest.raises(KeyReused) as refused:
        trigger(scheduler, wish(task.id, "key", parameters={"n": 1}))
    assert refused.value.problems[0].pointer == "/idempotency_key"
    with pytest.raises(KeyReused) as refused:
        trigger(
            scheduler,
            wish(task.id, "new"),
            wish(task.id, "new", parameters={"n": 1}, pointer="/items/1"),
        )
    assert refused.value.problems[0].pointer == "/items/1/idempotency_key"
    assert len(scheduler.runs()) == 1


def test_a_key_belongs_to_its_task(scheduler: InlineScheduler) -> None:
    one, two = scheduler.create("one"), scheduler.create("two")

    assert len({run.id for run in trigger(scheduler, wish(one.id, "k"), wish(two.id, "k"))}) == 2


def test_a_key_whose_run_was_pruned_makes_no_second_one(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    [run] = trigger(scheduler, wish(task.id, "key"))
    scheduler.record(scheduler.start(run))
    scheduler.pass_time(60)
    scheduler.do(prune_history, timedelta(seconds=1), 100)

    with pytest.raises(Conflict, match="pruned"):
        trigger(scheduler, wish(task.id, "key"))
    assert scheduler.runs() == []


def test_a_batch_costs_as_many_statements_as_one() -> None:
    scheduler = InlineScheduler()
    tasks = [scheduler.create(f"task-{n}") for n in range(50)]
    said: list[str] = []
    scheduler.store._connection.driver.set_trace_callback(said.append)
    trigger(scheduler, *(wish(f"name:task-{n}", f"key-{n}") for n in range(25)))
    reads = [sql for sql in said if sql.startswith(("SELECT", "DELETE", "UPDATE"))]
    assert len(reads) < 10
    said.clear()
    trigger(scheduler, *(wish(task.id, f"other-{task.id}") for task in tasks))

    assert len([sql for sql in said if sql.startswith(("SELECT", "DELETE", "UPDATE"))]) < 10


@pytest.mark.parametrize("key", ["name:", "x", "1.5", "-1", "9" * 40, "", str(Path("a/b"))])
def test_what_is_no_task_finds_none(scheduler: InlineScheduler, key: str) -> None:
    assert scheduler.look(lambda reads: find_task(reads, "default", key)) is None


# several callers at once


def told(run: TaskRun) -> int:
    return run.id


def call(task: int | str, key: str | None = None, **fields: Any) -> TriggerCall:
    once = None if key is None else KeyedCall(AnswerKey("scope", key), str(fields).encode())
    return TriggerCall(namespace="default", request=wish(task, **fields), told=told, once=once)


def test_callers_share_a_transaction_and_each_has_a_run_of_its_own(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("one")
    two = scheduler.create("two")
    calls = [
        call("name:one"),
        call(two.id, key="k", parameters={"n": 1}),
        call(str(two.id), key="l"),
    ]
    answers = scheduler.do(trigger_for_each, calls)

    runs = scheduler.runs()
    assert [run.id for run in runs] == answers
    assert [(run.task_name, run.parameters) for run in runs] == [
        ("one", {}),
        ("two", {"n": 1}),
        ("two", {}),
    ]
    assert {run.namespace for run in runs} == {"default"}


def test_a_call_that_was_answered_is_not_carried_out_beside_new_ones(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("one")
    [first] = scheduler.do(trigger_for_each, [call("name:one", key="k")])
    answers = scheduler.do(trigger_for_each, [call("name:one"), call("name:one", key="k")])

    assert answers[1] == first
    assert [run.id for run in scheduler.runs()] == [first, answers[0]]


def test_two_calls_with_one_key_at_once_are_one_and_one_that_comes_too_early(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("one")
    with pytest.raises(KeyInUse):
        scheduler.do(trigger_for_each, [call("name:one", key="k"), call("name:one", key="k")])

    assert scheduler.runs() == []


def test_none_is_made_where_a_task_is_not_there_for_its_caller(scheduler: InlineScheduler) -> None:
    scheduler.create("one")
    elsewhere = scheduler.create("two", namespace="other")
    with pytest.raises(NotFound):
        scheduler.do(trigger_for_each, [call("name:one"), call(elsewhere.id)])

    assert scheduler.runs() == []
