"""Tasks that depend on tasks, one arrow of the story at a time."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tidemill.application.apply_tasks import Wanted, apply_tasks
from tidemill.application.cancel_runs import cancel_flow_run, cancel_runs
from tidemill.application.define_task import create_task, delete_task, replace_task
from tidemill.application.queries.explain import explain
from tidemill.application.queries.flow_graph import flow_graph
from tidemill.domain import expression_syntax
from tidemill.domain.expression import expression_of
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task import Dependency, Task, TaskStatus
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import InvalidInput
from tidemill.foundation.store import Transaction
from tidemill.testing.builders import definition
from tidemill.testing.inline import InlineScheduler


def after(*tasks: Task, condition: str = "succeeded") -> list[Dependency]:
    return [Dependency(f"name:{task.definition.name}", condition) for task in tasks]  # type: ignore[arg-type]


def statuses(scheduler: InlineScheduler) -> dict[str, str]:
    """The status of each task's latest run."""
    return {run.task_name: run.status.value for run in scheduler.runs()}


def end(scheduler: InlineScheduler, name: str, **outcome: Any) -> None:
    """Run what is ready of this task, and end it."""
    [run] = [run for run in scheduler.runs() if run.task_name == name and run.status not in FINAL]
    how = failure("exit_code", "1") if outcome.get("fails") else success(outcome.get("result"))
    scheduler.record(scheduler.start(run), how)


def flow_status(scheduler: InlineScheduler, run: TaskRun) -> FlowStatus:
    return flow_run(scheduler, run.flow_run_id).status


def flow_run(scheduler: InlineScheduler, flow_run_id: str | None) -> FlowRun:
    assert flow_run_id is not None
    found = scheduler.look(lambda reads: reads.flow_run(flow_run_id))
    assert found is not None
    return found


@pytest.fixture
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


@pytest.mark.usefixtures("worker")
def test_what_hangs_on_a_task_waits_in_its_flow_run_and_starts_when_it_has_succeeded(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a", schedule="@every 10s")
    b = scheduler.create("b", dependencies=after(a))
    scheduler.create("c", dependencies=after(a, b))
    scheduler.pass_time(10)
    scheduler.fire()
    runs = scheduler.runs()
    assert {run.flow_run_id for run in runs} != {None}
    assert len({(run.flow_run_id, run.scheduled_for) for run in runs}) == 1
    assert [run.trigger for run in runs] == [
        Trigger.SCHEDULE, Trigger.DEPENDENCY, Trigger.DEPENDENCY,
    ]  # fmt: skip
    assert statuses(scheduler) == {"a": "dispatched", "b": "waiting", "c": "waiting"}
    end(scheduler, "a", result=1)
    assert statuses(scheduler) == {"a": "succeeded", "b": "pending", "c": "waiting"}
    end(scheduler, "b", result={"two": 2})
    [c] = [run for run in scheduler.runs() if run.task_name == "c"]
    held = scheduler.start(c)
    assert held.parameters["upstream"] == {"a": 1, "b": {"two": 2}}
    assert flow_status(scheduler, c) is FlowStatus.RUNNING
    scheduler.record(held)
    assert flow_status(scheduler, c) is FlowStatus.SUCCEEDED


@pytest.mark.usefixtures("worker")
def test_all_runs_of_a_flow_run_have_the_parameters_that_its_first_was_asked_for_with(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    scheduler.create("c", dependencies=after(b), trigger_rule="parameters.day == 1")
    scheduler.trigger(a, parameters={"day": 1})
    end(scheduler, "a", result=7)
    [run] = scheduler.runs(b)
    held = scheduler.start(run)
    scheduler.record(held)

    assert held.parameters == {"day": 1, "upstream": {"a": 7}}
    assert statuses(scheduler)["c"] == "pending"


@pytest.mark.usefixtures("worker")
def test_what_can_no_longer_start_is_skipped_and_so_on_downwards_and_the_flow_run_ends(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    c = scheduler.create("c", dependencies=after(b))
    scheduler.create("d", dependencies=after(c, condition="skipped"))
    scheduler.create("e", dependencies=after(a, condition="failed"))
    root = scheduler.trigger(a)
    end(scheduler, "a", fails=True)
    assert statuses(scheduler) == {
        "a": "failed", "b": "skipped", "c": "skipped", "d": "pending", "e": "pending",
    }  # fmt: skip
    assert {run.reason for run in scheduler.runs(status=(RunStatus.SKIPPED,))} == {"upstream"}
    end(scheduler, "d")
    end(scheduler, "e")

    # The failure was one that `e` waited for.
    assert flow_status(scheduler, root) is FlowStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("rule", "ends", "then"),
    [
        ("all", [False], "waiting"),
        ("all", [False, False], "pending"),
        ("all", [True], "skipped"),
        ("any", [True], "waiting"),
        ("any", [True, False], "pending"),
        ("any", [True, True], "skipped"),
        ("none_failed", [False], "waiting"),
        ("none_failed", [False, False], "pending"),
        ("none_failed", [False, True], "skipped"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_a_dependent_heeds_its_trigger_rule(
    scheduler: InlineScheduler, rule: str, ends: Sequence[bool], then: str
) -> None:
    root = scheduler.create("root")
    upstream = [scheduler.create(name, dependencies=after(root)) for name in ("u0", "u1")]
    scheduler.create("d", dependencies=after(*upstream), trigger_rule=rule)
    scheduler.trigger(root)
    end(scheduler, "root")
    for number, fails in enumerate(ends):
        end(scheduler, f"u{number}", fails=fails)

    assert statuses(scheduler)["d"] == then


@pytest.mark.usefixtures("worker")
def test_a_paused_task_is_skipped_in_a_flow_run(scheduler: InlineScheduler) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a), status=TaskStatus.PAUSED)
    scheduler.create("c", dependencies=after(b))
    scheduler.create("d", dependencies=after(a))
    scheduler.trigger(a)

    assert statuses(scheduler) == {
        "a": "pending", "b": "skipped", "c": "skipped", "d": "waiting",
    }  # fmt: skip
    assert {run.task_name: run.reason for run in scheduler.runs()}["b"] == "paused"


@pytest.mark.usefixtures("worker")
def test_a_run_that_is_cancelled_while_it_waits_never_starts_and_those_below_are_skipped(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    scheduler.create("c", dependencies=after(b))
    root = scheduler.trigger(a)
    waiting = scheduler.runs(b)[0]
    scheduler.do(lambda t: cancel_runs(t, list(t.runs([waiting.id]).values()), "cancelled_by_user"))
    assert statuses(scheduler) == {"a": "pending", "b": "cancelled", "c": "skipped"}
    end(scheduler, "a")

    assert statuses(scheduler) == {"a": "succeeded", "b": "cancelled", "c": "skipped"}
    assert flow_status(scheduler, root) is FlowStatus.CANCELLED


@pytest.mark.usefixtures("worker")
def test_a_task_outside_the_flow_run_counts_by_its_latest_run_for_the_same_period_or_later(
    scheduler: InlineScheduler,
) -> None:
    rates = scheduler.create("rates", schedule="@every 20s")
    orders = scheduler.create("orders", schedule="@every 10s")
    report = scheduler.create("report", dependencies=after(rates, orders))
    scheduler.pass_time(10)
    scheduler.fire()  # orders alone
    end(scheduler, "orders")
    scheduler.recover()
    assert [run.status for run in scheduler.runs(report)] == [RunStatus.WAITING]
    scheduler.pass_time(10)
    scheduler.fire()
    [of_rates] = scheduler.runs(rates)
    scheduler.record(scheduler.start(of_rates))
    scheduler.recover()

    # For 00:10 the rates of 00:20 are late enough; so are they for the flow run of 00:20.
    by_root = {run.flow_run_id: run for run in scheduler.runs(orders)}
    found = {
        (
            by_root[run.flow_run_id].status.value if run.flow_run_id in by_root else "rates"
        ): run.status.value
        for run in scheduler.runs(report)
    }
    assert found == {"succeeded": "pending", "dispatched": "waiting", "rates": "waiting"}


@pytest.mark.usefixtures("worker")
def test_a_flow_run_that_is_over_stays_so_when_a_task_outside_ends_that_it_waited_for(
    scheduler: InlineScheduler,
) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a", flow_deadline_seconds=30)
    scheduler.create("b", dependencies=after(a, rates))
    root = scheduler.trigger(a)
    end(scheduler, "a", fails=True)
    flow_run_id = root.flow_run_id or ""
    before = scheduler.do(lambda t: t.flow_runs([flow_run_id]))
    assert before[flow_run_id].status is FlowStatus.FAILED
    scheduler.pass_time(60)
    scheduler.register(max_concurrent_tasks=1_000)
    scheduler.record(scheduler.start(scheduler.trigger(rates)))
    scheduler.recover()

    assert scheduler.do(lambda t: t.flow_runs([flow_run_id])) == before


@pytest.mark.usefixtures("worker")
def test_nobody_waits_for_a_task_that_was_deleted(scheduler: InlineScheduler) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a, rates))
    root = scheduler.trigger(a)
    alone = msgspec.structs.replace(b.definition, dependencies=[])
    scheduler.do(replace_task, b.id, alone, lambda _: ())
    scheduler.do(delete_task, rates.id)
    end(scheduler, "a")

    assert statuses(scheduler) == {"a": "succeeded", "b": "skipped"}
    assert flow_status(scheduler, root) is FlowStatus.SUCCEEDED


@pytest.mark.usefixtures("worker")
def test_what_a_run_waits_for_is_explained(scheduler: InlineScheduler) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a, rates))
    c = scheduler.create("c", dependencies=after(b))
    root = scheduler.trigger(a)

    def found(task: Task) -> tuple[str | None, str]:
        [run] = scheduler.runs(task)
        explained = scheduler.look(lambda reads: explain(reads, run, scheduler.strategies))
        [gate] = [each for each in explained.gates if each.gate == "dependencies"]
        return explained.blocking, gate.detail

    blocking, detail = found(b)
    assert blocking == "dependencies"
    assert f"run {root.id} of a (pending)" in detail
    assert "a run of rates for " in detail
    end(scheduler, "a", fails=True)
    assert found(c)[1] == "what its upstream runs came to does not let it start"


@pytest.mark.usefixtures("worker")
def test_a_firing_waits_for_the_upstream_tasks_of_its_own_task_and_a_trigger_does_not(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", schedule="@every 10s", dependencies=after(a))
    scheduler.pass_time(10)
    scheduler.fire()
    assert statuses(scheduler) == {"b": "waiting"}
    scheduler.trigger(b)
    assert [run.status for run in scheduler.runs(b)] == [RunStatus.WAITING, RunStatus.PENDING]


@pytest.mark.usefixtures("worker")
def test_in_a_flow_run_a_task_waits_for_its_earlier_run_and_is_not_skipped(
    scheduler: InlineScheduler,
) -> None:
    a = scheduler.create("a")
    b = scheduler.create("b", dependencies=after(a))
    for _ in range(2):
        scheduler.trigger(a)
        end(scheduler, "a")
    first, second = scheduler.runs(b)
    assert (first.hold, second.hold) == (None, "catch_up")
    scheduler.record(scheduler.start(first))
    assert scheduler.run(second).hold is None


@pytest.mark.parametrize("prepares", [False, True])
def test_a_task_opens_flow_runs_from_the_firing_after_others_came_to_depend_on_it(
    prepares: bool,
) -> None:
    scheduler = InlineScheduler(prepares=prepares)
    a = scheduler.create("a", schedule="@every 10s", overlap="allow")
    scheduler.pass_time(9)
    scheduler.create("b", dependencies=after(a))
    scheduler.pass_time(1)
    scheduler.fire()

    assert statuses(scheduler) == {"a": "pending", "b": "waiting"}


@pytest.fixture
def long_chain(scheduler: InlineScheduler) -> Task:
    """The first of 2,500 tasks, above any limit of recursion and any batch."""
    wanted = [Wanted(definition=definition("t0"))] + [
        Wanted(definition=definition(f"t{n}", dependencies=[Dependency(f"name:t{n - 1}")]))
        for n in range(1, 2_500)
    ]
    scheduler.do(apply_tasks, wanted[::-1])
    return scheduler.do(lambda t: t.tasks_named("default", ["t0"]))["t0"]


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_long_chain_is_skipped_with_its_beginning(
    scheduler: InlineScheduler, long_chain: Task
) -> None:
    root = scheduler.trigger(long_chain)
    end(scheduler, "t0", fails=True)

    assert len(scheduler.runs(status=(RunStatus.SKIPPED,))) == 2_499
    assert flow_status(scheduler, root) is FlowStatus.FAILED


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_long_chain_is_cancelled_as_a_whole(scheduler: InlineScheduler, long_chain: Task) -> None:
    root = scheduler.trigger(long_chain)
    assert root.flow_run_id is not None

    assert scheduler.do(cancel_flow_run, root.flow_run_id, "cancelled_by_user") == 2_500
    assert len(scheduler.runs(status=(RunStatus.CANCELLED,))) == 2_500
    assert flow_status(scheduler, root) is FlowStatus.CANCELLED
    assert scheduler.do(cancel_flow_run, root.flow_run_id, "cancelled_by_user") == 0


@pytest.mark.usefixtures("worker")
def test_the_critical_path_leads_back_along_those_that_ended_last(
    scheduler: InlineScheduler,
) -> None:
    root = scheduler.create("root")
    quick, slow = (scheduler.create(name, dependencies=after(root)) for name in ("quick", "slow"))
    scheduler.create("join", dependencies=after(quick, slow))
    scheduler.create("never", dependencies=after(quick, condition="failed"))
    begun = scheduler.trigger(root)
    assert begun.flow_run_id is not None
    flow_run_id = begun.flow_run_id
    assert scheduler.look(lambda r: r.critical_path(flow_run_id)) == []
    assert scheduler.look(lambda r: r.flow_run_started_at(flow_run_id)) is None
    for name in ("root", "quick", "slow", "join"):
        scheduler.pass_time(1)
        end(scheduler, name)

    ids = {run.task_name: run.id for run in scheduler.runs()}
    path = scheduler.look(lambda r: r.critical_path(flow_run_id))
    assert path == [ids["root"], ids["slow"], ids["join"]]
    started = scheduler.look(lambda r: r.flow_run_started_at(flow_run_id))
    assert started == scheduler.run(begun).started_at


def test_a_flow_run_is_shown_by_pages_that_bring_each_run_and_edge_once(
    scheduler: InlineScheduler,
) -> None:
    root = scheduler.create("root")
    middle = [scheduler.create(f"m{n}", dependencies=after(root)) for n in range(3)]
    scheduler.create("join", dependencies=after(*middle))
    begun = scheduler.trigger(root)
    assert begun.flow_run_id is not None
    flow_run = scheduler.do(lambda t: t.flow_runs([begun.flow_run_id or ""]))[begun.flow_run_id]
    pages = [scheduler.look(lambda r: flow_graph(r, flow_run, 0, 2))]
    while (last := pages[-1].next_after) is not None:
        pages.append(scheduler.look(lambda r, last=last: flow_graph(r, flow_run, last, 2)))

    assert [len(page.runs) for page in pages] == [2, 2, 1]
    assert [len(page.edges) for page in pages] == [1, 2, 3]
    assert [run.task_name for page in pages for run in page.runs] == [
        "root", "m0", "m1", "m2", "join",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.usefixtures("worker")
def test_in_any_graph_a_dependent_starts_only_after_all_that_it_waits_for(
    scheduler: InlineScheduler, seed: int
) -> None:
    chance = random.Random(seed)
    tasks = [scheduler.create("t0")]
    for number in range(1, 20):
        upstream = chance.sample(tasks, min(len(tasks), chance.randint(1, 3)))
        tasks.append(
            scheduler.create(
                f"t{number}",
                dependencies=after(
                    *upstream,
                    condition=chance.choice(("succeeded", "succeeded", "failed", "completed")),
                ),
                trigger_rule=chance.choice(("all", "all", "any", "none_failed")),
            )
        )
    root = scheduler.trigger(tasks[0])
    while ready := scheduler.runs(status=(RunStatus.PENDING, RunStatus.DISPATCHED)):
        run = chance.choice(ready)
        outcome = failure("x", "x") if chance.random() < 0.3 else success()
        scheduler.record(scheduler.start(run), outcome)

    runs = scheduler.runs()
    assert len({run.task_id for run in runs}) == len(runs) == len(tasks)
    assert all(run.status in FINAL for run in runs)
    assert flow_status(scheduler, root) is not FlowStatus.RUNNING
    by_task = {f"name:{run.task_name}": run for run in runs}
    for run in runs:
        said = scheduler.task(tasks[int(run.task_name[1:])]).definition
        if not said.dependencies:
            continue
        ends = [(by_task[each.task], each.condition) for each in said.dependencies]
        met = [may_start(each.status, condition) for each, condition in ends]
        failed = [each.status is RunStatus.FAILED for each, _ in ends]
        starts = {"all": all(met), "any": any(met), "none_failed": not any(failed)}
        assert (run.status is not RunStatus.SKIPPED) == starts[said.trigger_rule], run


def may_start(status: RunStatus, condition: str) -> bool:
    """As the reference says it."""
    if condition == "completed":
        return status is not RunStatus.SKIPPED
    return status.value == condition


def conditional(scheduler: InlineScheduler, rule: str, *, name: str = "d") -> Task:
    """A task `check`, and one that depends on it by an expression."""
    check = scheduler.create("check")
    scheduler.create(name, dependencies=after(check), trigger_rule=rule)
    return check


def skipping_event(scheduler: InlineScheduler, run: TaskRun) -> dict[str, Any]:
    return scheduler.look(lambda reads: reads.run_events(run.id, 0, 100))[-1].data


@pytest.mark.usefixtures("worker")
def test_two_dependents_with_opposite_expressions_are_two_branches(
    scheduler: InlineScheduler,
) -> None:
    good = 'upstream.check.status == "succeeded" && upstream.check.result.rows > 0'
    check = conditional(scheduler, good, name="load")
    scheduler.create("complain", dependencies=after(check), trigger_rule=f"!({good})")
    for rows, wanted in ((3, ("pending", "skipped")), (0, ("skipped", "pending"))):
        scheduler.trigger(check)
        assert statuses(scheduler)["load"] == "waiting"
        end(scheduler, "check", result={"rows": rows})
        found = statuses(scheduler)
        assert (found["load"], found["complain"]) == wanted
        end(scheduler, "load" if rows else "complain")


@pytest.mark.usefixtures("worker")
def test_an_expression_that_is_false_is_told_where_the_run_is_skipped(
    scheduler: InlineScheduler,
) -> None:
    rule = "upstream.check.result.rows > 0"
    check = conditional(scheduler, rule)
    root = scheduler.trigger(check)
    end(scheduler, "check", result={"rows": 0})
    [run] = [run for run in scheduler.runs() if run.task_name == "d"]
    assert (run.status, run.reason, run.error_message) == (RunStatus.SKIPPED, "upstream", None)
    told = skipping_event(scheduler, run)
    assert (told["expression"], told["error"]) == (rule, None)
    assert flow_status(scheduler, root) is FlowStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("upstream.check.result.lines > 0", "has no field 'lines'; its fields: rows"),
        ("upstream.check.result.rows > 'a'", "No such overload"),
        ("upstream.check.result.rows", "it is '3', and neither true nor false"),
        ("upstream.check.result.rows[0] == 1", "No such overload"),
        ("1 / (upstream.check.result.rows - 3) == 1", "division by zero"),
        ("upstream.check.reason.size() == 0", "reason"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_an_expression_that_cannot_be_told_starts_nothing_and_says_why(
    scheduler: InlineScheduler, rule: str, said: str
) -> None:
    check = conditional(scheduler, rule)
    root = scheduler.trigger(check)
    end(scheduler, "check", result={"rows": 3})
    [run] = [run for run in scheduler.runs() if run.task_name == "d"]
    assert (run.status, run.reason) == (RunStatus.SKIPPED, "expression")
    assert run.error_message is not None
    assert rule in run.error_message
    assert said in run.error_message
    assert skipping_event(scheduler, run)["error"] in run.error_message

    # What was to be decided was not: that is no success.
    assert flow_status(scheduler, root) is FlowStatus.FAILED


@pytest.mark.usefixtures("worker")
def test_an_expression_is_asked_when_all_upstream_runs_have_ended_whatever_they_came_to(
    scheduler: InlineScheduler,
) -> None:
    root = scheduler.create("root")
    upstream = [scheduler.create(name, dependencies=after(root)) for name in ("u0", "u1")]
    rule = 'upstream.u0.status == "failed" && upstream.u0.reason == "exit_code"'
    scheduler.create("d", dependencies=after(*upstream), trigger_rule=rule)
    scheduler.trigger(root)
    end(scheduler, "root")
    end(scheduler, "u0", fails=True)
    assert statuses(scheduler)["d"] == "waiting"
    end(scheduler, "u1", fails=True)
    assert statuses(scheduler)["d"] == "pending"


@pytest.mark.usefixtures("worker")
def test_expressions_along_a_chain_that_is_skipped_are_asked_with_its_beginning(
    scheduler: InlineScheduler,
) -> None:
    length = 1_200  # above any limit of recursion

    def define(transaction: Transaction) -> Task:
        first = create_task(transaction, definition("t0"), lambda _: ())
        for number in range(1, length):
            wanted = definition(
                f"t{number}",
                dependencies=[Dependency(f"name:t{number - 1}")],
                trigger_rule=f'upstream.t{number - 1}.status == "succeeded"',
            )
            create_task(transaction, wanted, lambda _: ())
        last = Dependency(f"name:t{length - 1}")
        rule = f'upstream["t{length - 1}"].reason == "upstream"'
        wanted = definition("last", dependencies=[last], trigger_rule=rule)
        create_task(transaction, wanted, lambda _: ())
        return first

    scheduler.trigger(scheduler.do(define))
    end(scheduler, "t0", fails=True)

    assert len(scheduler.runs(status=(RunStatus.SKIPPED,))) == length - 1
    assert statuses(scheduler)["last"] == "pending"


@pytest.mark.usefixtures("worker")
def test_an_expression_sees_the_results_of_all_parts_of_a_run_that_was_split(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register("w1", max_concurrent_tasks=10)
    root = scheduler.create("root")
    each = scheduler.create(
        "each", dependencies=after(root), strategy={"name": "shard", "count": 2}
    )
    rule = 'upstream.each.status == "failed" && upstream.each.results.exists(r, r == 1)'
    scheduler.create("d", dependencies=after(each), trigger_rule=rule)
    scheduler.trigger(root)
    end(scheduler, "root")
    scheduler.dispatch()
    first, second = scheduler.runs(each)
    scheduler.record(scheduler.start(first), success(1))
    assert statuses(scheduler)["d"] == "waiting"
    scheduler.record(scheduler.start(second), failure("exit_code", "1"))
    assert statuses(scheduler)["d"] == "pending"


@pytest.mark.usefixtures("worker")
def test_an_expression_sees_the_fire_time_and_a_task_outside_the_flow_run(
    scheduler: InlineScheduler,
) -> None:
    rates = scheduler.create("rates", schedule="@every 20s")
    orders = scheduler.create("orders", schedule="@every 20s")
    rule = (
        "upstream.rates.result == 7 && scheduled_for.getSeconds() == 20 && parameters.size() == 0"
    )
    scheduler.create("report", dependencies=after(rates, orders), trigger_rule=rule)
    scheduler.pass_time(20)
    scheduler.fire()
    end(scheduler, "rates", result=7)
    end(scheduler, "orders")
    scheduler.recover()
    reports = [run for run in scheduler.runs() if run.task_name == "report"]
    assert [run.status for run in reports] == [RunStatus.PENDING, RunStatus.PENDING]


@pytest.mark.usefixtures("worker")
def test_a_task_that_was_deleted_counts_as_cancelled_in_an_expression(
    scheduler: InlineScheduler,
) -> None:
    rates = scheduler.create("rates")
    a = scheduler.create("a")
    rule = 'upstream.rates.status == "cancelled" && upstream.rates.result == null'
    b = scheduler.create("b", dependencies=after(a, rates), trigger_rule=rule)
    scheduler.trigger(a)
    alone = msgspec.structs.replace(b.definition, dependencies=[], trigger_rule="all")
    scheduler.do(replace_task, b.id, alone, lambda _: ())
    end(scheduler, "a")
    assert statuses(scheduler)["b"] == "waiting"
    scheduler.do(delete_task, rates.id)
    assert statuses(scheduler)["b"] == "pending"


@pytest.mark.usefixtures("worker")
def test_results_that_are_too_large_to_look_into_are_not_read(scheduler: InlineScheduler) -> None:
    root = scheduler.create("root")
    names = [f"u{number}" for number in range(5)]
    upstream = [scheduler.create(name, dependencies=after(root)) for name in names]
    looks = " || ".join(f"upstream.{name}.result.x == 1" for name in names)
    scheduler.create("looks", dependencies=after(*upstream), trigger_rule=looks)
    ended = " && ".join(f'upstream.{name}.status == "succeeded"' for name in names)
    scheduler.create("counts", dependencies=after(*upstream), trigger_rule=ended)
    scheduler.trigger(root)
    end(scheduler, "root")
    for name in names:
        end(scheduler, name, result={"x": 1, "y": "a" * 250_000})
    found = {run.task_name: run for run in scheduler.runs()}
    assert found["counts"].status is RunStatus.PENDING
    assert "more than 1048576 bytes" in (found["looks"].error_message or "")


@pytest.mark.usefixtures("worker")
def test_an_expression_that_another_version_stored_and_this_one_refuses_holds_up_nobody(
    scheduler: InlineScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = conditional(scheduler, 'upstream.check.status == "succeeded"')
    scheduler.create("other", dependencies=after(check))
    scheduler.trigger(check)
    expression_of.cache_clear()
    monkeypatch.setattr(expression_syntax, "LONGEST", 10)
    end(scheduler, "check")

    assert statuses(scheduler) == {"check": "succeeded", "d": "skipped", "other": "pending"}
    [run] = [run for run in scheduler.runs() if run.task_name == "d"]
    assert "at most 10 characters" in (run.error_message or "")


@pytest.mark.usefixtures("worker")
def test_the_expression_of_a_run_is_explained_while_it_waits_and_after(
    scheduler: InlineScheduler,
) -> None:
    rule = "upstream.check.result.rows > 0"
    check = conditional(scheduler, rule)

    def detail() -> str:
        [run] = [run for run in scheduler.runs() if run.task_name == "d"]
        found = scheduler.look(lambda reads: explain(reads, run, scheduler.strategies))
        [gate] = [each for each in found.gates if each.gate == "dependencies"]
        assert not gate.passes
        return gate.detail

    root = scheduler.trigger(check)
    assert detail() == f"waits for run {root.id} of check (pending); then starts if {rule!r}"
    end(scheduler, "check", result={"rows": 0})
    assert detail() == f"{rule!r} was not true"


@pytest.mark.parametrize(
    ("rule", "changes", "pointer", "said"),
    [
        ("upstream.check.status ==", {}, "/trigger_rule", "at character 25"),
        ("upstream.other.status == 'x'", {}, "/trigger_rule", "there are: check"),
        ("true", {"dependencies": []}, "/trigger_rule", "needs `dependencies`"),
        (
            "upstream.check.status == 'failed'",
            {"dependencies": [Dependency("name:check", "failed")]},
            "/dependencies/0/condition",
            "leave it out",
        ),
        ("most", {}, "/trigger_rule", "give all, any, none_failed, or an expression"),
    ],
)
def test_an_expression_that_cannot_be_right_is_refused_where_it_stands(
    scheduler: InlineScheduler, rule: str, changes: dict[str, Any], pointer: str, said: str
) -> None:
    check = scheduler.create("check")
    with pytest.raises(InvalidInput) as refused:
        scheduler.create("d", **({"dependencies": after(check), "trigger_rule": rule} | changes))
    [problem] = refused.value.problems
    assert problem.pointer == pointer
    assert said in problem.message
