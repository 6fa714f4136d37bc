"""Tasks are defined, changed and deleted."""

from datetime import timedelta
from typing import Any

import pytest

from tidemill.application.define_task import create_task, delete_task, replace_task
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Dependency, Task, TaskStatus
from tidemill.domain.task_run import Hold
from tidemill.errors import Conflict, InvalidInput, NotFound, Problem, VersionMismatch
from tidemill.testing.builders import definition
from tidemill.testing.clock import START
from tidemill.testing.inline import InlineScheduler


def replace(scheduler: InlineScheduler, task: Task, name: str = "a-task", **fields: Any) -> Task:
    return scheduler.do(replace_task, task.id, definition(name, **fields), lambda wanted: ())


def after(*names: str) -> list[Dependency]:
    return [Dependency(f"name:{name}") for name in names]


def test_a_new_task_waits_for_its_first_time(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 1h")

    assert (task.version, task.status) == (1, TaskStatus.ACTIVE)
    assert task.next_run_at == START + timedelta(hours=1)
    assert scheduler.task(task) == task


def test_everything_that_is_wrong_is_said_at_once(scheduler: InlineScheduler) -> None:
    wanted = definition(schedule="61 * * * *", dependencies=after("nobody", "a-task"))
    with pytest.raises(InvalidInput) as refused:
        scheduler.do(create_task, wanted, lambda each: [Problem("/command", "is empty")])

    pointers = [problem.pointer for problem in refused.value.problems]
    assert pointers == ["/command", "/schedule", "/dependencies/0/task", "/dependencies/1/task"]


def test_a_schedule_without_a_time_left_is_refused(scheduler: InlineScheduler) -> None:
    with pytest.raises(InvalidInput, match="never fires"):
        scheduler.create(schedule="@at 2025-12-31T23:59:59Z")


def test_a_taken_name_is_a_conflict_for_a_new_and_for_a_renamed_task(
    scheduler: InlineScheduler,
) -> None:
    scheduler.create("taken")
    other = scheduler.create("other")

    with pytest.raises(Conflict, match="exists already"):
        scheduler.create("taken")
    with pytest.raises(Conflict, match="exists already"):
        replace(scheduler, other, "taken")
    assert scheduler.task(other) == other


def test_the_same_definition_again_changes_nothing(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@hourly")

    assert replace(scheduler, task, schedule="@hourly") == task


def test_an_edit_of_a_version_that_is_gone_is_refused(scheduler: InlineScheduler) -> None:
    task = scheduler.create()
    replace(scheduler, task, command="false")

    with pytest.raises(VersionMismatch):
        scheduler.do(
            replace_task, task.id, definition(), lambda wanted: (), expected_edition=task.edition
        )
    with pytest.raises(NotFound):
        scheduler.do(replace_task, 4711, definition(), lambda wanted: ())


def test_what_was_due_before_an_edit_fires_under_the_old_version(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 10s", overlap="allow")
    scheduler.pass_time(25)
    edited = replace(scheduler, task, schedule="@every 20s", overlap="allow")
    scheduler.pass_time(20)
    scheduler.fire()

    fired = [(run.scheduled_for - START, run.task_version) for run in scheduler.runs()]
    assert fired == [
        (timedelta(seconds=10), 1),
        (timedelta(seconds=20), 1),
        (timedelta(seconds=45), 2),
    ]
    assert edited.version == 2


def test_an_edit_that_leaves_the_times_alone_leaves_the_schedule_where_it_is(
    scheduler: InlineScheduler,
) -> None:
    task = scheduler.create(schedule="@every 1h")
    scheduler.pass_time(600)
    edited = replace(scheduler, task, "renamed", schedule="@every 1h", command="false")

    assert edited.next_run_at == START + timedelta(hours=1)
    assert edited.anchor_at == task.anchor_at


def test_a_one_shot_that_is_done_can_still_be_renamed(scheduler: InlineScheduler) -> None:
    schedule = "@at 2026-01-01T00:00:10Z"
    task = scheduler.create(schedule=schedule)
    scheduler.pass_time(10)
    scheduler.fire()
    renamed = replace(scheduler, task, "renamed", schedule=schedule)

    assert renamed.next_run_at is None
    scheduler.pass_time(3_600)
    scheduler.fire()
    assert len(scheduler.runs()) == 1


def test_a_renamed_task_spreads_by_its_new_name(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="H H * * *")
    twin = scheduler.create("twin", schedule="H H * * *")
    scheduler.do(delete_task, twin.id)
    renamed = replace(scheduler, task, "twin", schedule="H H * * *")

    assert renamed.next_run_at == twin.next_run_at


def test_a_task_with_dependents_is_not_deleted_renamed_or_moved_from_under_them(
    scheduler: InlineScheduler,
) -> None:
    upstream = scheduler.create("upstream")
    scheduler.create("downstream", dependencies=after("upstream"))

    with pytest.raises(Conflict, match="downstream"):
        scheduler.do(delete_task, upstream.id)
    with pytest.raises(Conflict, match="downstream"):
        replace(scheduler, upstream, "renamed")
    with pytest.raises(Conflict, match="downstream"):
        replace(scheduler, upstream, "upstream", namespace="elsewhere")
    assert replace(scheduler, upstream, "upstream", command="false").version == 2


def test_a_task_that_is_named_by_its_id_may_be_renamed(scheduler: InlineScheduler) -> None:
    upstream = scheduler.create("upstream")
    scheduler.create("downstream", dependencies=[Dependency(str(upstream.id))])

    assert replace(scheduler, upstream, "renamed").definition.name == "renamed"
    with pytest.raises(Conflict):
        replace(scheduler, upstream, "renamed", namespace="elsewhere")


def test_a_circle_is_refused_with_its_way(scheduler: InlineScheduler) -> None:
    first = scheduler.create("first")
    scheduler.create("second", dependencies=after("first"))
    scheduler.create("third", dependencies=after("second"))

    with pytest.raises(InvalidInput) as refused:
        replace(scheduler, first, "first", dependencies=after("third"))
    [problem] = refused.value.problems
    assert problem.pointer == "/dependencies"
    assert all(name in problem.message for name in ("first", "second", "third"))
    with pytest.raises(InvalidInput):
        replace(scheduler, first, "first", dependencies=after("first"))


def test_two_edits_that_would_make_a_circle_together_are_not_both_accepted(
    scheduler: InlineScheduler,
) -> None:
    one, two = scheduler.create("one"), scheduler.create("two")
    replace(scheduler, one, "one", dependencies=after("two"))

    with pytest.raises(InvalidInput, match="cannot be accepted"):
        replace(scheduler, two, "two", dependencies=after("one"))


def test_nothing_of_a_deleted_task_starts_any_more(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create(schedule="@every 10s", overlap="queue")
    running = scheduler.start(scheduler.trigger(task))
    dispatched = scheduler.trigger(task)
    scheduler.dispatch()
    later = scheduler.trigger(task, run_at=START + timedelta(hours=1))
    scheduler.pass_time(9)
    scheduler.renew(running)
    scheduler.pass_time(1)
    scheduler.do(delete_task, task.id)

    found = scheduler.runs()
    assert [run.status for run in found] == [RunStatus.RUNNING, *[RunStatus.CANCELLED] * 3]
    assert {run.reason for run in found[1:]} == {"task_deleted"}
    assert scheduler.claim(dispatched.id) == []
    assert scheduler.run(later).status is RunStatus.CANCELLED
    scheduler.record(running)
    scheduler.pass_time(60)
    scheduler.fire()
    scheduler.dispatch()
    assert len(scheduler.runs()) == 4
    with pytest.raises(NotFound):
        scheduler.do(delete_task, task.id)


def test_what_was_withdrawn_by_a_delete_is_held_for_nothing(scheduler: InlineScheduler) -> None:
    task = scheduler.create(schedule="@every 10s", jitter_seconds=600)
    scheduler.pass_time(10)
    scheduler.fire()
    [run] = scheduler.runs()
    assert run.hold is Hold.TIME
    scheduler.do(delete_task, task.id)

    assert scheduler.run(run).hold is None
    assert scheduler.fire().next_due_at is None
