"""A flow run that did not succeed is run again from where it failed."""

from typing import Any

import msgspec
import pytest
from tests.application.test_flow_runs import after, end, flow_run, statuses

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import delete_task, replace_task
from tidemill.application.pause_task import pause_task, resume_task
from tidemill.application.retry_flow_run import retry_flow_run
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import failure, success
from tidemill.domain.task import Priority, Task
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import Conflict
from tidemill.testing.inline import InlineScheduler


@pytest.fixture(autouse=True)
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


def retry(scheduler: InlineScheduler, flow_run_id: str | None, versions: Any = "then") -> FlowRun:
    old = flow_run(scheduler, flow_run_id)
    return scheduler.do(retry_flow_run, old, versions)


def statuses_in(scheduler: InlineScheduler, flow: FlowRun) -> dict[str, str]:
    """The status of each run of one flow run."""
    return {r.task_name: r.status.value for r in scheduler.runs(flow_run_id=flow.id)}


def redefine(scheduler: InlineScheduler, task: Task, **fields: Any) -> None:
    wanted = msgspec.structs.replace(scheduler.task(task).definition, **fields)
    scheduler.do(replace_task, task.id, wanted, lambda _: ())


def fail_in_the_middle(scheduler: InlineScheduler) -> tuple[list[Task], TaskRun]:
    """a → b → c, of which b failed."""
    a = scheduler.create("a", command="a of then")
    b = scheduler.create("b", command="b of then", dependencies=after(a))
    c = scheduler.create("c", dependencies=after(a, b))
    root = scheduler.trigger(a, parameters={"day": 1})
    end(scheduler, "a", result={"rows": 7})
    end(scheduler, "b", fails=True)
    assert statuses(scheduler) == {"a": "succeeded", "b": "failed", "c": "skipped"}
    return [a, b, c], root


def test_what_failed_is_run_again_and_what_succeeded_counts_and_can_be_read(
    scheduler: InlineScheduler,
) -> None:
    (a, *_), root = fail_in_the_middle(scheduler)
    scheduler.pass_time(60)
    new = retry(scheduler, root.flow_run_id)

    assert statuses_in(scheduler, new) == {"b": "pending", "c": "waiting"}
    assert (new.retry_of, new.trigger) == (root.flow_run_id, Trigger.RETRY)
    assert (new.scheduled_for, new.root_run_id) == (root.scheduled_for, root.id)
    assert {run.scheduled_for for run in scheduler.runs()} == {root.scheduled_for}
    [carried] = scheduler.look(lambda r: r.carried_runs(new.id, 0, 1_000))
    assert carried.id == root.id
    [b] = [run for run in scheduler.runs(flow_run_id=new.id) if run.task_name == "b"]
    held = scheduler.start(b)
    assert held.parameters["upstream"] == {"a": {"rows": 7}}
    scheduler.record(held, success("b's"))
    [c] = [run for run in scheduler.runs(flow_run_id=new.id) if run.task_name == "c"]
    held = scheduler.start(c)
    assert held.parameters["upstream"] == {"a": {"rows": 7}, "b": "b's"}
    scheduler.record(held)
    assert flow_run(scheduler, new.id).status is FlowStatus.SUCCEEDED
    assert len(scheduler.runs(a)) == 1
    old_b = next(run for run in scheduler.runs() if run.task_name == "b")
    assert b.retry_of == old_b.id


def test_the_root_that_failed_is_run_again_with_its_parameters(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a", timeout_seconds=60)
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a, parameters={"day": 1}, priority=Priority.HIGH, timeout_seconds=5)
    end(scheduler, "a", fails=True)
    new = retry(scheduler, root.flow_run_id)

    [again] = [run for run in scheduler.runs(a) if run.flow_run_id == new.id]
    assert (again.parameters, again.priority, again.timeout_seconds) == (
        {"day": 1}, root.priority, 5,
    )  # fmt: skip
    assert (again.id, again.retry_of) == (new.root_run_id, root.id)
    assert statuses_in(scheduler, new) == {"a": "pending", "b": "waiting"}


def test_a_retry_is_of_the_versions_of_then_or_of_those_of_now(scheduler: InlineScheduler) -> None:
    (_, b, _), root = fail_in_the_middle(scheduler)
    redefine(scheduler, b, command="b of now", timeout_seconds=7)
    then = retry(scheduler, root.flow_run_id)
    now = retry(scheduler, root.flow_run_id, "now")

    versions = {
        flow.id: [(run.task_version, run.timeout_seconds) for run in scheduler.runs(b)
                  if run.flow_run_id == flow.id]
        for flow in (then, now)
    }  # fmt: skip
    assert versions == {then.id: [(1, 3_600)], now.id: [(2, 7)]}


def test_a_flow_run_that_is_retried_twice_makes_two(scheduler: InlineScheduler) -> None:
    _, root = fail_in_the_middle(scheduler)
    first, second = (retry(scheduler, root.flow_run_id) for _ in range(2))

    assert first.id != second.id
    for new in (first, second):
        assert statuses_in(scheduler, new) == {"b": "pending", "c": "waiting"}


def test_a_retry_that_failed_is_retried_and_carries_over_what_both_did(
    scheduler: InlineScheduler,
) -> None:
    _, root = fail_in_the_middle(scheduler)
    second = retry(scheduler, root.flow_run_id)
    end(scheduler, "b", result=2)
    end(scheduler, "c", fails=True)
    third = retry(scheduler, second.id)

    assert statuses_in(scheduler, third) == {"c": "pending"}
    carried = scheduler.look(lambda reads: reads.carried_runs(third.id, 0, 1_000))
    assert [each.task_name for each in carried] == ["a", "b"]
    [c] = scheduler.runs(flow_run_id=third.id)
    held = scheduler.start(c)
    assert held.parameters["upstream"] == {"a": {"rows": 7}, "b": 2}
    scheduler.record(held)
    assert flow_run(scheduler, third.id).status is FlowStatus.SUCCEEDED


@pytest.mark.parametrize("versions", ["then", "now"])
def test_whoever_waits_for_a_failure_that_is_not_to_be_is_skipped_at_once(
    scheduler: InlineScheduler, versions: str
) -> None:
    a = scheduler.create("a")
    scheduler.create("complain", dependencies=after(a, condition="failed"))
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    end(scheduler, "a")
    end(scheduler, "b", fails=True)
    new = retry(scheduler, root.flow_run_id, versions)

    assert statuses_in(scheduler, new) == {"complain": "skipped", "b": "pending"}
    end(scheduler, "b")
    assert flow_run(scheduler, new.id).status is FlowStatus.SUCCEEDED


def test_a_cancelled_flow_run_is_retried_from_its_beginning(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a")
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.do(lambda t: cancel_runs(t, list(t.runs([root.id]).values()), "cancelled_by_user"))
    new = retry(scheduler, root.flow_run_id)

    assert statuses_in(scheduler, new) == {"a": "pending", "b": "waiting"}


def test_a_flow_run_that_goes_on_or_succeeded_is_not_retried(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a")
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    with pytest.raises(Conflict, match="has not ended; wait for its end or cancel it"):
        retry(scheduler, root.flow_run_id)
    end(scheduler, "a")
    end(scheduler, "b")
    with pytest.raises(Conflict, match="succeeded; trigger its task"):
        retry(scheduler, root.flow_run_id)

    assert len(scheduler.runs()) == 2


def test_a_task_that_was_deleted_is_named_where_it_should_run_as_it_is_now(
    scheduler: InlineScheduler,
) -> None:
    (_, _, c), root = fail_in_the_middle(scheduler)
    scheduler.do(delete_task, c.id)
    with pytest.raises(Conflict, match=r"were deleted: c; .* versions of `then`"):
        retry(scheduler, root.flow_run_id, "now")
    assert len(scheduler.runs()) == 3

    new = retry(scheduler, root.flow_run_id)
    assert statuses_in(scheduler, new) == {"b": "pending"}


def test_what_needs_a_task_that_was_deleted_is_skipped_in_the_versions_of_then(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    c = scheduler.create("c", dependencies=after(b))
    scheduler.create("d", dependencies=after(a))
    root = scheduler.trigger(a)
    end(scheduler, "a")
    end(scheduler, "b", fails=True)
    end(scheduler, "d", fails=True)
    redefine(scheduler, c, dependencies=[])
    scheduler.do(delete_task, b.id)
    new = retry(scheduler, root.flow_run_id)

    assert statuses_in(scheduler, new) == {"c": "skipped", "d": "pending"}


def test_a_retry_of_nothing_but_paused_tasks_is_refused_and_leaves_nothing(
    scheduler: InlineScheduler,
) -> None:
    (_, b, _), root = fail_in_the_middle(scheduler)
    scheduler.do(pause_task, b.id)
    with pytest.raises(Conflict, match="paused or deleted"):
        retry(scheduler, root.flow_run_id)

    assert len(scheduler.runs()) == 3


def test_a_task_that_was_paused_then_waits_for_its_upstream_tasks_when_it_is_resumed(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    scheduler.do(pause_task, b.id)
    root = scheduler.trigger(a)
    end(scheduler, "a", fails=True)
    scheduler.do(resume_task, b.id)
    new = retry(scheduler, root.flow_run_id)
    assert statuses_in(scheduler, new) == {"a": "pending", "b": "waiting"}
    end(scheduler, "a")

    assert statuses_in(scheduler, new) == {"a": "succeeded", "b": "pending"}


def test_now_a_task_that_came_between_gets_a_run_as_well(scheduler: InlineScheduler) -> None:
    (a, b, _), root = fail_in_the_middle(scheduler)
    between = scheduler.create("between", dependencies=after(a))
    redefine(scheduler, b, dependencies=after(between))
    new = retry(scheduler, root.flow_run_id, "now")

    assert statuses_in(scheduler, new) == {"between": "pending", "b": "waiting", "c": "waiting"}
    for name in ("between", "b", "c"):
        end(scheduler, name)
    assert flow_run(scheduler, new.id).status is FlowStatus.SUCCEEDED


def test_of_a_run_that_was_split_the_parts_that_failed_are_run_again(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", strategy={"name": "shard", "count": 3})
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.dispatch()
    scheduler.dispatch()
    for number, part in enumerate(scheduler.runs(a)):
        outcome = failure("x", "x") if number == 1 else success(number)
        scheduler.record(scheduler.start(part), outcome)
    assert flow_run(scheduler, root.flow_run_id).status is FlowStatus.FAILED
    new = retry(scheduler, root.flow_run_id)
    assert statuses_in(scheduler, new) == {"a": "pending", "b": "waiting"}
    [again] = [run for run in scheduler.runs(a) if run.flow_run_id == new.id]
    assert (again.shard_index, again.shard_total, again.part_of) == (1, 3, root.id)
    scheduler.record(scheduler.start(again), success("again"))
    [b] = [run for run in scheduler.runs(flow_run_id=new.id) if run.task_name == "b"]

    assert scheduler.start(b).parameters["upstream"] == {"a": [0, "again", 2]}


def test_of_a_run_that_went_to_all_workers_the_one_that_failed_is_run_again(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register("worker-2")
    a = scheduler.create("a", strategy="broadcast")
    scheduler.create("b", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.dispatch()
    for number, part in enumerate(scheduler.runs(a), 1):
        held = scheduler.start(part, f"worker-{number}")
        scheduler.record(held, failure("x", "x") if number == 2 else success())
    new = retry(scheduler, root.flow_run_id)

    [again] = [run for run in scheduler.runs(a) if run.flow_run_id == new.id]
    assert (again.part_of, again.shard_total) == (root.id, None)


def test_the_parts_that_succeeded_of_a_task_that_was_deleted_do_not_count_for_the_whole(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", strategy={"name": "shard", "count": 2})
    b = scheduler.create("b", dependencies=after(a))
    c = scheduler.create("c", dependencies=after(a, condition="failed"))
    root = scheduler.trigger(a)
    scheduler.dispatch()
    scheduler.dispatch()
    first, second = scheduler.runs(a)
    scheduler.record(scheduler.start(first))
    scheduler.record(scheduler.start(second), failure("x", "x"))
    assert flow_run(scheduler, root.flow_run_id).status is FlowStatus.FAILED
    for task in (b, c):
        redefine(scheduler, task, dependencies=[])
    scheduler.do(delete_task, a.id)
    with pytest.raises(Conflict, match="nothing of flow run"):
        retry(scheduler, root.flow_run_id)


def test_a_run_that_had_not_been_split_yet_is_split_when_it_is_run_again(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    scheduler.create("b", dependencies=after(a), strategy={"name": "shard", "count": 2})
    root = scheduler.trigger(a)
    end(scheduler, "a", fails=True)
    new = retry(scheduler, root.flow_run_id)
    end(scheduler, "a")
    scheduler.dispatch()
    scheduler.dispatch()

    parts = [r for r in scheduler.runs(flow_run_id=new.id) if r.task_name == "b"]
    assert sorted((r.shard_index, r.shard_total) for r in parts) == [(0, 2), (1, 2)]


def test_a_task_outside_the_flow_run_is_looked_for_again(scheduler: InlineScheduler) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a")
    scheduler.create("b", dependencies=after(a, rates))
    scheduler.create("d", dependencies=after(a))
    root = scheduler.trigger(a)
    scheduler.record(scheduler.start(scheduler.trigger(rates)), failure("x", "x"))
    end(scheduler, "a")
    scheduler.recover()
    end(scheduler, "d", fails=True)
    assert statuses(scheduler)["b"] == "skipped"
    scheduler.pass_time(60)
    scheduler.record(scheduler.start(scheduler.trigger(rates)))
    new = retry(scheduler, root.flow_run_id)

    assert statuses_in(scheduler, new) == {"b": "pending", "d": "pending"}


@pytest.mark.parametrize("has_run", [True, False])
def test_a_task_outside_the_flow_run_that_was_deleted_counts_by_what_its_run_came_to(
    scheduler: InlineScheduler, has_run: bool
) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a, rates), overlap="allow")
    scheduler.create("d", dependencies=after(a))
    root = scheduler.trigger(a)
    end(scheduler, "a")
    end(scheduler, "d", fails=True)
    if has_run:
        scheduler.record(scheduler.start(scheduler.trigger(rates)))
        scheduler.recover()
        [of_root] = [run for run in scheduler.runs(b) if run.flow_run_id == root.flow_run_id]
        scheduler.record(scheduler.start(of_root), failure("x", "x"))
    redefine(scheduler, b, dependencies=[])
    scheduler.do(delete_task, rates.id)
    new = retry(scheduler, root.flow_run_id)

    assert statuses_in(scheduler, new) == {"b": "pending" if has_run else "skipped", "d": "pending"}


def test_a_flow_run_of_which_a_part_was_pruned_is_not_retried(scheduler: InlineScheduler) -> None:
    _, root = fail_in_the_middle(scheduler)
    scheduler.pass_time(60)
    scheduler.do(lambda t: t.prune(t.now, 1))
    with pytest.raises(Conflict, match="was pruned"):
        retry(scheduler, root.flow_run_id)


def test_what_is_carried_over_is_kept_as_long_as_the_flow_run_that_needs_it(
    scheduler: InlineScheduler,
) -> None:
    _, root = fail_in_the_middle(scheduler)
    new = retry(scheduler, root.flow_run_id)
    scheduler.pass_time(60)
    scheduler.do(lambda t: t.prune(t.now, 100))
    left = {run.id for run in scheduler.runs() if run.flow_run_id == root.flow_run_id}
    assert left == {root.id}
    end(scheduler, "b")
    end(scheduler, "c")
    scheduler.pass_time(60)
    for _ in range(2):
        scheduler.do(lambda t: t.prune(t.now, 100))

    assert scheduler.runs() == []
    assert scheduler.look(lambda reads: reads.flow_run(new.id)) is None


def test_a_long_chain_is_retried_in_one_go(scheduler: InlineScheduler) -> None:
    length = 100
    tasks = [scheduler.create("t0")]
    for number in range(1, length):
        tasks.append(scheduler.create(f"t{number}", dependencies=after(tasks[-1])))
    root = scheduler.trigger(tasks[0])
    end(scheduler, "t0", fails=True)
    new = retry(scheduler, root.flow_run_id)

    found = list(statuses_in(scheduler, new).values())
    assert found == ["pending"] + ["waiting"] * (length - 1)
