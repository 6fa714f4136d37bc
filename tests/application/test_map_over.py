"""A run that becomes one for each item of a list, one arrow of the story at a time."""

from collections.abc import Sequence
from typing import Any

import pytest

from tidemill.application.backfill_task import backfill_task
from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import create_task
from tidemill.application.prune_history import prune_history
from tidemill.application.queries.explain import explain
from tidemill.application.retry_flow_run import retry_flow_run
from tidemill.application.retry_runs import retry_runs
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task import Concurrency, Dependency, MapOver, Retry, Task
from tidemill.domain.task_run import Hold, LeasedRun, TaskRun, Trigger
from tidemill.errors import InvalidInput
from tidemill.testing.builders import definition
from tidemill.testing.inline import InlineScheduler


def after(*tasks: Task, condition: str = "succeeded") -> list[Dependency]:
    return [Dependency(f"name:{task.definition.name}", condition) for task in tasks]  # type: ignore[arg-type]


def mapped(
    scheduler: InlineScheduler, name: str, source: Task, *others: Task, **fields: Any
) -> Task:
    """A task that is mapped over another."""
    said = {"max_parallel": None} | fields.pop("map_over", {})
    return scheduler.create(
        name,
        dependencies=after(source, *others),
        map_over=MapOver(f"name:{source.definition.name}", **said),
        **fields,
    )


def of(scheduler: InlineScheduler, task: Task) -> list[TaskRun]:
    """The runs of a task, in the order of their ids, as they stand."""
    return scheduler.runs(task)


def statuses(scheduler: InlineScheduler, task: Task) -> list[str]:
    return [run.status.value for run in of(scheduler, task)]


def end(scheduler: InlineScheduler, run: TaskRun, result: Any = None) -> LeasedRun:
    """Run a run and let it succeed; as it was claimed."""
    held = scheduler.start(run)
    scheduler.record(held, success(result))
    return held


def fail(scheduler: InlineScheduler, run: TaskRun) -> None:
    scheduler.record(scheduler.start(run), failure("exit_code", "exit code 1", exit_code=1))


def flow_run(scheduler: InlineScheduler, run: TaskRun) -> FlowRun:
    assert run.flow_run_id is not None
    flow_run_id = run.flow_run_id
    found = scheduler.look(lambda reads: reads.flow_run(flow_run_id))
    assert found is not None
    return found


@pytest.fixture
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=1_000)


@pytest.fixture
def split(scheduler: InlineScheduler, worker: str) -> Task:
    """What returns lists."""
    return scheduler.create("split")


def split_into(scheduler: InlineScheduler, split: Task, result: Any) -> TaskRun:
    """Trigger the task and let it return this; its run."""
    root = scheduler.trigger(split)
    end(scheduler, root, result)
    return root


def test_a_run_is_made_for_each_item_when_the_list_is_there(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    root = split_into(scheduler, split, ["a", {"n": 2}, None])

    runs = of(scheduler, process)
    assert [run.parameters for run in runs] == [
        {"item": "a", "item_index": 0, "item_total": 3},
        {"item": {"n": 2}, "item_index": 1, "item_total": 3},
        {"item": None, "item_index": 2, "item_total": 3},
    ]
    assert {(run.status, run.trigger, run.flow_run_id, run.scheduled_for) for run in runs} == {
        (RunStatus.PENDING, Trigger.DEPENDENCY, root.flow_run_id, root.scheduled_for)
    }
    assert [(run.part_of, run.shard_index, run.shard_total) for run in runs] == [
        (runs[0].id, 0, 3), (runs[0].id, 1, 3), (runs[0].id, 2, 3),
    ]  # fmt: skip
    counted = flow_run(scheduler, root)
    assert (counted.total, counted.unfinished) == (4, 3)
    for run in runs:
        end(scheduler, run)
    assert flow_run(scheduler, root).status is FlowStatus.SUCCEEDED


def test_items_start_in_their_order(scheduler: InlineScheduler, split: Task) -> None:
    process = mapped(scheduler, "process", split)
    split_into(scheduler, split, list(range(30)))

    [message] = scheduler.dispatch().messages
    assert list(message.run_ids) == [run.id for run in of(scheduler, process)]


def test_a_dependent_waits_for_every_item_and_gets_the_results_in_order(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    merge = scheduler.create("merge", dependencies=after(process))
    split_into(scheduler, split, [1, 2, 3])
    for run in reversed(of(scheduler, process)):
        assert statuses(scheduler, merge) == ["waiting"]
        end(scheduler, run, run.parameters["item"] * 10)

    [merging] = of(scheduler, merge)
    assert scheduler.start(merging).parameters == {"upstream": {"process": [10, 20, 30]}}


def test_the_result_of_one_item_is_a_list_too(scheduler: InlineScheduler, split: Task) -> None:
    process = mapped(scheduler, "process", split)
    merge = scheduler.create("merge", dependencies=after(process))
    split_into(scheduler, split, ["only"])
    [run] = of(scheduler, process)
    end(scheduler, run, "done")

    [merging] = of(scheduler, merge)
    assert scheduler.start(merging).parameters["upstream"] == {"process": ["done"]}


@pytest.mark.parametrize(
    ("condition", "rule", "ends", "then"),
    [
        ("succeeded", "all", [True, True], "pending"),
        ("succeeded", "all", [False], "skipped"),
        ("completed", "all", [False], "waiting"),
        ("completed", "all", [False, True], "pending"),
        ("failed", "all", [False, True], "skipped"),
        ("failed", "all", [False, False], "pending"),
        ("succeeded", "none_failed", [True], "waiting"),
        ("succeeded", "none_failed", [True, True], "pending"),
        ("succeeded", "none_failed", [False], "skipped"),
        ("succeeded", "any", [True], "pending"),
        ("succeeded", "any", [False], "waiting"),
        ("succeeded", "any", [False, False], "skipped"),
        ("failed", "any", [True, False], "pending"),
    ],
)
def test_conditions_and_rules_count_each_item(
    scheduler: InlineScheduler,
    split: Task,
    condition: str,
    rule: str,
    ends: Sequence[bool],
    then: str,
) -> None:
    process = mapped(scheduler, "process", split)
    merge = scheduler.create(
        "merge", dependencies=after(process, condition=condition), trigger_rule=rule
    )
    split_into(scheduler, split, ["a", "b"])
    for run, succeeds in zip(of(scheduler, process), ends, strict=False):
        end(scheduler, run) if succeeds else fail(scheduler, run)

    assert statuses(scheduler, merge) == [then]


def test_what_an_item_that_did_not_succeed_returned_is_null_in_its_place(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    merge = scheduler.create("merge", dependencies=after(process, condition="completed"))
    root = split_into(scheduler, split, ["a", "b", "c"])
    first, second, third = of(scheduler, process)
    fail(scheduler, second)
    end(scheduler, third, 3)
    end(scheduler, first, 1)

    [merging] = of(scheduler, merge)
    held = scheduler.start(merging)
    assert held.parameters["upstream"] == {"process": [1, None, 3]}
    scheduler.record(held)
    assert flow_run(scheduler, root).status is FlowStatus.SUCCEEDED  # somebody waited for failures


@pytest.mark.parametrize(
    ("field", "result"),
    [("files", {"files": ["a", "b"]}), ("page.files", {"page": {"files": ["a", "b"]}})],
)
def test_the_list_may_be_a_field_of_the_result(
    scheduler: InlineScheduler, split: Task, field: str, result: Any
) -> None:
    process = mapped(scheduler, "process", split, map_over={"field": field})
    split_into(scheduler, split, result)

    assert [run.parameters["item"] for run in of(scheduler, process)] == ["a", "b"]


@pytest.mark.parametrize(
    ("said", "result", "reason", "message"),
    [
        (
            {}, {"a": 1}, "not_a_list",
            "the result of name:split is an object of 1 fields, not a list",
        ),
        ({}, None, "not_a_list", "the result of name:split is null, not a list"),
        ({}, "text", "not_a_list", "the result of name:split is a text, not a list"),
        ({}, False, "not_a_list", "the result of name:split is false, not a list"),
        (
            {"field": "files"}, [1], "not_a_list",
            "the result of name:split is a list of 1 and has no field 'files'",
        ),
        (
            {"field": "page.files"}, {"page": {"files": 7}}, "not_a_list",
            "'files' in 'page' in the result of name:split is a number, not a list",
        ),
        (
            {"max_items": 2}, [1, 2, 3], "too_many_items",
            "the result of name:split has 3 items; map_over.max_items is 2",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_over_ends_the_run_and_is_said(
    scheduler: InlineScheduler,
    split: Task,
    said: dict[str, Any],
    result: Any,
    reason: str,
    message: str,
) -> None:
    process = mapped(scheduler, "process", split, map_over=said)
    merge = scheduler.create("merge", dependencies=after(process))
    complain = scheduler.create("complain", dependencies=after(process, condition="completed"))
    root = split_into(scheduler, split, result)

    [run] = of(scheduler, process)
    assert (run.status, run.reason, run.error_message) == (RunStatus.CANCELLED, reason, message)
    assert scheduler.events(run)[-1].data["reason"] == reason
    assert statuses(scheduler, merge) == ["skipped"]
    [complaining] = of(scheduler, complain)
    assert end(scheduler, complaining).parameters["upstream"] == {"process": None}
    assert flow_run(scheduler, root).unfinished == 0


def test_a_list_that_nobody_could_be_mapped_over_cancels_the_flow_run(
    scheduler: InlineScheduler, split: Task
) -> None:
    mapped(scheduler, "process", split)
    root = split_into(scheduler, split, "no list")

    assert flow_run(scheduler, root).status is FlowStatus.CANCELLED


def test_an_empty_list_makes_no_run_and_those_below_see_it_by_their_rules(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    every = scheduler.create("every", dependencies=after(process))
    merge = scheduler.create("merge", dependencies=after(process), trigger_rule="none_failed")
    root = split_into(scheduler, split, [])

    [run] = of(scheduler, process)
    assert (run.status, run.reason, run.error_message) == (RunStatus.SKIPPED, "empty", None)
    assert statuses(scheduler, every) == ["skipped"]
    [merging] = of(scheduler, merge)
    assert end(scheduler, merging).parameters["upstream"] == {"process": []}
    counted = flow_run(scheduler, root)
    assert (counted.total, counted.unfinished, counted.status) == (4, 0, FlowStatus.SUCCEEDED)


def test_what_is_gathered_can_be_mapped_over_again(scheduler: InlineScheduler, split: Task) -> None:
    double = mapped(scheduler, "double", split)
    square = mapped(scheduler, "square", double)
    merge = scheduler.create("merge", dependencies=after(square))
    root = split_into(scheduler, split, [1, 2, 3])
    for run in of(scheduler, double):
        end(scheduler, run, run.parameters["item"] * 2)
    assert [run.parameters["item"] for run in of(scheduler, square)] == [2, 4, 6]
    for run in of(scheduler, square):
        end(scheduler, run, run.parameters["item"] ** 2)

    [merging] = of(scheduler, merge)
    assert end(scheduler, merging).parameters["upstream"] == {"square": [4, 16, 36]}
    counted = flow_run(scheduler, root)
    assert (counted.total, counted.unfinished) == (8, 0)


def test_a_chain_of_maps_over_nothing_ends_with_its_beginning(
    scheduler: InlineScheduler, split: Task
) -> None:
    first = mapped(scheduler, "first", split)
    second = mapped(scheduler, "second", first, trigger_rule="none_failed")
    third = mapped(scheduler, "third", second, trigger_rule="none_failed")
    merge = scheduler.create("merge", dependencies=after(third), trigger_rule="none_failed")
    split_into(scheduler, split, [])

    ends = {
        (run.status, run.reason) for each in (first, second, third) for run in of(scheduler, each)
    }
    assert ends == {(RunStatus.SKIPPED, "empty")}
    [merging] = of(scheduler, merge)
    assert scheduler.start(merging).parameters["upstream"] == {"third": []}


def test_a_run_is_skipped_when_what_it_is_mapped_over_was(
    scheduler: InlineScheduler, split: Task
) -> None:
    middle = scheduler.create("middle", dependencies=after(split))
    process = mapped(scheduler, "process", middle, trigger_rule="none_failed")
    fail(scheduler, scheduler.trigger(split))

    [run] = of(scheduler, process)
    assert (run.status, run.reason) == (RunStatus.SKIPPED, "upstream")


def test_an_item_gets_the_results_of_all_upstream_tasks(
    scheduler: InlineScheduler, split: Task
) -> None:
    rates = scheduler.create("rates", dependencies=after(split))
    process = mapped(scheduler, "process", split, rates)
    split_into(scheduler, split, ["a", "b"])
    [found] = of(scheduler, rates)
    end(scheduler, found, {"eur": 1})

    upstream = {"split": ["a", "b"], "rates": {"eur": 1}}
    told = [end(scheduler, run).parameters for run in of(scheduler, process)]
    assert told == [
        {"item": item, "item_index": n, "item_total": 2, "upstream": upstream}
        for n, item in enumerate("ab")
    ]


def test_what_a_strategy_split_is_mapped_over_as_the_list_of_its_parts(
    scheduler: InlineScheduler, worker: str
) -> None:
    split = scheduler.create("split", strategy={"name": "shard", "count": 2})
    process = mapped(scheduler, "process", split)
    scheduler.trigger(split)
    scheduler.dispatch()
    for run in of(scheduler, split):
        end(scheduler, run, f"part {run.shard_index}")

    assert [run.parameters["item"] for run in of(scheduler, process)] == ["part 0", "part 1"]


def test_items_are_not_split_whatever_the_default_strategy(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    split_into(scheduler, split, ["only"])
    scheduler.strategies.set_default({"name": "shard", "count": 3})
    scheduler.dispatch()

    assert statuses(scheduler, process) == ["dispatched"]


def test_a_worker_is_told_the_place_of_an_item(scheduler: InlineScheduler, split: Task) -> None:
    process = mapped(scheduler, "process", split)
    split_into(scheduler, split, ["a", "b"])
    scheduler.dispatch()

    claimed = scheduler.claim(*(run.id for run in of(scheduler, process)))
    assert [(each.shard.index, each.shard.total) for each in claimed] == [(0, 2), (1, 2)]


def test_a_mapped_task_outside_the_flow_run_counts_once_all_of_its_items_have_ended(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    orders = scheduler.create("orders")
    report = scheduler.create("report", dependencies=after(orders, process), overlap="allow")
    each = mapped(scheduler, "each", process, orders)
    end(scheduler, scheduler.trigger(orders))
    split_into(scheduler, split, ["a", "b", "c"])
    for run in reversed(of(scheduler, process)):
        scheduler.recover()
        assert [run.status.value for run in of(scheduler, report)[:1]] == ["waiting"]
        end(scheduler, run, run.parameters["item"] * 2)
    scheduler.recover()

    [reporting, _] = of(scheduler, report)
    told = scheduler.start(reporting).parameters["upstream"]
    assert told == {"orders": None, "process": ["aa", "bb", "cc"]}
    outside = [run for run in of(scheduler, each) if run.flow_run_id == reporting.flow_run_id]
    assert [run.parameters["item"] for run in outside] == ["aa", "bb", "cc"]


def test_each_item_outside_the_flow_run_is_counted(scheduler: InlineScheduler, split: Task) -> None:
    process = mapped(scheduler, "process", split)
    orders = scheduler.create("orders")
    report = scheduler.create("report", dependencies=after(orders, process))
    root = scheduler.trigger(orders)
    end(scheduler, root)
    split_into(scheduler, split, ["a", "b"])
    first, second = of(scheduler, process)
    fail(scheduler, second)
    end(scheduler, first)
    scheduler.do(lambda t: retry_runs(t, list(t.runs([second.id]).values())))
    end(scheduler, of(scheduler, process)[-1])  # an item tried again is not the whole
    scheduler.recover()

    assert {run.status.value for run in of(scheduler, report)} == {"skipped"}
    assert flow_run(scheduler, root).unfinished == 0


# how many at once


def test_no_more_items_start_than_max_parallel_and_the_next_follows_each_end(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 2})
    split_into(scheduler, split, list(range(5)))
    assert [run.hold for run in of(scheduler, process)] == [None] * 2 + [Hold.LIMIT] * 3
    scheduler.dispatch()
    first, second, third, fourth, fifth = of(scheduler, process)
    assert statuses(scheduler, process) == ["dispatched"] * 2 + ["pending"] * 3
    for run, follower in ((second, third), (first, fourth), (third, fifth)):
        [claimed] = scheduler.claim(run.id)
        scheduler.record(claimed.run)
        scheduler.dispatch()
        assert scheduler.run(follower).status is RunStatus.DISPATCHED
        going = [each for each in statuses(scheduler, process) if each == "dispatched"]
        assert len(going) == 2


def test_each_flow_run_has_a_bound_of_its_own(scheduler: InlineScheduler, split: Task) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 1}, overlap="allow")
    split_into(scheduler, split, ["a", "b"])
    split_into(scheduler, split, ["c", "d"])
    scheduler.dispatch()

    assert [run.parameters["item"] for run in of(scheduler, process) if run.hold is None] == [
        "a", "c",
    ]  # fmt: skip


def test_the_limit_of_the_task_binds_items_where_it_has_one(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(
        scheduler,
        "process",
        split,
        concurrency=Concurrency("shared", 2),
        map_over={"max_parallel": 3},
    )
    split_into(scheduler, split, list(range(4)))
    scheduler.dispatch()

    assert [(run.concurrency_key, run.concurrency_limit) for run in of(scheduler, process)] == [
        ("shared", 2)
    ] * 4
    assert statuses(scheduler, process) == ["dispatched"] * 2 + ["pending"] * 2


def test_a_backfill_and_a_map_each_ask_for_no_more_than_the_other_allows(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(
        scheduler, "process", split, schedule="@every 10s", map_over={"max_parallel": 1}
    )
    scheduler.pass_time(11)
    scheduler.do(
        backfill_task, process.id, process.created_at, scheduler.clock.now(), max_parallel=2
    )
    scheduler.trigger(split)
    [run] = of(scheduler, split)
    end(scheduler, run, ["a", "b"])
    scheduler.recover()

    filled = [run for run in of(scheduler, process) if run.trigger is Trigger.BACKFILL]
    assert {(run.parameters.get("item"), run.concurrency_limit) for run in filled} == {
        ("a", 1), ("b", 1),
    }  # fmt: skip
    assert {str(run.concurrency_key).partition(":")[0] for run in filled} == {"backfill"}


def test_items_that_waited_for_an_earlier_run_of_their_task_go_together(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    split_into(scheduler, split, ["a", "b"])
    split_into(scheduler, split, ["c", "d"])
    first, second, third, fourth = of(scheduler, process)
    assert (third.hold, fourth.hold) == (Hold.CATCH_UP, Hold.CATCH_UP)
    end(scheduler, first)
    assert scheduler.run(third).hold is Hold.CATCH_UP
    end(scheduler, second)

    assert [scheduler.run(each).hold for each in (third, fourth)] == [None, None]


# what fails, is cancelled, retried


def test_with_on_failure_stop_what_has_not_started_is_cancelled_and_what_runs_goes_on(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"on_failure": "stop"})
    merge = scheduler.create("merge", dependencies=after(process, condition="completed"))
    root = split_into(scheduler, split, list(range(5)))
    first, second, third, fourth, _ = of(scheduler, process)
    fails, goes_on = scheduler.start(first), scheduler.start(second)
    end(scheduler, third, "done")
    assert scheduler.run(fourth).status is RunStatus.DISPATCHED
    scheduler.record(fails, failure("exit_code", "exit code 1", exit_code=1))

    runs = of(scheduler, process)
    assert [(run.status.value, run.reason) for run in runs] == [
        ("failed", "exit_code"),
        ("running", None),
        ("succeeded", None),
        ("cancelled", "map_stopped"),
        ("cancelled", "map_stopped"),
    ]
    assert flow_run(scheduler, root).unfinished == 2
    scheduler.record(goes_on, success("slow"))
    [merging] = of(scheduler, merge)
    assert scheduler.start(merging).parameters["upstream"] == {
        "process": [None, "slow", "done", None, None]
    }


def test_a_failed_attempt_that_is_tried_again_stops_nothing(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(
        scheduler, "process", split, map_over={"on_failure": "stop"}, retry=Retry(max_retries=1)
    )
    split_into(scheduler, split, ["a", "b"])
    [first, _] = of(scheduler, process)
    fail(scheduler, first)
    assert statuses(scheduler, process) == ["retrying", "dispatched"]
    scheduler.pass_time(60)
    fail(scheduler, first)

    assert statuses(scheduler, process) == ["failed", "cancelled"]


def test_a_stop_leaves_alone_what_is_no_item_of_the_same_list(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"on_failure": "stop"}, overlap="allow")
    split_into(scheduler, split, ["a", "b"])
    split_into(scheduler, split, ["c", "d"])
    scheduler.trigger(process)
    fail(scheduler, of(scheduler, process)[0])

    assert statuses(scheduler, process) == [
        "failed", "cancelled", "dispatched", "dispatched", "dispatched",
    ]  # fmt: skip


def test_a_stop_makes_room_under_the_key_that_its_items_shared(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(
        scheduler,
        "process",
        split,
        concurrency=Concurrency("shared", 2),
        map_over={"on_failure": "stop"},
    )
    other = scheduler.create("other", concurrency=Concurrency("shared", 2))
    split_into(scheduler, split, ["a", "b", "c"])
    scheduler.dispatch()
    waiting = scheduler.trigger(other)
    scheduler.dispatch()
    assert scheduler.run(waiting).hold is Hold.LIMIT
    fail(scheduler, of(scheduler, process)[0])

    assert scheduler.run(waiting).hold is None


def test_items_of_a_run_that_waits_for_them_can_be_cancelled_one_by_one(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"on_failure": "stop"})
    merge = scheduler.create("merge", dependencies=after(process, condition="completed"))
    split_into(scheduler, split, ["a", "b"])
    first, second = of(scheduler, process)
    scheduler.do(lambda t: cancel_runs(t, list(t.runs([first.id]).values()), "cancelled_by_user"))
    assert statuses(scheduler, process) == ["cancelled", "pending"]  # no failure: nothing stops
    end(scheduler, second, 2)

    [merging] = of(scheduler, merge)
    assert scheduler.start(merging).parameters["upstream"] == {"process": [None, 2]}


def test_a_retry_of_an_item_is_the_same_item_outside_of_the_flow_run(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"on_failure": "stop"})
    root = split_into(scheduler, split, ["a", "b"])
    first, second = of(scheduler, process)
    fail(scheduler, first)
    scheduler.do(lambda t: retry_runs(t, list(t.runs([first.id]).values())))

    again = of(scheduler, process)[-1]
    assert (again.retry_of, again.parameters["item"], again.flow_run_id) == (first.id, "a", None)
    assert flow_run(scheduler, root).total == 3
    fail(scheduler, again)
    assert scheduler.run(second).reason == "map_stopped"


def test_a_mapped_task_that_is_asked_for_by_hand_runs_as_it_is(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    run = scheduler.trigger(process, parameters={"item": "by hand"})

    assert (run.status, run.part_of) == (RunStatus.PENDING, None)
    assert scheduler.start(run).parameters == {"item": "by hand"}


# what is seen of it


def test_the_critical_path_leads_through_the_slowest_item(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    merge = scheduler.create("merge", dependencies=after(process))
    root = split_into(scheduler, split, ["a", "b", "c"])
    first, second, third = of(scheduler, process)
    for run in (first, third, second):
        scheduler.pass_time(1)
        end(scheduler, run)
    scheduler.pass_time(1)
    [merging] = of(scheduler, merge)
    end(scheduler, merging)

    assert root.flow_run_id is not None
    flow_run_id = root.flow_run_id
    members = scheduler.look(lambda reads: reads.members(flow_run_id, 0, 1_000))
    path = scheduler.look(lambda reads: reads.critical_path(flow_run_id))
    assert path == [root.id, second.id, merging.id]
    assert [(each.part_of, each.shard_index) for each in members if each.part_of] == [
        (first.id, 0), (first.id, 1), (first.id, 2),
    ]  # fmt: skip


def test_an_item_is_explained_by_its_place_and_its_bound(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 1})
    merge = scheduler.create("merge", dependencies=after(process))
    split_into(scheduler, split, ["a", "b", "c"])
    first, second, _ = of(scheduler, process)
    scheduler.start(first)
    [merging] = of(scheduler, merge)

    def said(run: TaskRun, gate: str) -> tuple[bool, str]:
        run = scheduler.run(run)
        found = scheduler.look(lambda reads: explain(reads, run, scheduler.strategies))
        return next((each.passes, each.detail) for each in found.gates if each.gate == gate)

    assert said(second, "dependencies") == (
        True, f"waits for no upstream run; it is number 2 of the 3 that run {first.id} became",
    )  # fmt: skip
    passes, detail = said(second, "concurrency")
    assert not passes
    assert detail == f"1 of 1 running under 'map:{second.flow_run_id}:{process.id}'"
    assert said(merging, "dependencies") == (
        False,
        f"waits for 3 of the 3 runs of process, the first of them run {first.id} (running)",
    )


def test_a_run_that_could_not_be_mapped_is_explained(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    split_into(scheduler, split, 7)
    [run] = of(scheduler, process)

    found = scheduler.look(lambda reads: explain(reads, run, scheduler.strategies))
    gate = next(each for each in found.gates if each.gate == "dependencies")
    assert (gate.passes, gate.detail) == (
        False, "the result of name:split is a number, not a list",
    )  # fmt: skip


def test_a_flow_run_is_cancelled_and_pruned_with_all_of_its_items(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 2})
    scheduler.create("merge", dependencies=after(process))
    root = split_into(scheduler, split, list(range(20)))
    open_runs = [run.id for run in scheduler.runs() if run.status not in FINAL]
    scheduler.do(lambda t: cancel_runs(t, list(t.runs(open_runs).values()), "cancelled_by_user"))
    counted = flow_run(scheduler, root)
    assert (counted.total, counted.unfinished, counted.status) == (22, 0, FlowStatus.CANCELLED)
    scheduler.pass_time(10)
    scheduler.do(prune_history, scheduler.clock.now() - root.created_at, 1_000)

    assert scheduler.runs() == []
    assert scheduler.look(lambda reads: reads.flow_run(str(root.flow_run_id))) is None


# what is refused


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        ({"dependencies": []}, "/map_over/task", "is not among `dependencies`"),
        (
            {"dependencies": [Dependency("name:split", "failed")]},
            "/map_over/task",
            "may not be 'failed'",
        ),
        ({"trigger_rule": "any"}, "/trigger_rule", "before its list is there"),
        ({"strategy": "broadcast"}, "/strategy", "are parts already"),
        ({"concurrency": Concurrency(limit=4)}, "/map_over/max_parallel", "may not be lower"),
    ],
)
def test_a_map_that_could_not_be_kept_is_refused(
    scheduler: InlineScheduler, fields: dict[str, Any], pointer: str, message: str
) -> None:
    scheduler.create("split")
    said = {"dependencies": [Dependency("name:split")]} | fields
    wanted = definition("process", map_over=MapOver("name:split", max_parallel=3), **said)
    with pytest.raises(InvalidInput) as refused:
        scheduler.do(create_task, wanted, scheduler.strategies.check)

    [problem] = refused.value.problems
    assert problem.pointer == pointer
    assert message in problem.message
    assert scheduler.look(lambda reads: reads.task_named("default", "process")) is None


# what it costs


def test_a_thousand_items_are_made_in_one_transaction(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 5})
    merge = scheduler.create("merge", dependencies=after(process))
    root = split_into(scheduler, split, list(range(1_000)))

    assert [run.parameters["item"] for run in of(scheduler, process)] == list(range(1_000))
    assert flow_run(scheduler, root).total == 1_002
    [merging] = of(scheduler, merge)
    assert len(scheduler.look(lambda reads: reads.edges_into([merging.id]))) == 1_000


def test_the_items_that_failed_are_run_again_within_their_bound_and_the_others_count(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, map_over={"max_parallel": 1})
    merge = scheduler.create("merge", dependencies=after(process))
    root = split_into(scheduler, split, ["a", "b", "c", "d"])
    first, second, third, fourth = of(scheduler, process)
    fail(scheduler, first)
    end(scheduler, second, "B")
    fail(scheduler, third)
    end(scheduler, fourth, "D")
    new = scheduler.do(retry_flow_run, flow_run(scheduler, root), "then")

    again = [run for run in of(scheduler, process) if run.flow_run_id == new.id]
    assert [(run.parameters["item"], run.shard_index) for run in again] == [("a", 0), ("c", 2)]
    assert {(run.concurrency_key, run.concurrency_limit) for run in again} == {
        (f"map:{new.id}:{process.id}", 1)
    }
    for run, result in zip(again, "AC", strict=True):
        held = end(scheduler, run, result)
        assert held.parameters["upstream"] == {"split": ["a", "b", "c", "d"]}
    [merging] = [run for run in of(scheduler, merge) if run.flow_run_id == new.id]
    assert end(scheduler, merging).parameters["upstream"] == {"process": ["A", "B", "C", "D"]}
    assert flow_run(scheduler, merging).status is FlowStatus.SUCCEEDED


def test_a_map_that_had_no_list_is_mapped_when_its_flow_run_is_run_again(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    root = scheduler.trigger(split)
    fail(scheduler, root)
    assert statuses(scheduler, process) == ["skipped"]
    new = scheduler.do(retry_flow_run, flow_run(scheduler, root), "then")
    [again] = [run for run in of(scheduler, split) if run.flow_run_id == new.id]
    end(scheduler, again, ["a", "b"])

    items = [run for run in of(scheduler, process) if run.flow_run_id == new.id]
    assert [run.parameters["item"] for run in items] == ["a", "b"]


def test_an_empty_list_beside_a_failure_is_mapped_again_and_is_empty_again(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split)
    other = scheduler.create("other", dependencies=after(split))
    root = split_into(scheduler, split, [])
    [failing] = of(scheduler, other)
    fail(scheduler, failing)
    scheduler.do(retry_flow_run, flow_run(scheduler, root), "then")

    assert statuses(scheduler, process) == ["skipped", "skipped"]
    assert [run.reason for run in of(scheduler, process)] == ["empty", "empty"]


@pytest.mark.parametrize(("items", "starts"), [(["a"], "pending"), ([], "skipped")])
def test_an_expression_sees_what_items_returned_as_a_list_whatever_their_number(
    scheduler: InlineScheduler, split: Task, items: list[str], starts: str
) -> None:
    process = mapped(scheduler, "process", split)
    rule = 'upstream.process.results == ["done"]'
    merge = scheduler.create("merge", dependencies=after(process), trigger_rule=rule)
    split_into(scheduler, split, items)
    for run in of(scheduler, process):
        if run.status not in FINAL:
            end(scheduler, run, "done")

    assert statuses(scheduler, merge) == [starts]
    [merging] = of(scheduler, merge)
    assert merging.reason == (None if items else "upstream")


def test_a_mapped_run_may_ask_an_expression_before_it_becomes_its_items(
    scheduler: InlineScheduler, split: Task
) -> None:
    rule = "upstream.split.result.size() > 1"
    process = mapped(scheduler, "process", split, trigger_rule=rule)
    split_into(scheduler, split, ["a"])
    split_into(scheduler, split, ["a", "b"])

    assert statuses(scheduler, process) == ["skipped", "pending", "pending"]


def test_a_root_that_is_mapped_becomes_its_items_when_its_turn_comes(
    scheduler: InlineScheduler, split: Task
) -> None:
    process = mapped(scheduler, "process", split, schedule="@every 1m", overlap="allow")
    scheduler.create("merge", dependencies=after(process))
    since = scheduler.clock.now()
    scheduler.pass_time(180)
    outside = scheduler.trigger(split)
    scheduler.do(backfill_task, process.id, since, scheduler.clock.now(), max_parallel=1)
    own = outside.flow_run_id
    end(scheduler, outside, ["a", "b"])
    scheduler.recover()

    begun = [run for run in of(scheduler, process) if run.flow_run_id != own]
    assert [run.hold for run in begun if run.part_of is None] == [Hold.TURN]
    first = [run for run in begun if run.part_of is not None]
    assert [run.parameters["item"] for run in first] == ["a", "b"]
