"""Tasks that call tasks: a run waits for what it called, without a worker."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.application.test_flow_runs import after, end, flow_run, statuses

from tidemill.application.apply_tasks import Wanted, apply_tasks
from tidemill.application.cancel_runs import cancel_flow_run, cancel_runs
from tidemill.application.define_task import delete_task, replace_task
from tidemill.application.follow_up import follow_up_calls
from tidemill.application.pause_task import pause_task
from tidemill.application.prune_history import prune_history
from tidemill.application.queries.explain import explain
from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.retry_flow_run import retry_flow_run
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, MapOver, Retry, Task
from tidemill.domain.task_run import AttemptOutcome, TaskRun, Trigger
from tidemill.errors import Conflict, InvalidInput
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.listing import FlowRunFilter, PageRequest
from tidemill.foundation.store import Transaction
from tidemill.testing.builders import definition
from tidemill.testing.inline import InlineScheduler

OK = success()


@pytest.fixture(autouse=True)
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


def calls(scheduler: InlineScheduler, name: str, called: str, **fields: Any) -> Task:
    """Define a task that calls another."""
    return scheduler.create(name, executor="task", command=f"name:{called}", **fields)


def called_by(scheduler: InlineScheduler, run: TaskRun) -> list[FlowRun]:
    """The flow runs that a run called, in order."""
    wanted = FlowRunFilter(called_by=run.id)
    page = PageRequest("id", 1_000)
    return scheduler.look(lambda reads: reads.list_flow_runs(wanted, page)).items


def begin(scheduler: InlineScheduler, task: Task, **wish: Any) -> TaskRun:
    """Trigger a task that calls another, and let its run begin."""
    run = scheduler.trigger(task, **wish)
    scheduler.dispatch()
    return scheduler.run(run)


def cancel_chosen(transaction: Transaction, run_id: int) -> None:
    cancel_runs(transaction, list(transaction.runs([run_id]).values()), "cancelled_by_user")


def test_a_run_that_calls_a_task_waits_without_a_worker_and_returns_what_that_returned(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    a = calls(
        scheduler, "a", "b", arguments={"day": "${{ parameters.day }}", "run": "${{ run.id }}"}
    )
    run = begin(scheduler, a, parameters={"day": 7})
    [child] = scheduler.runs(b)

    assert (run.status, run.attempt, run.fence) == (RunStatus.RUNNING, 1, 1)
    assert (run.worker_id, run.lease_expires_at) == ("dispatcher", None)
    assert scheduler.look(lambda reads: reads.worker("dispatcher")) is None
    assert (child.trigger, child.parameters) == (Trigger.CALL, {"day": 7, "run": run.id})
    assert child.scheduled_for == run.scheduled_for
    [called] = called_by(scheduler, run)
    assert (called.id, called.called_by_attempt) == (child.flow_run_id, 1)

    scheduler.pass_time(5)
    end(scheduler, "b", result={"rows": 3})

    run = scheduler.run(run)
    assert (run.status, run.result, run.completed_at) == (
        RunStatus.SUCCEEDED, {"rows": 3}, scheduler.clock.now(),
    )  # fmt: skip
    [attempt] = scheduler.attempts(run)
    assert (attempt.outcome, attempt.worker_id) == (AttemptOutcome.SUCCEEDED, "dispatcher")
    assert [event.type.value for event in scheduler.events(run)] == [
        "RunCreated", "RunDispatched", "RunStarted", "RunFinished",
    ]  # fmt: skip


def test_what_depends_on_the_called_task_is_waited_for_and_the_last_results_are_given_by_name(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    c = scheduler.create("c", dependencies=after(b))
    scheduler.create("d", dependencies=after(c))
    scheduler.create("e", dependencies=after(b))
    scheduler.create("f", dependencies=after(b, condition="failed"))
    a = calls(scheduler, "a", "b")
    run = begin(scheduler, a)
    for name, result in (("b", 1), ("c", 2), ("e", [5])):
        end(scheduler, name, result=result)
        assert scheduler.run(run).status is RunStatus.RUNNING
    end(scheduler, "d", result=4)

    assert scheduler.run(run).status is RunStatus.SUCCEEDED
    assert scheduler.run(run).result == {"d": 4, "e": [5], "f": None}


def test_parts_are_given_as_a_list(scheduler: InlineScheduler) -> None:
    scheduler.create("b", strategy={"name": "shard", "count": 2})
    run = begin(scheduler, calls(scheduler, "a", "b"))
    scheduler.dispatch()
    for child in scheduler.runs(trigger=Trigger.CALL):
        assert scheduler.run(run).status is RunStatus.RUNNING
        scheduler.dispatch()
        [claimed] = scheduler.claim(child.id)
        scheduler.record(claimed.run, msgspec.structs.replace(OK, result=claimed.shard.index))

    assert scheduler.run(run).result == [0, 1]


def test_a_result_that_is_too_large_fails_the_attempt_with_its_reason(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    scheduler.create("c", dependencies=after(b))
    scheduler.create("d", dependencies=after(b))
    run = begin(scheduler, calls(scheduler, "a", "b"))
    end(scheduler, "b")
    end(scheduler, "c", result="x" * 200_000)
    end(scheduler, "d", result="x" * 70_000)

    run = scheduler.run(run)
    assert (run.status, run.reason) == (RunStatus.FAILED, "result_too_large")
    assert run.error_message is not None
    assert "262144" in run.error_message


def test_a_failure_fails_the_attempt_and_another_attempt_calls_anew(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    retry = Retry(max_retries=1, delay_seconds=10, jitter=False)
    run = begin(scheduler, calls(scheduler, "a", "b", retry=retry))
    end(scheduler, "b", fails=True)

    run = scheduler.run(run)
    [first] = called_by(scheduler, run)
    assert (run.status, run.reason) == (RunStatus.RETRYING, "subflow_failed")
    assert run.error_message == (
        f"flow run {first.id}, which run {first.root_run_id} began, failed"
    )
    scheduler.pass_time(10)
    scheduler.dispatch()
    assert [each.called_by_attempt for each in called_by(scheduler, run)] == [1, 2]
    assert len(scheduler.runs(b)) == 2
    scheduler.do(follow_up_calls, [first])  # told once more, it ends nothing
    assert scheduler.run(run).status is RunStatus.RUNNING
    end(scheduler, "b", result=1)
    run = scheduler.run(run)
    assert (run.status, run.result, run.reason, run.error_message) == (
        RunStatus.SUCCEEDED, 1, None, None,
    )  # fmt: skip
    assert [attempt.outcome for attempt in scheduler.attempts(run)] == [
        AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED,
    ]  # fmt: skip


def test_ends_are_handed_upwards_through_a_hundred_calls(scheduler: InlineScheduler) -> None:
    scheduler.create("t0")
    for number in range(1, 101):
        calls(scheduler, f"t{number}", f"t{number - 1}")
    top = scheduler.trigger(scheduler.look(lambda r: r.task_named("default", "t100")))  # type: ignore[arg-type]
    for _ in range(101):
        scheduler.dispatch()
    assert sum(run.status is RunStatus.RUNNING for run in scheduler.runs()) == 100
    end(scheduler, "t0", result="deep")

    assert scheduler.run(top).result == "deep"
    assert {run.status for run in scheduler.runs()} == {RunStatus.SUCCEEDED}


def test_a_call_within_a_flow_run_gets_the_results_of_its_upstream_runs_and_frees_what_waits(
    scheduler: InlineScheduler,
) -> None:
    x = scheduler.create("x")
    b = scheduler.create("b")
    a = calls(
        scheduler, "a", "b", dependencies=after(x), arguments={"of": "${{ parameters.upstream.x }}"}
    )
    scheduler.create("z", dependencies=after(a))
    root = scheduler.trigger(x)
    end(scheduler, "x", result=[1, 2])
    scheduler.dispatch()
    [child] = scheduler.runs(b)
    assert child.parameters == {"of": [1, 2]}
    assert child.flow_run_id != root.flow_run_id
    assert statuses(scheduler)["z"] == "waiting"
    end(scheduler, "b", result=3)
    assert statuses(scheduler)["z"] == "pending"
    end(scheduler, "z")

    assert flow_run(scheduler, root.flow_run_id).status is FlowStatus.SUCCEEDED


def test_a_call_is_mapped_over_a_list_with_a_bound_on_how_many_wait_at_once(
    scheduler: InlineScheduler,
) -> None:
    x = scheduler.create("x")
    b = scheduler.create("b")
    calls(
        scheduler, "a", "b", dependencies=after(x), arguments={"n": "${{ parameters.item }}"},
        map_over=MapOver("name:x", max_parallel=2),
    )  # fmt: skip
    scheduler.trigger(x)
    end(scheduler, "x", result=[7, 8, 9])
    scheduler.dispatch()
    assert [run.parameters["n"] for run in scheduler.runs(b)] == [7, 8]
    scheduler.record(scheduler.start(scheduler.runs(b)[0]))
    scheduler.dispatch()

    assert [run.parameters["n"] for run in scheduler.runs(b)] == [7, 8, 9]


def test_a_run_that_waits_counts_against_its_limit(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b", concurrency=Concurrency("k", 1))
    first = begin(scheduler, a)
    second = begin(scheduler, a)
    assert (first.status, second.status) == (RunStatus.RUNNING, RunStatus.PENDING)
    assert len(scheduler.runs(b)) == 1
    end(scheduler, "b")
    scheduler.dispatch()

    assert scheduler.run(second).status is RunStatus.RUNNING


def test_cancelling_a_run_cancels_what_it_called_however_deep_and_it_ends_with_that(
    scheduler: InlineScheduler,
) -> None:
    c = scheduler.create("c")
    scheduler.create("d", dependencies=after(c))
    calls(scheduler, "b", "c")
    a = calls(scheduler, "a", "b")
    run = begin(scheduler, a)
    scheduler.dispatch()
    [deep] = scheduler.runs(c)
    held = scheduler.start(deep)
    scheduler.do(cancel_chosen, run.id)
    assert statuses(scheduler) == {
        "a": "cancelling", "b": "cancelling", "c": "cancelling", "d": "cancelled",
    }  # fmt: skip
    scheduler.record(held, failure("signal", "ended"), "cancel")

    assert set(statuses(scheduler).values()) == {"cancelled"}
    assert {run.reason for run in scheduler.runs()} == {"cancelled_by_user"}


def test_cancelling_a_run_whose_call_has_not_started_ends_both_at_once(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    run = begin(scheduler, calls(scheduler, "a", "b"))
    scheduler.do(cancel_chosen, run.id)

    assert statuses(scheduler) == {"a": "cancelled", "b": "cancelled"}


def test_what_was_called_and_is_cancelled_alone_fails_the_attempt_that_waits(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    run = begin(scheduler, calls(scheduler, "a", "b"))
    [called] = called_by(scheduler, run)
    scheduler.do(cancel_flow_run, called.id, "cancelled_by_user")

    run = scheduler.run(run)
    assert (run.status, run.reason) == (RunStatus.FAILED, "subflow_failed")
    assert run.error_message is not None
    assert run.error_message.endswith("was cancelled")


def test_a_flow_run_is_cancelled_with_what_its_runs_called(scheduler: InlineScheduler) -> None:
    scheduler.create("b")
    a = calls(scheduler, "a", "b")
    scheduler.create("z", dependencies=after(a))
    run = begin(scheduler, a)
    assert run.flow_run_id is not None
    assert scheduler.do(cancel_flow_run, run.flow_run_id, "cancelled_by_user") == 2

    assert set(statuses(scheduler).values()) == {"cancelled"}
    assert flow_run(scheduler, run.flow_run_id).status is FlowStatus.CANCELLED


def test_the_time_limit_of_a_run_ends_what_it_called_and_it_is_timed_out(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    run = begin(scheduler, calls(scheduler, "a", "b", timeout_seconds=60))
    [child] = scheduler.runs(trigger=Trigger.CALL)
    scheduler.dispatch()
    [claimed] = scheduler.claim(child.id)
    assert claimed.deadline_seconds == 60
    for _ in range(10):
        scheduler.pass_time(6)
        scheduler.renew(claimed.run)
        scheduler.recover()
    assert scheduler.run(run).status is RunStatus.RUNNING
    scheduler.record(claimed.run, failure("signal", "ended"), "deadline")

    run = scheduler.run(run)
    assert (run.status, run.reason) == (RunStatus.TIMED_OUT, "execution_timeout")
    [attempt] = scheduler.attempts(run)
    assert attempt.outcome is AttemptOutcome.TIMED_OUT


@pytest.mark.parametrize("bound", ["deadline_seconds", "flow_deadline_seconds"])
def test_a_deadline_is_handed_down_to_what_is_called_however_deep(
    scheduler: InlineScheduler, bound: str
) -> None:
    scheduler.create("c")
    calls(scheduler, "b", "c")
    a = calls(scheduler, "a", "b", retry=Retry(max_retries=3), **{bound: 30})
    scheduler.create("z", dependencies=after(a))
    run = begin(scheduler, a)
    scheduler.dispatch()
    assert statuses(scheduler)["b"] == "running"
    scheduler.pass_time(30)
    scheduler.recover()

    found = scheduler.run(run)
    assert (found.status, found.reason) == (RunStatus.TIMED_OUT, "deadline")
    assert statuses(scheduler)["b"] == "timed_out"


def test_the_called_flow_runs_own_deadline_fails_the_attempt(scheduler: InlineScheduler) -> None:
    scheduler.create("b", flow_deadline_seconds=30)
    run = begin(scheduler, calls(scheduler, "a", "b"))
    scheduler.pass_time(30)
    scheduler.recover()

    found = scheduler.run(run)
    assert (found.status, found.reason) == (RunStatus.FAILED, "subflow_failed")


def test_a_run_that_waits_is_never_lost_and_what_is_too_late_is_not_begun(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    a = calls(scheduler, "a", "b", timeout_seconds=None)
    run = begin(scheduler, a)
    late = scheduler.trigger(calls(scheduler, "late", "b", queue_timeout_seconds=5))
    scheduler.pass_time(10_000)
    scheduler.recover(scheduler.clock.now() - timedelta(seconds=9_000))
    scheduler.dispatch()
    assert scheduler.run(run).status is RunStatus.RUNNING
    assert scheduler.run(run).lease_expires_at is None
    assert (scheduler.run(late).status, scheduler.run(late).attempt) == (RunStatus.TIMED_OUT, 0)
    scheduler.register()
    end(scheduler, "b")

    assert scheduler.run(run).status is RunStatus.SUCCEEDED


def test_an_overdue_run_that_no_sweep_has_found_yet_is_ended_in_place_of_calling(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    late = scheduler.trigger(calls(scheduler, "late", "b", queue_timeout_seconds=5))
    scheduler.pass_time(5)
    assert scheduler.dispatch().has_more

    assert scheduler.run(late).status is RunStatus.TIMED_OUT
    assert not scheduler.runs(b)


def test_a_call_that_ended_unheard_is_found_by_the_sweep(scheduler: InlineScheduler) -> None:
    """By an edge from outside its flow run."""
    b = scheduler.create("b")
    outside = scheduler.create("outside", schedule="@every 8s")
    scheduler.create("c", dependencies=after(b, outside))
    run = begin(scheduler, calls(scheduler, "a", "b"))
    end(scheduler, "b", result=1)
    scheduler.pass_time(8)
    scheduler.fire()
    [firing] = [run for run in scheduler.runs(outside) if run.trigger is Trigger.SCHEDULE]
    scheduler.record(scheduler.start(firing), failure("exit_code", "1"))
    assert scheduler.run(run).status is RunStatus.RUNNING
    scheduler.recover()

    assert statuses(scheduler)["c"] == "skipped"
    assert scheduler.run(run).result == {"c": None}


def test_a_call_whose_task_was_deleted_fails_its_attempt(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b")
    run = scheduler.trigger(a, run_at=scheduler.clock.now() + timedelta(seconds=5))
    scheduler.do(replace_task, a.id, definition("a"), lambda _: ())
    scheduler.do(delete_task, b.id)
    scheduler.pass_time(5)
    scheduler.dispatch()

    run = scheduler.run(run)
    assert (run.status, run.reason, run.attempt) == (RunStatus.FAILED, "task_deleted", 1)


def test_a_placeholder_that_cannot_be_filled_in_fails_the_attempt_and_the_others_begin(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b", arguments={"x": "${{ parameters.x }}"})
    bad = scheduler.trigger(a)
    good = scheduler.trigger(a, parameters={"x": 1})
    scheduler.dispatch()

    assert (scheduler.run(bad).status, scheduler.run(bad).reason) == (RunStatus.FAILED, "template")
    assert scheduler.run(good).status is RunStatus.RUNNING
    assert [run.parameters for run in scheduler.runs(b)] == [{"x": 1}]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_run_does_not_wait_for_the_one_of_its_task_that_called_for_it_before_an_edit(
    scheduler: InlineScheduler, depth: int
) -> None:
    b = scheduler.create("b")
    callers = [calls(scheduler, "c0", "b")]
    callers += [calls(scheduler, f"c{n}", f"c{n - 1}") for n in range(1, depth)]
    run = begin(scheduler, callers[-1], run_at=scheduler.clock.now() + timedelta(seconds=5))
    plain = definition(callers[-1].definition.name, dependencies=after(b))
    scheduler.do(replace_task, callers[-1].id, plain, lambda _: ())
    scheduler.pass_time(5)
    for _ in range(depth):
        scheduler.dispatch()
    end(scheduler, "b")
    [_, again] = scheduler.runs(callers[-1])
    assert (again.status, again.hold) == (RunStatus.PENDING, None)
    scheduler.record(scheduler.start(again))

    assert scheduler.run(run).status is RunStatus.SUCCEEDED


def test_a_run_in_a_called_flow_run_waits_for_others_of_its_task(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    after_b = scheduler.create("after_b", dependencies=after(b))
    a = calls(scheduler, "a", "b")
    for _ in range(2):
        begin(scheduler, a)
        end(scheduler, "b")

    assert [run.hold for run in scheduler.runs(after_b)] == [None, "catch_up"]


def test_a_paused_task_runs_when_it_is_called(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    scheduler.do(pause_task, b.id)
    begin(scheduler, calls(scheduler, "a", "b"))

    assert [run.status for run in scheduler.runs(b)] == [RunStatus.PENDING]


def test_dispatching_twice_calls_once(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    begin(scheduler, calls(scheduler, "a", "b"))
    scheduler.dispatch()

    assert len(scheduler.runs(b)) == 1


def test_a_flow_run_that_is_retried_calls_anew(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    x = scheduler.create("x")
    calls(scheduler, "a", "b", dependencies=after(x))
    root = scheduler.trigger(x)
    end(scheduler, "x")
    scheduler.dispatch()
    end(scheduler, "b", fails=True)
    ended = flow_run(scheduler, root.flow_run_id)
    assert ended.status is FlowStatus.FAILED
    again = scheduler.do(retry_flow_run, ended, "then")
    scheduler.dispatch()
    end(scheduler, "b")

    assert len(scheduler.runs(b)) == 2
    assert flow_run(scheduler, again.id).status is FlowStatus.SUCCEEDED


def test_what_was_called_is_retried_alone_without_whoever_called_it(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    run = begin(scheduler, calls(scheduler, "a", "b"))
    end(scheduler, "b", fails=True)
    [called] = called_by(scheduler, run)
    again = scheduler.do(retry_flow_run, called, "then")
    end(scheduler, "b")

    assert flow_run(scheduler, again.id).status is FlowStatus.SUCCEEDED
    assert again.called_by is None
    assert scheduler.run(run).status is RunStatus.FAILED


def test_what_a_call_has_come_to_is_kept_until_it_is_returned(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    c = scheduler.create("c", dependencies=after(b))
    d = scheduler.create("d", dependencies=after(b))
    run = begin(scheduler, calls(scheduler, "a", "b", timeout_seconds=None))
    end(scheduler, "b")
    end(scheduler, "c", result="kept")
    scheduler.pass_time(1_000)
    assert scheduler.do(prune_history, timedelta(seconds=10), 100) == 0
    end(scheduler, "d")

    assert scheduler.run(run).result == {"c": "kept", "d": None}
    scheduler.pass_time(1_000)
    assert scheduler.do(prune_history, timedelta(seconds=10), 100) == 4
    assert not scheduler.runs(c)
    assert not scheduler.runs(d)


def test_explain_says_what_a_run_waits_for_and_where_that_stands(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    scheduler.create("c", dependencies=after(b))
    a = calls(scheduler, "a", "b")
    ready = scheduler.trigger(a)
    said = scheduler.look(lambda r: explain(r, ready, scheduler.strategies))
    assert said.may_start
    scheduler.dispatch()
    end(scheduler, "b")
    run = scheduler.run(ready)
    [called] = called_by(scheduler, run)
    said = scheduler.look(lambda r: explain(r, run, scheduler.strategies))
    assert said.gates[0].detail == (
        f"running; it waits for flow run {called.id} (running), which run {called.root_run_id} of "
        "b began: 1 of its 2 runs have ended"
    )
    end(scheduler, "c")
    run = scheduler.run(run)
    said = scheduler.look(lambda r: explain(r, run, scheduler.strategies))

    assert said.gates[0].detail == "succeeded"


# definitions


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"command": "b"}, "/command", "is no task"),
        ({"command": "name:none"}, "/command", "no task 'name:none'"),
        ({"command": "name:a"}, "/command", "cannot call itself"),
        ({"command": "name:b", "arguments": ["x"]}, "/arguments", "must be an object"),
        ({"command": "name:b", "arguments": {"x": "${{ no }}"}}, "/arguments/x", "no"),
        ({"command": "name:b", "strategy": "round_robin"}, "/strategy", "no worker is chosen"),
        ({"command": "name:b", "worker_selector": {"x": "y"}}, "/worker_selector", "no worker"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    scheduler: InlineScheduler, fields: dict[str, Any], pointer: str, said: str
) -> None:
    scheduler.create("b")
    with pytest.raises(InvalidInput) as refused:
        scheduler.create("a", executor="task", **fields)
    [problem] = refused.value.problems
    assert problem.pointer == pointer
    assert said in problem.message


def test_tasks_that_would_start_one_another_without_end_are_refused(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    calls(scheduler, "a", "b")
    d = scheduler.create("d", dependencies=after(b))

    def refusal(task: Task, **fields: Any) -> list[tuple[str, str]]:
        new = definition(task.definition.name, **fields)
        with pytest.raises(InvalidInput) as refused:
            scheduler.do(replace_task, task.id, new, lambda _: ())
        return [(each.pointer, each.message) for each in refused.value.problems]

    without_end = "these tasks would start one another without end: "
    call_a = {"executor": "task", "command": "name:a"}
    [(pointer, said)] = refusal(b, **call_a)
    assert pointer == "/command"
    assert said.startswith(without_end)
    assert set(said.removeprefix(without_end).split(" → ")) == {"a", "b"}
    [(pointer, said)] = refusal(d, dependencies=after(b), **call_a)
    assert pointer == "/command"
    assert set(said.removeprefix(without_end).split(" → ")) == {"a", "b", "d"}
    [(pointer, said)] = refusal(
        scheduler.do(lambda t: t.tasks_in_force_named("default", ["a"]))["a"],
        executor="task",
        command="name:b",
        dependencies=after(d),
    )
    assert said.startswith(without_end)


def test_a_new_task_may_not_close_a_circle_by_itself(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    d = scheduler.create("d", dependencies=after(b))
    with pytest.raises(InvalidInput, match="without end"):
        calls(scheduler, "a", "b", dependencies=after(d))


def test_a_file_may_name_who_is_called_before_it_is_there_and_no_circle_of_calls(
    scheduler: InlineScheduler,
) -> None:
    def apply(*wanted: dict[str, Any], prune: bool = False) -> None:
        given = [
            Wanted(definition=definition(**each), pointer=f"/tasks/{number}")
            for number, each in enumerate(wanted)
        ]
        scheduler.do(apply_tasks, given, prune_in="default" if prune else None)

    a = {"name": "a", "executor": "task", "command": "name:b"}
    with pytest.raises(InvalidInput) as refused:
        apply(a, {"name": "b", "executor": "task", "command": "name:a"})
    [problem] = refused.value.problems
    assert "without end" in problem.message
    apply(a, {"name": "b"})
    with pytest.raises(InvalidInput) as refused:
        apply(a, prune=True)
    assert [each.message for each in refused.value.problems] == ["'a' calls 'b'"]
    apply({"name": "b"}, prune=True)
    assert set(scheduler.do(lambda t: t.tasks_in_force_named("default", ["a", "b"]))) == {"b"}


def test_a_task_that_is_called_is_not_deleted_or_renamed_unnoticed(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b")
    with pytest.raises(Conflict, match="call it: a;"):
        scheduler.do(delete_task, b.id)
    with pytest.raises(Conflict, match="call it: a;"):
        scheduler.do(replace_task, b.id, definition("other"), lambda _: ())
    scheduler.do(replace_task, a.id, definition("a"), lambda _: ())
    scheduler.do(delete_task, b.id)


def test_a_call_is_fired_by_its_schedule_for_the_same_time(scheduler: InlineScheduler) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b", schedule="@every 10s")
    scheduler.pass_time(10)
    scheduler.fire()
    scheduler.dispatch()
    [run] = scheduler.runs(a)
    [child] = scheduler.runs(b)
    assert run.status is RunStatus.RUNNING
    assert (
        child.scheduled_for
        == run.scheduled_for
        == scheduler.task(a).anchor_at + timedelta(seconds=10)
    )
    scheduler.pass_time(10)
    scheduler.fire()

    assert [run.reason for run in scheduler.runs(a)] == [None, "overlap"]


def test_a_firing_that_takes_the_place_of_a_run_that_waits_cancels_what_that_called(
    scheduler: InlineScheduler,
) -> None:
    b = scheduler.create("b")
    a = calls(scheduler, "a", "b", schedule="@every 10s", overlap="cancel_running")
    for _ in range(2):
        scheduler.pass_time(10)
        scheduler.fire()
        scheduler.dispatch()
    scheduler.dispatch()

    assert [run.status for run in scheduler.runs(a)] == [RunStatus.CANCELLED, RunStatus.RUNNING]
    assert [run.status for run in scheduler.runs(b)] == [RunStatus.CANCELLED, RunStatus.DISPATCHED]


def test_a_call_whose_task_is_deleted_meanwhile_ends_without_another_attempt(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("b")
    a = calls(scheduler, "a", "b", retry=Retry(max_retries=5))
    run = begin(scheduler, a)
    scheduler.do(delete_task, a.id)
    assert scheduler.run(run).status is RunStatus.RUNNING
    end(scheduler, "b", fails=True)

    assert scheduler.run(run).status is RunStatus.FAILED


def test_fifty_calls_cost_as_many_statements_as_one() -> None:
    def cost(count: int) -> tuple[int, int]:
        """To begin so many, and to end them."""
        scheduler = InlineScheduler()
        scheduler.register(max_concurrent_tasks=1_000)
        b = scheduler.create("b")
        a = calls(scheduler, "a", "b", arguments={"n": "${{ run.id }}"})
        for _ in range(count):
            scheduler.trigger(a)
        said: list[str] = []
        scheduler.store._connection.driver.set_trace_callback(said.append)  # type: ignore[attr-defined]
        scheduler.dispatch()
        begun = len([sql for sql in said if sql.startswith(("SELECT", "UPDATE", "WITH"))])
        scheduler.dispatch()
        held = scheduler.claim(*(run.id for run in scheduler.runs(b)))
        assert len(held) == count
        reports = [AttemptReport(each.run.id, each.run.fence, "itself", OK, 0) for each in held]
        said.clear()
        scheduler.do(record_outcomes, reports)
        ended = len([sql for sql in said if sql.startswith(("SELECT", "UPDATE", "WITH"))])
        assert {run.status for run in scheduler.runs()} == {RunStatus.SUCCEEDED}
        return begun, ended

    assert cost(50) == cost(1)


def test_who_calls_nothing_pays_nothing() -> None:
    scheduler = InlineScheduler()
    scheduler.register()
    run = scheduler.trigger(scheduler.create("a"))
    said: list[str] = []
    scheduler.store._connection.driver.set_trace_callback(said.append)  # type: ignore[attr-defined]
    scheduler.record(scheduler.start(run))

    assert len(said) > 5
    assert not [sql for sql in said if "call" in sql]
