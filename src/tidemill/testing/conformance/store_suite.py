"""What every store must do. Each adapter's tests subclass this and give a `store` and a `clock`."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from tidemill.application.define_task import replace_task
from tidemill.domain.artifact import Artifact, ArtifactId
from tidemill.domain.calls import LastRun
from tidemill.domain.dependency import Edge
from tidemill.domain.duty import LEASE, Duty, DutyLease
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, FlowStatus, begun, ended
from tidemill.domain.mapping import Source
from tidemill.domain.new_run import fired_run, new_run, run_without_turn, skipped_run
from tidemill.domain.prepared_firing import prepare_firing
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Dependency, Misfire, Priority, Retry, Task
from tidemill.domain.task_run import (
    CALLER,
    AttemptOutcome,
    Hold,
    LeasedRun,
    RunAttempt,
    RunChange,
    RunHead,
    Shard,
    Success,
    TaskRun,
    Trigger,
    annotate,
    move,
    rank_of,
)
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import (
    ConcurrentChange,
    Conflict,
    InvalidInput,
    Unavailable,
    VersionMismatch,
)
from tidemill.foundation.leadership import Leadership
from tidemill.foundation.listing import FlowRunFilter, PageRequest, RunFilter, TaskFilter
from tidemill.foundation.store import (
    AnswerKey,
    DueTask,
    LogLines,
    PlaceInFlow,
    RunEnd,
    Store,
    StoredAnswer,
    TaskAdvance,
    TaskEdge,
    Transaction,
    UpstreamEnd,
    WaitingRun,
)
from tidemill.testing.builders import task, worker
from tidemill.testing.clock import FakeClock

MINUTE = timedelta(minutes=1)


async def add_task(store: Store, **fields: object) -> Task:
    """A stored task."""
    [stored] = await store.transact(lambda t: t.insert_tasks([task(id=0, at=t.now, **fields)]))  # type: ignore[arg-type]
    return stored


async def add_runs(store: Store, owner: Task, times: Sequence[datetime]) -> list[TaskRun]:
    """A run for each fire time."""
    return await store.transact(
        lambda t: t.insert_runs([fired_run(owner, at, t.now) for at in times])
    )


def start(transaction: Transaction, run: TaskRun, until: datetime) -> LeasedRun:
    """Dispatch and claim a pending run."""
    transaction.change_runs([dispatched(run, transaction.now)])
    [claimed] = transaction.claim([run.id], "worker-1", until)
    return claimed


def dispatched(run: TaskRun, now: datetime) -> RunChange:
    """The change that hands a pending run over."""
    return move(run, RunStatus.DISPATCHED, now, EventType.RUN_DISPATCHED, dispatched_at=now)


def cancelling(transaction: Transaction, run: TaskRun) -> None:
    """Ask for the end of a running run."""
    running = transaction.runs([run.id])[run.id]
    transaction.change_runs(
        [move(running, RunStatus.CANCELLING, transaction.now, EventType.CANCEL_REQUESTED)]
    )


def succeed(transaction: Transaction, run: TaskRun) -> None:
    """End a running run."""
    fence = transaction.runs([run.id])[run.id].fence
    transaction.record_successes([Success(run.id, fence, None, None, 0)])


def in_flow_run(owner: Task, flow_run_id: str, at: datetime, count: int) -> list[TaskRun]:
    """So many pending runs of one flow run."""
    return [
        msgspec.structs.replace(
            new_run(owner, Trigger.MANUAL, f"{flow_run_id}:{number}", at, at),
            flow_run_id=flow_run_id,
        )
        for number in range(count)
    ]


def flow_run(id: str, scheduled_for: datetime, **fields: Any) -> FlowRun:
    """A flow run of one run, which has not ended."""
    return FlowRun(
        id=id,
        namespace="default",
        root_task_id=1,
        root_run_id=1,
        trigger=Trigger.MANUAL,
        scheduled_for=scheduled_for,
        total=1,
        unfinished=1,
        created_at=scheduled_for,
        **fields,
    )


async def in_flow(store: Store, **fields: object) -> TaskRun:
    """A pending run of a new task, in the flow run `f`."""
    owner = await add_task(store, **fields)
    return await store.transact(
        lambda t: t.insert_runs(
            [msgspec.structs.replace(fired_run(owner, t.now, t.now), flow_run_id="f")]
        )[0]
    )


def parts_of(first: TaskRun, *numbers: int) -> list[TaskRun]:
    """Further parts of a run, which are still to be stored."""
    return [
        msgspec.structs.replace(
            first, id=0, trigger_key=f"part:{first.id}:{n}", part_of=first.id, shard_index=n
        )
        for n in numbers
    ]


def edge_between(upstream: TaskRun, downstream: TaskRun, *, is_mapped_over: bool = False) -> Edge:
    """One run of the flow run `f` waits for another."""
    return Edge(
        downstream.id, upstream.task_id, 0, upstream.id, "f", "succeeded", None, is_mapped_over
    )


def end_with(transaction: Transaction, run: TaskRun, result: object) -> None:
    """Let a pending run succeed."""
    run = transaction.runs([run.id])[run.id]
    held = start(transaction, run, transaction.now + MINUTE)
    transaction.record_successes([Success(run.id, held.fence, result, None, 0)])


def upstream(places: dict[int, PlaceInFlow]) -> dict[int, dict[str, Any]]:
    """What each run finds of those that it waited for."""
    return {run_id: place.upstream for run_id, place in places.items()}


class StoreSuite:
    """Tests that take a fresh `store`, on the time of `clock`."""

    async def test_a_task_is_read_as_it_was_stored(self, store: Store) -> None:
        stored = await add_task(store, name="a", tags=["x"], arguments={"n": [1, "zwei"]})

        assert await store.read(lambda r: r.task(stored.id)) == stored
        assert await store.read(lambda r: r.task_named("default", "a")) == stored
        assert await store.read(lambda r: r.task(stored.id, "elsewhere")) is None

    async def test_a_name_is_taken_once_and_free_again_after_a_delete(self, store: Store) -> None:
        first = await add_task(store, name="a")
        with pytest.raises(Conflict):
            await add_task(store, name="a")
        await store.transact(lambda t: t.delete_tasks([first.id]))
        second = await add_task(store, name="a")

        assert second.id != first.id
        assert await store.read(lambda r: r.task(first.id)) is None

    async def test_a_replace_of_another_version_is_refused(self, store: Store) -> None:
        stored = await add_task(store)
        other = msgspec.structs.replace(stored, version=9)
        with pytest.raises(VersionMismatch):
            await store.transact(lambda t: t.replace_tasks([(other, other)]))

    async def test_what_a_body_raises_leaves_nothing(self, store: Store) -> None:
        def body(transaction: Transaction) -> None:
            transaction.insert_tasks([task(id=0, at=transaction.now, name="gone")])
            raise ValueError("after all, no")

        with pytest.raises(ValueError, match="after all"):
            await store.transact(body)
        assert await store.read(lambda r: r.task_named("default", "gone")) is None

    async def test_a_definition_that_was_rolled_back_is_not_remembered(self, store: Store) -> None:
        stored = await add_task(store, command="first")
        changed = msgspec.structs.replace(
            stored,
            version=2,
            definition=msgspec.structs.replace(stored.definition, command="taken back"),
        )
        key = (stored.id, 2)

        def body(transaction: Transaction) -> None:
            transaction.replace_tasks([(stored, changed)])
            assert transaction.definitions([key])[key].command == "taken back"
            raise ValueError("after all, no")

        with pytest.raises(ValueError, match="after all"):
            await store.transact(body)
        kept = msgspec.structs.replace(
            changed, definition=msgspec.structs.replace(stored.definition, command="kept")
        )
        await store.transact(lambda t: t.replace_tasks([(stored, kept)]))

        assert (await store.read(lambda r: r.definitions([key])))[key].command == "kept"

    async def test_due_tasks_come_oldest_first_and_only_when_due(
        self, store: Store, clock: FakeClock
    ) -> None:
        now = clock.now()
        late = await add_task(store, name="late", next_run_at=now - MINUTE, schedule="@daily")
        due = await add_task(store, name="due", next_run_at=now, schedule="@daily")
        await add_task(store, name="early", next_run_at=now + MINUTE, schedule="@daily")

        found = await store.transact(lambda t: t.due_tasks(10))
        assert [each.id for each in found] == [late.id, due.id]
        advance = TaskAdvance(late.id, now + MINUTE, now)
        await store.transact(lambda t: t.advance_tasks([advance]))
        found = await store.transact(lambda t: t.due_tasks(10))
        assert [each.id for each in found] == [due.id]
        assert await store.transact(lambda t: t.next_due_at()) == now

    async def test_a_firing_is_stored_once(self, store: Store, clock: FakeClock) -> None:
        owner = await add_task(store, schedule="@hourly")
        times = [clock.now(), clock.now() + MINUTE]
        first = await add_runs(store, owner, times)
        again = await add_runs(store, owner, [*times, clock.now() + 2 * MINUTE])

        assert [run.scheduled_for for run in first] == times
        assert [run.scheduled_for for run in again] == [clock.now() + 2 * MINUTE]
        ids = [run.id for run in [*first, *again]]
        assert ids == sorted(set(ids))

    async def test_a_run_is_read_as_it_was_stored(self, store: Store, clock: FakeClock) -> None:
        owner = await add_task(store)
        [run] = await add_runs(store, owner, [clock.now()])

        assert await store.read(lambda r: r.run(run.id)) == run
        assert await store.read(lambda r: r.run(run.id, "elsewhere")) is None

    async def test_a_change_of_a_row_that_moved_is_refused(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        [run] = await add_runs(store, owner, [clock.now()])
        change = move(run, RunStatus.DISPATCHED, clock.now(), EventType.RUN_DISPATCHED)
        await store.transact(lambda t: t.change_runs([change]))

        with pytest.raises(Unavailable):  # the store ran it again and again, to no avail
            await store.transact(lambda t: t.change_runs([change]))

    async def test_events_of_a_run_are_numbered_without_a_gap(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        [run] = await add_runs(store, owner, [clock.now()])
        for _ in range(3):
            await store.transact(
                lambda t: t.change_runs(
                    [annotate(t.runs([run.id])[run.id], t.now, EventType.RUN_HELD)]
                )
            )

        events = await store.read(lambda r: r.run_events(run.id, 0, 100))
        assert [event.seq for event in events] == [1, 2, 3, 4]
        later = await store.read(lambda r: r.run_events(run.id, 2, 1))
        assert [event.seq for event in later] == [3]

    @pytest.mark.parametrize("priority", Priority)
    async def test_a_plain_firing_becomes_the_run_that_the_domain_describes(
        self, store: Store, clock: FakeClock, priority: Priority
    ) -> None:
        owner = await add_task(
            store,
            schedule="@every 1h",
            next_run_at=clock.now() + MINUTE,
            priority=priority,
            queue="other",
            concurrency=Concurrency("key", 3),
            retry=Retry(max_retries=4),
            timeout_seconds=9,
        )
        await store.transact(lambda t: t.save_prepared([prepare_firing(owner)]))
        clock.advance(2 * MINUTE)
        due = await store.transact(lambda t: t.due_tasks(10))
        assert due == [DueTask(owner.id, is_plain=True)]

        ranks = {each: rank_of(clock.now(), each.level) for each in Priority}
        await store.transact(lambda t: t.fire_plainly([owner.id], ranks))

        assert owner.next_run_at is not None
        described = fired_run(owner, owner.next_run_at, clock.now())
        [run] = (await store.read(lambda r: r.list_runs(RunFilter(), PageRequest("id", 9)))).items
        assert run == msgspec.structs.replace(described, id=run.id, event_seq=1)
        [event] = await store.read(lambda r: r.run_events(run.id, 0, 9))
        assert (event.type, event.data) == (
            EventType.RUN_CREATED, {"to": "pending", "trigger": "schedule"},
        )  # fmt: skip
        moved_on = await store.read(lambda r: r.task(owner.id))
        assert owner.schedule is not None
        assert moved_on == msgspec.structs.replace(
            owner,
            next_run_at=owner.schedule.next_after(owner.next_run_at),
            last_run_at=clock.now(),
        )
        # Whatever is stored by other means than a plain firing has other ids.
        [later] = await add_runs(store, owner, [clock.now()])
        assert later.id > run.id

    async def test_a_firing_that_exists_already_is_passed_over(
        self, store: Store, clock: FakeClock
    ) -> None:
        at = clock.now()
        owner = await add_task(store, schedule="@every 1h", next_run_at=at)
        [made] = await add_runs(store, owner, [at])
        await store.transact(lambda t: t.save_prepared([prepare_firing(owner)]))

        ranks = dict.fromkeys(Priority, at)
        await store.transact(lambda t: t.fire_plainly([owner.id], ranks))

        page = await store.read(lambda r: r.list_runs(RunFilter(), PageRequest("id", 9)))
        assert [run.id for run in page.items] == [made.id]
        moved_on = await store.read(lambda r: r.task(owner.id))
        assert moved_on is not None
        assert moved_on.next_run_at == at + 60 * MINUTE

    @pytest.mark.parametrize(
        ("task_fields", "seconds_late", "is_plain"),
        [
            ({}, 0, True),
            ({"overlap": "skip"}, 0, True),
            ({"misfire": Misfire(grace_seconds=30)}, 30, True),
            ({"misfire": Misfire(grace_seconds=30)}, 31, False),
            ({"schedule": "@every 1m"}, 60, False),
            ({"schedule": "@after 1h"}, 0, False),
            ({"jitter_seconds": 30}, 0, False),
            ({"deadline_seconds": 30}, 0, False),
            ({"queue_timeout_seconds": 30}, 0, False),
        ],
    )
    async def test_a_firing_is_plain_where_nothing_is_left_to_decide(
        self,
        store: Store,
        clock: FakeClock,
        task_fields: dict[str, object],
        seconds_late: float,
        is_plain: bool,
    ) -> None:
        fields = {"schedule": "@every 1h", "overlap": "allow"} | task_fields
        owner = await add_task(store, next_run_at=clock.now(), **fields)
        await store.transact(lambda t: t.save_prepared([prepare_firing(owner)]))
        clock.advance(timedelta(seconds=seconds_late))

        assert await store.transact(lambda t: t.due_tasks(9)) == [DueTask(owner.id, is_plain)]

    async def test_a_firing_is_plain_only_for_the_task_as_it_was_prepared(
        self, store: Store, clock: FakeClock
    ) -> None:
        at = clock.now()
        owner = await add_task(store, schedule="@every 1h", next_run_at=at, overlap="skip")
        edited = await add_task(store, name="edited", schedule="@every 1h", next_run_at=at)
        moved = await add_task(store, name="moved", schedule="@every 1h", next_run_at=at)
        fresh = await add_task(store, name="fresh", schedule="@every 1h", next_run_at=at)
        for each in (owner, edited, moved):
            await store.transact(lambda t, each=each: t.save_prepared([prepare_firing(each)]))  # type: ignore[misc]
        await store.transact(
            lambda t: t.replace_tasks([(edited, msgspec.structs.replace(edited, version=2))])
        )
        earlier = at - timedelta(seconds=1)
        await store.transact(lambda t: t.advance_tasks([TaskAdvance(moved.id, earlier, None)]))

        due = {each.id: each.is_plain for each in await store.transact(lambda t: t.due_tasks(9))}
        assert due == {owner.id: True, edited.id: False, moved.id: False, fresh.id: False}
        await add_runs(store, owner, [at - MINUTE])
        due = {each.id: each.is_plain for each in await store.transact(lambda t: t.due_tasks(9))}
        assert due[owner.id] is False

    async def test_what_is_to_be_prepared_comes_within_the_horizon_and_is_not_yet(
        self, store: Store, clock: FakeClock
    ) -> None:
        at = clock.now() + MINUTE
        soon = await add_task(store, name="soon", schedule="@every 1h", next_run_at=at)
        done = await add_task(store, name="done", schedule="@every 1h", next_run_at=at)
        later = await add_task(
            store, name="later", schedule="@every 1h", next_run_at=at + 2 * MINUTE
        )
        await store.transact(lambda t: t.save_prepared([prepare_firing(done)]))

        assert await store.transact(lambda t: t.unprepared_tasks(at, 9)) == [soon]
        assert await store.transact(lambda t: t.next_due_after(at)) == later.next_run_at
        await store.transact(lambda t: t.delete_tasks([soon.id]))
        assert await store.transact(lambda t: t.unprepared_tasks(at, 9)) == []

    async def test_ready_runs_come_by_lane_and_rank(self, store: Store, clock: FakeClock) -> None:
        plain = await add_task(store, name="plain")
        urgent = await add_task(store, name="urgent", priority=Priority.HIGH)
        other = await add_task(store, name="other", queue="other")
        [usual] = await add_runs(store, plain, [clock.now()])
        [first] = await add_runs(store, urgent, [clock.now()])
        await add_runs(store, other, [clock.now()])
        await add_runs(store, plain, [clock.now() + MINUTE])  # not yet

        lanes = await store.transact(lambda t: t.ready_lanes())
        assert lanes == {"default/shell": 0, "other/shell": 0}
        ready = await store.transact(lambda t: t.ready_runs("default/shell", 10))
        assert [run.id for run in ready] == [first.id, usual.id]

    async def test_runs_to_place_come_whole_and_in_the_same_order(
        self, store: Store, clock: FakeClock
    ) -> None:
        plain = await add_task(store, name="plain")
        urgent = await add_task(store, name="urgent", priority=Priority.HIGH)
        [usual, _] = await add_runs(store, plain, [clock.now(), clock.now() + MINUTE])
        [first] = await add_runs(store, urgent, [clock.now()])

        found = await store.transact(lambda t: t.runs_to_place("default/shell", 10))
        assert found == [first, usual]
        assert await store.transact(lambda t: t.runs_to_place("default/shell", 1)) == [first]
        assert await store.transact(lambda t: t.runs_to_place("default", 10)) == []

    async def test_what_workers_have_to_do_is_counted(self, store: Store, clock: FakeClock) -> None:
        owner = await add_task(store)
        other = await add_task(store, name="other", queue="other")
        times = [clock.now() - MINUTE * n for n in range(5)]
        runs = await add_runs(store, owner, times)
        [elsewhere] = await add_runs(store, other, times[:1])
        until = clock.now() + MINUTE

        def body(transaction: Transaction) -> None:
            for run in runs[:3]:
                start(transaction, run, until)
            succeed(transaction, runs[0])
            transaction.dispatch([runs[3], elsewhere])

        await store.transact(body)
        assert await store.read(lambda r: r.running_counts()) == {"worker-1": 2}
        lanes = await store.read(lambda r: r.dispatched_lanes())
        assert lanes == {"default/shell": 1, "other/shell": 1}
        waiting = await store.transact(lambda t: t.dispatched_runs(["default/shell", "none"]))
        assert [run.id for run in waiting] == [runs[3].id]
        assert waiting[0].status is RunStatus.DISPATCHED

    async def test_turns_of_a_lane_are_taken_once(self, store: Store) -> None:
        asked = [("a", 1), ("a", 3), ("b", 2), ("a", 1)]
        taken = [
            await store.transact(lambda t, lane=lane, count=count: t.take_turns(lane, count))  # type: ignore[misc]
            for lane, count in asked
        ]

        assert taken == [0, 1, 0, 4]
        both = await asyncio.gather(*(store.transact(lambda t: t.take_turns("a", 2)) for _ in "12"))
        assert sorted(both) == [5, 7]

    async def test_the_parts_of_a_run_are_found_by_their_first(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        [first, _] = await add_runs(store, owner, [clock.now(), clock.now() - MINUTE])
        part = msgspec.structs.replace(
            first, trigger_key="part:1", part_of=first.id, shard_index=1, shard_total=2
        )
        [stored] = await store.transact(lambda t: t.insert_runs([part]))
        again = await store.transact(lambda t: t.insert_runs([part]))

        assert again == []
        page = await store.read(
            lambda r: r.list_runs(RunFilter(part_of=first.id), PageRequest("id", 10))
        )
        assert page.items == [stored]
        shards = await store.read(lambda r: r.shards([first.id, stored.id]))
        assert shards == {stored.id: Shard(1, 2)}

    async def test_results_are_those_of_all_parts_and_every_part_gets_those_of_the_whole(
        self, store: Store, clock: FakeClock
    ) -> None:
        split, process, merge = [
            await in_flow(store, name=name) for name in ("split", "process", "merge")
        ]
        items = await store.transact(lambda t: t.insert_runs(parts_of(process, 1, 2)))
        await store.transact(
            lambda t: t.change_runs(
                [annotate(process, t.now, EventType.RUN_HELD, part_of=process.id)]
            )
        )
        edges = [edge_between(split, process, is_mapped_over=True), edge_between(process, merge)]
        edges += [msgspec.structs.replace(edges[1], part=i.id, upstream_run_id=i.id) for i in items]
        await store.transact(lambda t: t.add_edges(edges))
        await store.transact(lambda t: end_with(t, split, ["a"]))
        for number, item in enumerate([process, *items]):
            await store.transact(lambda t, i=item, n=number: end_with(t, i, n))  # type: ignore[misc]

        ids = [merge.id, process.id, items[0].id]
        assert upstream(await store.transact(lambda t: t.places_in_flow(ids))) == {
            merge.id: {"process": [0, 1, 2]},
            process.id: {"split": ["a"]},
            items[0].id: {"split": ["a"]},
        }
        places = await store.transact(lambda t: t.places_in_flow([process.id, merge.id]))
        assert [place.previous_success for place in places.values()] == [clock.now(), None]
        source = Source(["a"], is_skipped=False)
        found = await store.transact(lambda t: t.map_sources(ids))
        assert found == {process.id: source, items[0].id: source}
        stored = await store.read(lambda r: r.edges_into([process.id]))
        assert stored == edges[:1]

    async def test_a_part_is_a_list_of_one_and_a_run_of_no_parts_a_list_of_none(
        self, store: Store, clock: FakeClock
    ) -> None:
        lone, empty, skipped, merge = [
            await in_flow(store, name=name) for name in ("lone", "empty", "skipped", "merge")
        ]
        edges = [edge_between(each, merge) for each in (lone, empty)]
        await store.transact(
            lambda t: t.add_edges([*edges, edge_between(skipped, merge, is_mapped_over=True)])
        )
        parts: dict[int, dict[str, Any]] = {
            lone.id: {"part_of": lone.id},
            empty.id: {"part_of": empty.id, "shard_total": 0},
        }
        ends = [
            move(
                run, RunStatus.SKIPPED, clock.now(), EventType.RUN_SKIPPED, **parts.get(run.id, {})
            )
            for run in (lone, empty, skipped)
        ]
        await store.transact(lambda t: t.change_runs(ends))

        assert upstream(await store.transact(lambda t: t.places_in_flow([merge.id]))) == {
            merge.id: {"lone": [None], "empty": [], "skipped": None}
        }
        assert await store.transact(lambda t: t.map_sources([merge.id])) == {
            merge.id: Source(None, is_skipped=True)
        }

    async def test_items_that_never_started_are_found_by_any_of_their_siblings(
        self, store: Store, clock: FakeClock
    ) -> None:
        first, other = [await in_flow(store, name=name) for name in ("first", "other")]
        items = await store.transact(lambda t: t.insert_runs(parts_of(first, 1, 2, 3)))
        waiting, going, tried = items
        again = msgspec.structs.replace(waiting, id=0, trigger_key="again", flow_run_id=None)
        await store.transact(lambda t: t.insert_runs([again, *parts_of(other, 1)]))
        await store.transact(lambda t: start(t, going, clock.now() + MINUTE))
        await store.transact(
            lambda t: t.change_runs([annotate(tried, t.now, EventType.RUN_HELD, attempt=1)])
        )

        found = await store.transact(lambda t: t.items_not_started([going.id]))
        assert found == [waiting]
        assert await store.transact(lambda t: t.items_not_started([first.id])) == []  # no part

    async def test_a_run_outside_counts_by_its_first_part_once_all_of_them_have_ended(
        self, store: Store, clock: FakeClock
    ) -> None:
        first, merge = [await in_flow(store, name=name) for name in ("first", "merge")]
        opened = FlowRun(
            id="f",
            namespace="default",
            root_task_id=merge.task_id,
            root_run_id=merge.id,
            trigger=Trigger.MANUAL,
            scheduled_for=clock.now(),
            total=1,
            unfinished=1,
            created_at=clock.now(),
        )
        waits = msgspec.structs.replace(edge_between(first, merge), upstream_run_id=None)
        await store.transact(lambda t: t.open_flow_runs([opened], []))
        await store.transact(lambda t: t.add_edges([waits]))
        [second] = await store.transact(lambda t: t.insert_runs(parts_of(first, 1)))
        is_first = annotate(first, clock.now(), EventType.RUN_HELD, part_of=first.id)
        await store.transact(lambda t: t.change_runs([is_first]))
        await store.transact(lambda t: end_with(t, second, 2))
        assert await store.transact(lambda t: t.outside_edges(10)) == []
        await store.transact(lambda t: end_with(t, first, 1))
        [again] = parts_of(second, 2)
        again = msgspec.structs.replace(again, part_of=first.id, trigger=Trigger.RETRY)
        await store.transact(lambda t: t.insert_runs([again]))

        found = await store.transact(lambda t: t.outside_edges(10))
        assert found == [(waits, RunEnd(first.id, RunStatus.SUCCEEDED))]
        parts = await store.transact(lambda t: t.further_parts([first.id, second.id]))
        assert parts == {first.id: [RunEnd(second.id, RunStatus.SUCCEEDED)]}

    async def test_who_waits_for_a_key_does_so_in_the_order_of_ids_where_ranks_are_the_same(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store, concurrency=Concurrency("key", 2))
        [first] = await add_runs(store, owner, [clock.now()])
        runs = [first, *await store.transact(lambda t: t.insert_runs(parts_of(first, 1, 2)))]
        held = [
            annotate(run, clock.now(), EventType.RUN_HELD, hold=Hold.LIMIT)
            for run in (runs[2], runs[0], runs[1])
        ]
        for change in held:
            await store.transact(lambda t, c=change: t.change_runs([c]))  # type: ignore[misc]

        found = await store.transact(lambda t: t.held_for_keys({"key": 2}))
        assert [run.id for run in found] == [runs[0].id, runs[1].id]

    async def test_who_records_successes_is_told_of_which_tasks_others_wait(
        self, store: Store, clock: FakeClock
    ) -> None:
        waited_for, alone = [await add_task(store, name=name) for name in ("waited-for", "alone")]
        told = []
        for owner in (waited_for, alone):
            held, running = await add_runs(store, owner, [clock.now() + MINUTE, clock.now()])
            await store.transact(lambda t, run=running: start(t, run, clock.now() + MINUTE))  # type: ignore[misc]
            told.append(Success(running.id, 1, None, 0, 0))
            hold = Hold.OVERLAP if owner is waited_for else Hold.LIMIT
            change = annotate(held, clock.now(), EventType.RUN_HELD, hold=hold)
            await store.transact(lambda t, c=change: t.change_runs([c]))  # type: ignore[misc]

        ended, of_tasks = await store.transact(lambda t: t.record_successes(told))

        assert {run.id for run in ended} == {success.run_id for success in told}
        assert of_tasks == {waited_for.id}

    async def test_tasks_are_waited_for_in_vain_once_no_other_run_is_open(
        self, store: Store, clock: FakeClock
    ) -> None:
        busy, idle = [await add_task(store, name=name) for name in ("busy", "idle")]
        for owner, times in ((busy, (0, 1)), (idle, (1,))):
            runs = await add_runs(store, owner, [clock.now() - MINUTE * n for n in times])
            held = annotate(runs[-1], clock.now(), EventType.RUN_HELD, hold=Hold.CATCH_UP)
            await store.transact(lambda t, h=held: t.change_runs([h]))  # type: ignore[misc]

        assert await store.transact(lambda t: t.tasks_waited_for_in_vain()) == [idle.id]
        both = [busy.id, idle.id]
        assert await store.transact(lambda t: t.tasks_waited_for_in_vain(both)) == [idle.id]
        assert await store.transact(lambda t: t.tasks_waited_for_in_vain([busy.id])) == []

    async def test_ready_runs_are_dispatched_and_told_of(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        ready, held = await add_runs(store, owner, [clock.now(), clock.now() + MINUTE])

        await store.transact(lambda t: t.dispatch([ready]))
        with pytest.raises((ConcurrentChange, Unavailable)):
            await store.transact(lambda t: t.dispatch([held]))

        stored = await store.read(lambda r: r.run(ready.id))
        assert stored is not None
        assert (stored.status, stored.dispatched_at) == (RunStatus.DISPATCHED, clock.now())
        events = await store.read(lambda r: r.run_events(ready.id, 0, 10))
        assert [(each.seq, each.type) for each in events] == [
            (1, EventType.RUN_CREATED),
            (2, EventType.RUN_DISPATCHED),
        ]
        left = await store.read(lambda r: r.run(held.id))
        assert left is not None
        assert left.status is RunStatus.PENDING

    async def test_holds_for_time_end_when_it_comes(self, store: Store, clock: FakeClock) -> None:
        owner = await add_task(store)
        [run] = await add_runs(store, owner, [clock.now() + MINUTE])

        assert await store.transact(lambda t: t.due_holds(10)) == []
        assert await store.transact(lambda t: t.next_hold_ends_at()) == clock.now() + MINUTE
        clock.advance(MINUTE)
        assert [each.id for each in await store.transact(lambda t: t.due_holds(10))] == [run.id]

    async def test_a_lease_is_renewed_with_its_fence_only(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        runs = await add_runs(store, owner, [clock.now(), clock.now() - MINUTE])
        until = clock.now() + MINUTE
        for run in runs:
            await store.transact(lambda t, run=run: start(t, run, until))  # type: ignore[misc]

        fences = {runs[0].id: 1, runs[1].id: 7}
        held = await store.transact(lambda t: t.renew_leases("worker-1", fences, until + MINUTE))
        assert held == {runs[0].id: RunStatus.RUNNING}
        clock.advance(MINUTE)
        expired = await store.transact(lambda t: t.expired_leases(10))
        assert [run.id for run in expired] == [runs[1].id]

    async def test_a_claim_takes_what_is_dispatched_and_nothing_else(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        times = [clock.now() - n * MINUTE for n in range(3)]
        free, pending, taken = await add_runs(store, owner, times)
        await store.transact(lambda t: t.change_runs([dispatched(free, t.now)]))
        await store.transact(lambda t: start(t, taken, clock.now() + MINUTE))
        ids = [taken.id, free.id, pending.id]

        [claimed] = await store.transact(lambda t: t.claim(ids, "worker-2", t.now + MINUTE))

        stored = await store.read(lambda r: r.run(free.id))
        assert stored is not None
        assert claimed == LeasedRun(
            **{name: getattr(stored, name) for name in LeasedRun.__struct_fields__}
        )
        assert (stored.status, stored.attempt, stored.fence) == (RunStatus.RUNNING, 1, 1)
        assert stored.lease_expires_at == clock.now() + MINUTE
        attempts = await store.read(lambda r: r.attempts(free.id))
        assert [(each.attempt, each.fence, each.worker_id) for each in attempts] == [
            (1, 1, "worker-2")
        ]
        events = await store.read(lambda r: r.run_events(free.id, 0, 10))
        assert [(each.seq, each.type) for each in events[-2:]] == [
            (2, EventType.RUN_DISPATCHED),
            (3, EventType.RUN_STARTED),
        ]

    async def test_ready_runs_are_claimed_at_once_by_an_active_worker_the_most_urgent_first(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        keyed = await add_task(store, name="keyed", concurrency=Concurrency("key", 1))
        times = [clock.now() - n * MINUTE for n in range(3)]
        late, later, latest = await add_runs(store, owner, times)
        await add_runs(store, keyed, [clock.now() - 9 * MINUTE])
        await store.transact(lambda t: t.save_worker(worker("w-1", at=t.now)))
        await store.transact(
            lambda t: t.save_worker(worker("w-2", at=t.now, status=WorkerStatus.DRAINING))
        )

        async def claim(holder: str) -> list[LeasedRun]:
            return await store.transact(
                lambda t: t.claim_ready(late.lane, holder, t.now + MINUTE, 2)
            )

        assert await claim("w-2") == []
        claimed = await claim("w-1")

        assert {run.id for run in claimed} == {latest.id, later.id}
        stored = await store.read(lambda r: r.run(latest.id))
        assert stored is not None
        assert (
            LeasedRun(**{name: getattr(stored, name) for name in LeasedRun.__struct_fields__})
            in claimed
        )
        assert (stored.status, stored.attempt, stored.fence) == (RunStatus.RUNNING, 1, 1)
        assert (stored.worker_id, stored.lease_expires_at) == ("w-1", clock.now() + MINUTE)
        events = await store.read(lambda r: r.run_events(latest.id, 0, 10))
        assert [(each.seq, each.type) for each in events] == [
            (1, EventType.RUN_CREATED),
            (2, EventType.RUN_DISPATCHED),
            (3, EventType.RUN_STARTED),
        ]
        left = await store.read(lambda r: r.run(late.id))
        assert left is not None
        assert left.status is RunStatus.PENDING

    async def test_only_bound_runs_that_are_dispatched_are_told_of(
        self, store: Store, clock: FakeClock
    ) -> None:
        keyed = await add_task(store, name="keyed", concurrency=Concurrency("key", 1))
        late = await add_task(store, name="late", deadline_seconds=5)
        slow = await add_task(store, name="slow", queue_timeout_seconds=5)
        free = await add_task(store, name="free")
        runs = [(await add_runs(store, each, [clock.now()]))[0] for each in (keyed, late, slow)]
        runs += await add_runs(store, free, [clock.now()])
        waiting = (await add_runs(store, keyed, [clock.now() - MINUTE]))[0]
        await store.transact(lambda t: t.change_runs([dispatched(run, t.now) for run in runs]))

        ids = [run.id for run in [*runs, waiting]]
        bound = await store.transact(lambda t: t.bound_runs(ids))
        assert {run.task_name for run in bound} == {"keyed", "late", "slow"}
        assert waiting.id not in {run.id for run in bound}

    async def test_a_success_is_recorded_of_the_one_who_holds_the_run(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        times = [clock.now() - n * MINUTE for n in range(3)]
        held, stale, ending = await add_runs(store, owner, times)
        for run in (held, stale, ending):
            await store.transact(lambda t, run=run: start(t, run, clock.now() + MINUTE))  # type: ignore[misc]
        await store.transact(lambda t: cancelling(t, ending))
        clock.advance(MINUTE)
        told = [Success(held.id, 1, {"n": 1}, 0, 7), Success(stale.id, 9, None, 0, 0)]
        told.append(Success(ending.id, 1, None, 0, 0))

        [ended], waited_for = await store.transact(lambda t: t.record_successes(told))
        assert waited_for == set()

        stored = await store.read(lambda r: r.run(held.id))
        assert stored is not None
        assert ended == RunHead(
            **{name: getattr(stored, name) for name in RunHead.__struct_fields__}
        )
        assert (stored.status, stored.result, stored.exit_code, stored.log_seq) == (
            RunStatus.SUCCEEDED, {"n": 1}, 0, 7,
        )  # fmt: skip
        assert (stored.completed_at, stored.lease_expires_at) == (clock.now(), None)
        [attempt] = await store.read(lambda r: r.attempts(held.id))
        assert (attempt.outcome, attempt.exit_code) == (AttemptOutcome.SUCCEEDED, 0)
        assert attempt.completed_at == clock.now()
        events = await store.read(lambda r: r.run_events(held.id, 3, 10))
        assert [(each.seq, each.type) for each in events] == [(4, EventType.RUN_FINISHED)]
        for run, status in ((stale, RunStatus.RUNNING), (ending, RunStatus.CANCELLING)):
            left = await store.read(lambda r, run=run: r.run(run.id))  # type: ignore[misc]
            assert left is not None
            assert left.status is status

    async def test_an_attempt_is_closed_once(self, store: Store, clock: FakeClock) -> None:
        [run] = await add_runs(store, await add_task(store), [clock.now()])
        await store.transact(lambda t: start(t, run, clock.now() + MINUTE))
        for outcome in (AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED):
            ended = RunAttempt(run.id, 1, 1, "w", clock.now(), clock.now(), outcome)
            await store.transact(lambda t, e=ended: t.close_attempts([e]))  # type: ignore[misc]

        stored = (await store.read(lambda r: r.attempts(run.id)))[0]
        assert stored.outcome is AttemptOutcome.LOST

    async def test_the_attempt_under_way_is_among_the_attempts(
        self, store: Store, clock: FakeClock
    ) -> None:
        [run] = await add_runs(store, await add_task(store), [clock.now()])
        assert await store.read(lambda r: r.attempts(run.id)) == []
        began = clock.now()
        await store.transact(lambda t: start(t, run, clock.now() + MINUTE))

        [under_way] = await store.read(lambda r: r.attempts(run.id))
        assert under_way == RunAttempt(run.id, 1, 1, "worker-1", began)

        clock.advance(MINUTE)
        await store.transact(lambda t: succeed(t, run))
        [ended] = await store.read(lambda r: r.attempts(run.id))
        assert ended == RunAttempt(
            run.id, 1, 1, "worker-1", began, clock.now(), AttemptOutcome.SUCCEEDED
        )

    async def test_output_is_read_from_any_line(self, store: Store, clock: FakeClock) -> None:
        lines = [
            LogLines(1, 1, 2, 1, "stdout", clock.now(), "a\nb\n"),
            LogLines(1, 3, 3, 1, "stderr", clock.now(), "c\n"),
        ]
        await store.transact(lambda t: t.append_logs(lines))

        assert await store.read(lambda r: r.run_logs(1, 0, 10)) == lines
        assert await store.read(lambda r: r.run_logs(1, 2, 10)) == lines[1:]
        assert await store.transact(lambda t: t.last_log_seqs([1, 2])) == {1: 3}

    async def test_silent_workers_are_found(self, store: Store, clock: FakeClock) -> None:
        await store.transact(lambda t: t.save_worker(worker("w-1", at=t.now)))
        await store.transact(
            lambda t: t.save_worker(worker("w-2", at=t.now, status=WorkerStatus.OFFLINE))
        )
        clock.advance(MINUTE)
        await store.transact(lambda t: t.save_worker(worker("w-3", at=t.now)))

        silent = await store.transact(lambda t: t.silent_workers(clock.now()))
        assert [each.id for each in silent] == ["w-1"]
        alive = await store.read(lambda r: r.workers_alive())
        assert {each.id for each in alive} == {"w-1", "w-3"}

    async def test_leases_and_heartbeats_are_dated_anew_when_the_clock_was_set(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        runs = await add_runs(store, owner, [clock.now(), clock.now() - MINUTE])
        for minutes, run in enumerate(runs, 1):
            until = clock.now() + minutes * MINUTE
            await store.transact(lambda t, r=run, u=until: start(t, r, u))  # type: ignore[misc]
        for minutes in (1, 2):
            await store.transact(
                lambda t, m=minutes: t.save_worker(worker(f"w-{m}", at=t.now + m * MINUTE))  # type: ignore[misc]
            )

        await store.transact(lambda t: t.date_leases(t.now + MINUTE, t.now))
        await store.transact(lambda t: t.date_heartbeats(t.now + MINUTE))
        expired = await store.transact(lambda t: t.expired_leases(10))
        assert [run.id for run in expired] == [runs[1].id]
        heard = {each.id: each.last_heartbeat for each in await store.read(
            lambda r: r.workers_alive()
        )}  # fmt: skip
        assert heard == {"w-1": clock.now() + MINUTE, "w-2": clock.now()}

    async def test_answers_are_kept_for_a_day_and_then_make_way(
        self, store: Store, clock: FakeClock
    ) -> None:
        a, b, c = (AnswerKey("scope", key) for key in "abc")
        elsewhere = AnswerKey("other", "a")
        first = {
            name: StoredAnswer(name.scope, name.key, "hash", {"a": [1]}, clock.now())
            for name in (a, b)
        }
        other = StoredAnswer("other", "b", "hash", 1, clock.now())
        await store.transact(lambda t: t.store_answers([*first.values(), other]))

        assert await store.transact(lambda t: t.stored_answers([a, b, c, elsewhere])) == first
        clock.advance(timedelta(hours=25))
        assert await store.transact(lambda t: t.stored_answers([a])) == {}
        newer = StoredAnswer(a.scope, a.key, "hash", 2, clock.now())
        newest = StoredAnswer(a.scope, a.key, "hash", 3, clock.now())
        await store.transact(lambda t: t.store_answers([newer]))
        assert await store.transact(lambda t: t.stored_answers([a])) == {a: newer}
        await store.transact(lambda t: t.replace_answer(newest))
        assert await store.transact(lambda t: t.stored_answers([a])) == {a: newest}

    async def test_lists_are_paged_without_gaps_or_doubles(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        times = [clock.now() + MINUTE * (n // 2) for n in range(9)]
        runs: list[TaskRun] = []
        for at in times:
            name = f"task-{len(runs)}"
            each = await add_task(store, name=name) if runs else owner
            runs += await add_runs(store, each, [at])

        for sort in ("id", "-id", "scheduled_for", "-scheduled_for"):
            seen: list[int] = []
            position = None
            while True:
                page = PageRequest(sort, 2, position)
                found = await store.read(lambda r, p=page: r.list_runs(RunFilter(), p))  # type: ignore[misc]
                seen += [run.id for run in found.items]
                position = found.next
                if position is None:
                    break
            assert sorted(seen) == sorted(run.id for run in runs), sort
        tagged = await add_task(store, name="tagged", tags=["x", "y"])
        found_tasks = await store.read(
            lambda r: r.list_tasks(TaskFilter(tag="y"), PageRequest("name", 5))
        )
        assert [each.id for each in found_tasks.items] == [tagged.id]

    async def test_old_history_is_pruned_and_young_kept(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        old, young = await add_runs(store, owner, [clock.now() - MINUTE, clock.now()])
        for run in (old, young):
            await store.transact(
                lambda t, run=run: t.change_runs(  # type: ignore[misc]
                    [
                        move(
                            run,
                            RunStatus.CANCELLED,
                            t.now,
                            EventType.RUN_CANCELLED,
                            completed_at=t.now,
                        )
                    ]
                )
            )
            clock.advance(MINUTE)

        cut = clock.now() - MINUTE - timedelta(seconds=1)
        assert await store.transact(lambda t: t.prune(cut, 10)) == 1
        assert await store.read(lambda r: r.run(old.id)) is None
        assert await store.read(lambda r: r.run_events(old.id, 0, 10)) == []
        assert await store.read(lambda r: r.run(young.id)) is not None

    async def test_a_large_result_is_kept_in_pieces_each_once(
        self, store: Store, clock: FakeClock
    ) -> None:
        id, other = ArtifactId(7, 2), ArtifactId(7, 3)
        kept = Artifact(7, 2, "team", 9, clock.now())
        pieces = [b"\x00\xff'\n;", bytes(range(256)) * 1_024]

        def keep(transaction: Transaction) -> None:
            for size in (9, 10):
                transaction.keep_artifact(msgspec.structs.replace(kept, size=size))
            for number, piece in [*enumerate(pieces), (1, b"another")]:
                transaction.keep_chunk(id, number, piece)

        await store.transact(keep)

        assert await store.read(lambda r: r.artifact(id)) == kept
        assert await store.read(lambda r: r.artifact(id, "team")) == kept
        assert [await store.read(lambda r, n=n: r.artifact_chunk(id, n)) for n in range(3)] == [  # type: ignore[misc]
            *pieces, None,
        ]  # fmt: skip
        assert await store.read(lambda r: r.artifact_chunk(id, 1, "team")) == pieces[1]
        assert await store.read(lambda r: (r.artifact(other), r.artifact_chunk(other, 0))) == (
            None, None,
        )  # fmt: skip
        assert await store.read(
            lambda r: (r.artifact(id, "default"), r.artifact_chunk(id, 0, "default"))
        ) == (None, None)

    async def test_large_results_are_pruned_with_their_run_those_of_lost_attempts_too(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        [run] = await store.transact(lambda t: t.insert_runs([fired_run(owner, t.now, t.now)]))
        ids = [ArtifactId(run.id, 1), ArtifactId(run.id, 2), ArtifactId(run.id + 1, 1)]

        def keep(transaction: Transaction) -> None:
            for id in ids:
                transaction.keep_artifact(Artifact(id.run_id, id.fence, "default", 1, clock.now()))
                transaction.keep_chunk(id, 0, b"1")
            start(transaction, run, clock.now() + MINUTE)
            succeed(transaction, run)

        await store.transact(keep)
        clock.advance(MINUTE)

        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 1
        left = [await store.read(lambda r, id=id: r.artifact(id)) for id in ids]  # type: ignore[misc]
        chunks = [await store.transact(lambda t, id=id: t.artifact_chunk(id, 0)) for id in ids]  # type: ignore[misc]
        assert [each is not None for each in left] == [False, False, True]
        assert chunks == [None, None, b"1"]
        await store.transact(lambda t: t.keep_artifact(Artifact(run.id, 1, "x", 1, clock.now())))
        assert await store.read(lambda r: r.artifact_chunk(ids[0], 0)) is None  # nothing is left

    async def test_a_renamed_task_takes_no_name_that_is_taken(self, store: Store) -> None:
        await add_task(store, name="taken")
        other = await add_task(store, name="other")
        renamed = msgspec.structs.replace(
            other,
            version=2,
            definition=msgspec.structs.replace(other.definition, name="taken"),
        )
        with pytest.raises(Conflict):
            await store.transact(lambda t: t.replace_tasks([(other, renamed)]))

    async def test_many_tasks_are_stored_changed_and_deleted_together(self, store: Store) -> None:
        names = [f"task-{number}" for number in range(1_000)]
        stored = await store.transact(
            lambda t: t.insert_tasks([task(id=0, at=t.now, name=name) for name in names])
        )
        assert [each.definition.name for each in stored] == names
        assert len({each.id for each in stored}) == len(names)
        assert await store.transact(lambda t: t.tasks_in_force_named("default", names)) == {
            each.definition.name: each for each in stored
        }
        changes = [(each, msgspec.structs.replace(each, version=2)) for each in stored[:600]]
        await store.transact(lambda t: t.replace_tasks(changes))
        with pytest.raises(VersionMismatch):
            await store.transact(lambda t: t.replace_tasks(changes[:1]))
        await store.transact(lambda t: t.delete_tasks([each.id for each in stored[500:]]))

        found = await store.transact(lambda t: t.tasks([each.id for each in stored]))
        assert [each.version for each in found.values()] == [2] * 500
        page = PageRequest("-version", 10)
        versions = await store.read(lambda r: r.list_versions(stored[0].id, page))
        assert [each.version for each in versions.items] == [2, 1]

    async def test_of_edits_that_would_close_a_circle_together_one_is_refused_with_the_way(
        self, store: Store
    ) -> None:
        for attempt in range(20):
            names = [f"a-{attempt}", f"b-{attempt}", f"c-{attempt}"]
            one, two, three = [await add_task(store, name=name) for name in names]

            def wait_for(upstream: str, each: Task, transaction: Transaction) -> Task:
                waits = [Dependency(f"name:{upstream}")]
                wanted = msgspec.structs.replace(each.definition, dependencies=waits)
                return replace_task(transaction, each.id, wanted, lambda _: ())

            edits = await asyncio.gather(
                store.transact(partial(wait_for, names[1], one)),
                store.transact(partial(wait_for, names[2], two)),
                store.transact(partial(wait_for, names[0], three)),
                return_exceptions=True,
            )
            [refused] = [each for each in edits if isinstance(each, BaseException)]
            assert isinstance(refused, InvalidInput), refused
            assert all(name in str(refused) for name in names)

    async def test_what_depends_on_what_is_replaced_for_the_tasks_named(self, store: Store) -> None:
        a, b, c = [await add_task(store, name=name) for name in "abc"]
        both = [TaskEdge(b.id, a.id, "succeeded"), TaskEdge(c.id, a.id, "failed")]
        await store.transact(lambda t: t.replace_dependencies("default", [], both))
        other = [TaskEdge(c.id, b.id, "completed")]
        await store.transact(lambda t: t.replace_dependencies("default", [c.id], other))

        assert await store.transact(lambda t: t.upstream_edges("default")) == {
            b.id: [a.id], c.id: [b.id],
        }  # fmt: skip
        assert await store.transact(lambda t: t.upstream_edges("elsewhere")) == {}
        below = await store.transact(lambda t: t.task_edges_below([a.id]))
        assert set(below) == {both[0], other[0]}

    async def test_tasks_are_found_by_name_in_their_namespace(
        self, store: Store, clock: FakeClock
    ) -> None:
        here = await add_task(store, name="a")
        await add_task(store, name="a", namespace="elsewhere")
        gone = await add_task(store, name="b")
        await store.transact(lambda t: t.delete_tasks([gone.id]))

        found = await store.transact(lambda t: t.tasks_named("default", ["a", "b", "c"]))
        assert found == {"a": here}
        await store.transact(lambda t: t.note_last_run([here.id]))
        noted = await store.read(lambda r: r.task(here.id))
        assert noted is not None
        assert noted.last_run_at == clock.now()

    async def test_holders_of_a_key_are_dispatched_or_run_and_runners_run(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store, concurrency=Concurrency("key", 9))
        runs = await add_runs(store, owner, [clock.now() - MINUTE * n for n in range(4)])
        until = clock.now() + MINUTE
        await store.transact(lambda t: start(t, runs[0], until))
        await store.transact(lambda t: start(t, runs[1], until))
        await store.transact(lambda t: t.change_runs([dispatched(runs[2], t.now)]))
        await store.transact(lambda t: cancelling(t, runs[1]))

        assert await store.read(lambda r: r.key_holders(["key", "other"])) == {"key": 3}
        assert await store.read(lambda r: r.key_runners(["key", "other"])) == {"key": 2}

    async def test_held_runs_are_found_by_what_holds_them(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store, concurrency=Concurrency("key", 2))
        times = [clock.now() + MINUTE * n for n in (0, -1, 2, 1, -2)]
        runs = await add_runs(store, owner, times)
        holds = (Hold.OVERLAP, Hold.CATCH_UP, Hold.LIMIT, Hold.LIMIT, None)
        changes = [
            annotate(run, clock.now(), EventType.RUN_HELD, hold=hold)
            for run, hold in zip(runs, holds, strict=True)
        ]
        await store.transact(lambda t: t.change_runs(changes))

        queued = await store.transact(lambda t: t.held_for_tasks([owner.id]))
        assert [run.id for run in queued] == [runs[1].id, runs[0].id]  # the oldest time first
        limited = await store.transact(lambda t: t.held_for_keys({"key": 1, "other": 5}))
        assert [run.id for run in limited] == [runs[3].id]
        assert await store.transact(lambda t: t.held_keys()) == {"key": 2}
        ready = await store.transact(lambda t: t.ready_runs("default/shell", 10))
        assert [run.id for run in ready] == [runs[4].id]

    async def test_overdue_runs_wait_and_are_past_one_of_their_two_times(
        self, store: Store, clock: FakeClock
    ) -> None:
        queued = await add_task(store, name="queued", queue_timeout_seconds=60)
        bounded = await add_task(store, name="bounded", deadline_seconds=60)
        free = await add_task(store, name="free")
        runs = [(await add_runs(store, each, [clock.now()]))[0] for each in (queued, bounded, free)]
        [running] = await add_runs(store, queued, [clock.now() - timedelta(seconds=1)])
        await store.transact(lambda t: start(t, running, clock.now() + MINUTE))
        clock.advance(timedelta(seconds=59))
        assert await store.transact(lambda t: t.overdue_runs(10)) == []
        clock.advance(timedelta(seconds=1))

        overdue = await store.transact(lambda t: t.overdue_runs(10))
        assert {run.id for run in overdue} == {run.id for run in runs[:2]}

    async def test_stuck_dispatches_and_held_leases_are_found(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        stuck, held = await add_runs(store, owner, [clock.now(), clock.now() - MINUTE])
        await store.transact(lambda t: t.change_runs([dispatched(stuck, t.now)]))
        await store.transact(lambda t: start(t, held, clock.now() + MINUTE))
        before = clock.now() - timedelta(seconds=1)

        assert await store.transact(lambda t: t.stuck_dispatches(before, 10)) == []
        found = await store.transact(lambda t: t.stuck_dispatches(clock.now(), 10))
        assert [run.id for run in found] == [stuck.id]
        leased = await store.transact(lambda t: t.runs_held_by(["worker-1", "worker-2"]))
        assert [run.id for run in leased] == [held.id]
        assert await store.transact(lambda t: t.runs_held_by(["worker-2"])) == []

    async def test_a_ledger_counts_a_range_for_all_its_times(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store, schedule="@every 1s")
        now = clock.now()
        [run] = await add_runs(store, owner, [now])
        stretch = skipped_run(
            owner, now + MINUTE, now, "misfire", range_from=now + MINUTE / 2, count=31
        )
        single = skipped_run(owner, now + 2 * MINUTE, now, "misfire")
        await store.transact(lambda t: t.insert_runs([stretch, single]))

        counts = await store.read(lambda r: r.ledger_counts(owner.id, now, now + 3 * MINUTE))
        assert {(each.status, each.reason): each.count for each in counts} == {
            (RunStatus.PENDING, None): 1,
            (RunStatus.SKIPPED, "misfire"): 32,
        }
        rows = await store.read(lambda r: r.ledger_rows(owner.id, now, now + 2 * MINUTE, 10))
        assert [row.scheduled_for for row in rows] == [now, now + MINUTE]  # the end is exclusive
        assert rows[0] == run

    async def test_summaries_count_what_waits_runs_and_ended(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        times = [clock.now() - MINUTE * n for n in range(4)]
        ended, running, waiting, _ = await add_runs(store, owner, times)
        await store.transact(lambda t: start(t, ended, clock.now() + MINUTE))
        await store.transact(lambda t: start(t, running, clock.now() + MINUTE))
        clock.advance(timedelta(seconds=10))
        await store.transact(lambda t: succeed(t, ended))

        [depth] = await store.read(lambda r: r.lane_depths())
        assert (depth.lane, depth.ready, depth.running) == ("default/shell", 2, 1)
        assert depth.started_last_minute == 2
        assert depth.oldest_ready_at == times[3]
        [stats] = await store.read(lambda r: r.run_stats(clock.now() - MINUTE, owner.id))
        assert (stats.status, stats.count, stats.mean_seconds) == (RunStatus.SUCCEEDED, 1, 10.0)
        assert await store.read(lambda r: r.run_stats(clock.now() + MINUTE)) == []
        counts = await store.read(lambda r: r.status_counts())
        assert counts == {RunStatus.PENDING: 2, RunStatus.RUNNING: 1}
        success = await store.transact(lambda t: t.previous_successes([owner.id, 4711]))
        assert success == {owner.id: clock.now()}
        assert await store.read(lambda r: r.ready_before(waiting, 10)) == 1

    async def test_a_firing_meets_neither_backfills_nor_wishes_for_later_nor_what_awaits_its_turn(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        now = clock.now()
        [fired] = await add_runs(store, owner, [now + MINUTE])
        others = [
            new_run(owner, Trigger.BACKFILL, "backfill", now, now),
            new_run(owner, Trigger.MANUAL, "later", now, now, not_before=now + MINUTE),
            run_without_turn(new_run(owner, Trigger.DEPENDENCY, "turn", now, now)),
            new_run(owner, Trigger.MANUAL, "now", now, now),
        ]
        by_hand = (await store.transact(lambda t: t.insert_runs(others)))[-1]

        met = await store.read(lambda r: r.unfinished_runs([owner.id]))
        assert [run.id for run in met] == [fired.id, by_hand.id]

    async def test_flow_runs_past_their_deadline_are_found_while_something_of_them_is_idle(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        now = clock.now()
        runs = {
            flow_run_id: await store.transact(
                lambda t, name=flow_run_id: t.insert_runs(in_flow_run(owner, name, now, 3))  # type: ignore[misc]
            )
            for flow_run_id in ("later", "sooner", "unbound")
        }
        bounds = {"later": MINUTE * 2, "sooner": MINUTE, "unbound": None}
        await store.transact(
            lambda t: t.open_flow_runs(
                [
                    flow_run(name, now, deadline_at=None if bound is None else now + bound)
                    for name, bound in bounds.items()
                ],
                [],
            )
        )

        async def overdue(limit: int = 10) -> list[str]:
            return await store.transact(lambda t: t.overdue_flow_runs(limit))

        clock.advance(MINUTE - timedelta(milliseconds=1))
        assert await overdue() == []
        clock.advance(MINUTE * 2)
        assert await overdue() == ["sooner", "later"]
        assert await overdue(1) == ["sooner"]
        held, ended, idle = runs["sooner"]
        await store.transact(lambda t: start(t, held, clock.now() + MINUTE))
        await store.transact(lambda t: start(t, ended, clock.now() + MINUTE))
        await store.transact(lambda t: succeed(t, ended))
        found = await store.transact(lambda t: t.idle_runs_of(["sooner"]))
        assert [run.id for run in found] == [idle.id]
        await store.transact(lambda t: start(t, idle, clock.now() + MINUTE))
        assert await overdue() == ["later"]

    async def test_the_next_flow_runs_of_a_backfill_are_those_it_has_room_for_the_earliest_first(
        self, store: Store, clock: FakeClock
    ) -> None:
        now = clock.now()
        await store.transact(
            lambda t: t.open_flow_runs(
                [
                    flow_run(
                        f"{name}-{number}",
                        now - MINUTE * number,
                        status=FlowStatus.WAITING,
                        backfill_id=name,
                    )
                    for name in ("one", "two")
                    for number in range(5)
                ],
                [],
            )
        )
        await store.transact(lambda t: t.keep_backfill("one", 2))
        await store.transact(lambda t: t.keep_backfill("two", 9))

        async def begin(*names: str) -> set[str]:
            def act(transaction: Transaction) -> set[str]:
                found = transaction.next_flow_runs(names)
                transaction.save_flow_runs([begun(each, now) for each in found])
                transaction.forget_backfills(names)
                return {each.id for each in found}

            return await store.transact(act)

        async def end(name: str) -> None:
            def act(transaction: Transaction) -> None:
                [found] = transaction.flow_runs([name]).values()
                transaction.save_flow_runs([ended(found, {"failed": 1}, transaction.now)])

            await store.transact(act)

        assert await begin("one") == {"one-4", "one-3"}
        assert await begin("one") == set()
        assert await store.transact(lambda t: t.waiting_backfills()) == ["one", "two"]
        assert await begin("one", "two", "none") == {f"two-{n}" for n in range(5)}
        assert await store.transact(lambda t: t.waiting_backfills()) == ["one"]
        await end("one-2")  # it was cancelled before its turn
        assert await begin("one") == set()
        await end("one-4")
        await end("one-3")
        assert await begin("one") == {"one-1", "one-0"}
        assert await store.transact(lambda t: t.waiting_backfills()) == []

    async def test_two_that_end_flow_runs_of_a_backfill_at_once_let_two_begin_and_no_more(
        self, store: Store, clock: FakeClock
    ) -> None:
        now = clock.now()
        await store.transact(
            lambda t: t.open_flow_runs(
                [
                    flow_run(
                        f"{number}",
                        now + MINUTE * number,
                        status=FlowStatus.RUNNING if number < 4 else FlowStatus.WAITING,
                        backfill_id="b",
                    )
                    for number in range(9)
                ],
                [],
            )
        )
        await store.transact(lambda t: t.keep_backfill("b", 4))

        def end(transaction: Transaction, name: str) -> None:
            [found] = transaction.flow_runs([name]).values()
            transaction.save_flow_runs([ended(found, {}, transaction.now)])
            waiting = transaction.next_flow_runs(["b"])
            transaction.save_flow_runs([begun(each, transaction.now) for each in waiting])

        await asyncio.gather(*(store.transact(partial(end, name=f"{n}")) for n in range(3)))

        page = PageRequest("id", 100)
        found = await store.read(
            lambda r: r.list_flow_runs(FlowRunFilter(status=FlowStatus.RUNNING), page)
        )
        assert [each.id for each in found.items] == ["3", "4", "5", "6"]

    async def test_what_waits_for_the_turn_of_its_flow_run_is_found_by_that(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        now = clock.now()

        def insert(transaction: Transaction) -> list[TaskRun]:
            ready, held = in_flow_run(owner, "one", now, 2)
            other = in_flow_run(owner, "two", now, 1)
            return transaction.insert_runs([ready, run_without_turn(held), *other])

        ready, held, other = await store.transact(insert)
        found = await store.transact(lambda t: t.runs_without_turn(["one", "two"]))
        assert found == [held.id]
        begun = await store.transact(lambda t: t.runs_to_begin(found, []))
        assert ([run.id for run in begun[0]], begun[1]) == ([held.id], {held.task_id})
        beside = [ready.id, held.id, other.id]
        assert await store.transact(lambda t: t.runs_to_begin(found, beside)) == (begun[0], set())

    async def test_what_a_flow_run_carries_over_is_pruned_after_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        now = clock.now()
        old, other = await store.transact(
            lambda t: t.insert_runs(in_flow_run(owner, "old", now, 2))
        )
        for run in (old, other):
            await store.transact(lambda t, run=run: start(t, run, now + MINUTE))  # type: ignore[misc]
            await store.transact(lambda t, run=run: succeed(t, run))  # type: ignore[misc]
        flow_runs = [flow_run("old", now), flow_run("new", now, retry_of="old")]
        await store.transact(lambda t: t.open_flow_runs(flow_runs, []))
        await store.transact(lambda t: t.carry_over("new", [old.id]))
        assert [
            each.id for each in await store.read(lambda r: r.carried_runs("new", 0, 1_000))
        ] == [old.id]
        clock.advance(MINUTE)

        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 1
        assert await store.read(lambda r: r.run(other.id)) is None
        assert await store.read(lambda r: r.run(old.id)) is not None
        await store.transact(
            lambda t: t.save_flow_runs([ended(each, {}, t.now) for each in flow_runs])
        )
        third = await add_runs(store, owner, [clock.now()])
        await store.transact(lambda t: start(t, third[0], clock.now() + MINUTE))
        await store.transact(lambda t: succeed(t, third[0]))
        clock.advance(MINUTE)
        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 1
        assert await store.read(lambda r: r.flow_run("new")) is None
        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 1
        assert await store.read(lambda r: r.run(old.id)) is None
        assert await store.read(lambda r: r.flow_run("old")) is None

    async def test_a_flow_run_is_read_as_it_was_stored(
        self, store: Store, clock: FakeClock
    ) -> None:
        stored = flow_run(
            "f", clock.now(), retry_of="e", deadline_seconds=60.0, backfill_id="b", reason="x",
            called_by=7, called_by_attempt=2,
        )  # fmt: skip
        await store.transact(lambda t: t.open_flow_runs([stored], []))
        assert await store.read(lambda r: r.flow_run("f")) == stored
        later = ended(begun(stored, clock.now()), {"failed": 1}, clock.now() + MINUTE)
        assert (later.reason, later.status) == ("deadline", FlowStatus.FAILED)
        await store.transact(lambda t: t.save_flow_runs([later]))

        assert await store.read(lambda r: r.flow_run("f")) == later

    async def test_which_task_calls_which_is_stored_by_namespace_and_forgotten(
        self, store: Store
    ) -> None:
        a, b, c = [await add_task(store, name=name) for name in "abc"]
        await store.transact(lambda t: t.add_task_calls("default", {a.id: c.id, b.id: c.id}))
        await store.transact(lambda t: t.forget_task_calls([b.id, c.id]))

        assert await store.transact(lambda t: t.task_calls("default")) == {a.id: c.id}
        assert await store.transact(lambda t: t.task_calls("elsewhere")) == {}

    async def test_a_run_that_is_claimed_without_a_lease_is_not_lost(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        [run] = await add_runs(store, owner, [clock.now()])
        await store.transact(lambda t: t.change_runs([dispatched(run, t.now)]))
        [held] = await store.transact(lambda t: t.claim([run.id], CALLER, None))
        assert (held.status, held.attempt, held.fence) == (RunStatus.RUNNING, 1, 1)
        await store.transact(lambda t: t.date_leases(t.now - MINUTE, t.now))
        clock.advance(MINUTE)

        assert await store.transact(lambda t: t.expired_leases(10)) == []
        assert await store.transact(lambda t: t.runs_held_by([""])) == []

    async def test_a_called_flow_run_that_has_ended_is_overlooked_while_its_attempt_waits(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        now = clock.now()
        waits, is_held, ready = await add_runs(store, owner, [now, now + MINUTE, now + 2 * MINUTE])
        for run, holder in ((waits, CALLER), (is_held, "worker-1")):
            until = None if holder == CALLER else now + MINUTE
            await store.transact(lambda t, run=run: t.change_runs([dispatched(run, now)]))  # type: ignore[misc]
            await store.transact(
                lambda t, run=run, by=holder, until=until: t.claim([run.id], by, until)  # type: ignore[misc]
            )
        earlier, called, open_, other, later = (
            flow_run(id, now, called_by=run.id, called_by_attempt=attempt)
            for id, run, attempt in (
                ("a", waits, 0), ("b", waits, 1), ("c", waits, 1), ("d", is_held, 1),
                ("e", ready, 0),
            )
        )  # fmt: skip
        await store.transact(lambda t: t.open_flow_runs([earlier, called, open_, other, later], []))
        ids = [waits.id, is_held.id]
        assert await store.transact(lambda t: t.open_calls(ids)) == ["a", "b", "c", "d"]
        await store.transact(
            lambda t: t.save_flow_runs(
                [ended(each, {}, now) for each in (earlier, called, other, later)]
            )
        )

        assert await store.transact(lambda t: t.open_calls(ids)) == ["c"]
        overlooked = await store.transact(lambda t: t.overlooked_calls(10))
        assert overlooked == [ended(called, {}, now)]
        wanted = FlowRunFilter(called_by=waits.id)
        page = await store.read(lambda r: r.list_flow_runs(wanted, PageRequest("-id", 2)))
        assert [each.id for each in page.items] == ["c", "b"]

    async def test_all_tasks_are_known_that_wait_for_a_flow_run_by_calling(
        self, store: Store, clock: FakeClock
    ) -> None:
        now = clock.now()
        top = (await add_runs(store, await add_task(store, name="top"), [now]))[0]
        low = await in_flow(store, name="low")
        await store.transact(
            lambda t: t.open_flow_runs(
                [
                    flow_run("f", now, called_by=top.id, called_by_attempt=1),
                    flow_run("inner", now, called_by=low.id, called_by_attempt=1),
                    flow_run("alone", now),
                ],
                [],
            )
        )

        asked = ["f", "inner", "alone"]
        assert await store.transact(lambda t: t.tasks_calling(asked)) == {
            ("f", top.task_id), ("inner", low.task_id), ("inner", top.task_id),
        }  # fmt: skip

    async def test_the_last_runs_of_a_flow_run_are_those_on_which_no_other_depends(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = await in_flow(store, name="first")
        last = await in_flow(store, name="last")
        split = await in_flow(store, name="split")
        is_first = annotate(
            split, clock.now(), EventType.RUN_HELD, part_of=split.id, shard_index=0, shard_total=2
        )
        await store.transact(lambda t: t.change_runs([is_first]))
        split = msgspec.structs.replace(split, shard_total=2)
        [part] = await store.transact(lambda t: t.insert_runs(parts_of(split, 1)))
        elsewhere = msgspec.structs.replace(edge_between(last, first), flow_run_id="g")
        await store.transact(lambda t: t.add_edges([edge_between(first, last), elsewhere]))
        await store.transact(lambda t: end_with(t, last, "abc"))

        found = await store.transact(lambda t: t.last_runs_of(["f"]))
        assert found == [
            LastRun("f", last.id, last.task_id, "last", False, None, len('"abc"')),
            LastRun("f", split.id, split.task_id, "split", True, 2, 0),
            LastRun("f", part.id, split.task_id, "split", True, 2, 0),
        ]

    async def test_what_was_called_is_kept_until_its_flow_run_has_ended(
        self, store: Store, clock: FakeClock
    ) -> None:
        run = await in_flow(store)
        called = flow_run("f", clock.now(), called_by=1_000, called_by_attempt=1)
        await store.transact(lambda t: t.open_flow_runs([called], []))
        await store.transact(lambda t: end_with(t, run, None))
        clock.advance(MINUTE)

        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 0
        await store.transact(lambda t: t.save_flow_runs([ended(called, {}, t.now)]))
        assert await store.transact(lambda t: t.prune(clock.now(), 10)) == 1

    async def test_a_list_of_several_statuses_is_one_order(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        runs = await add_runs(store, owner, [clock.now() - MINUTE * n for n in range(6)])
        for run in runs[::2]:
            await store.transact(lambda t, run=run: start(t, run, clock.now() + MINUTE))  # type: ignore[misc]
        wanted = RunFilter(status=(RunStatus.PENDING, RunStatus.RUNNING))

        for sort in ("id", "-id", "scheduled_for", "-scheduled_for"):
            seen: list[int] = []
            position = None
            while True:
                page = PageRequest(sort, 4, position)
                found = await store.read(lambda r, p=page: r.list_runs(wanted, p))  # type: ignore[misc]
                seen += [run.id for run in found.items]
                position = found.next
                if position is None:
                    break
            ascending = [run.id for run in runs]
            assert seen == (ascending if sort in {"id", "-scheduled_for"} else ascending[::-1])

    async def test_transactions_that_come_together_do_not_see_half_of_each_other(
        self, store: Store
    ) -> None:
        added = await asyncio.gather(
            *(add_task(store, name=f"task-{n % 5}") for n in range(20)), return_exceptions=True
        )

        stored = [each for each in added if isinstance(each, Task)]
        assert len({task.id for task in stored}) == len(stored) == 5
        assert sum(isinstance(each, Conflict) for each in added) == 15

    async def test_a_read_sees_what_was_committed_and_nothing_else(self, store: Store) -> None:
        before = await store.read(lambda r: r.list_tasks(TaskFilter(), PageRequest("id", 10)))
        task = await add_task(store)
        after = await store.read(lambda r: r.list_tasks(TaskFilter(), PageRequest("id", 10)))

        assert before.items == []
        assert after.items == [task]

    async def test_closing_twice_is_allowed(self, store: Store) -> None:
        await store.close()
        await store.close()

    async def test_a_duty_is_one_holders_until_its_lease_is_over(
        self, store: Store, clock: FakeClock
    ) -> None:
        async def take(holder: str) -> int | None:
            return await store.transact(
                lambda t: t.take_duty(Duty.PRUNE_HISTORY, holder, t.now + MINUTE)
            )

        taken_at = clock.now()
        assert [await take("one"), await take("one"), await take("two")] == [1, None, None]
        [lease] = await store.read(lambda r: r.duties())
        assert lease == DutyLease("prune_history", "one", 1, taken_at, taken_at + MINUTE)
        clock.advance(MINUTE)

        assert [await take("two"), await take("one")] == [2, None]
        [lease] = await store.read(lambda r: r.duties())
        assert (lease.holder, lease.taken_at) == ("two", taken_at + MINUTE)

    async def test_a_duty_is_renewed_only_with_the_fence_of_its_lease_and_while_that_lasts(
        self, store: Store, clock: FakeClock
    ) -> None:
        async def renew(fence: int) -> bool:
            return await store.transact(
                lambda t: t.renew_duty(Duty.TIDY_QUEUE, fence, t.now + MINUTE)
            )

        assert not await renew(1)
        await store.transact(lambda t: t.take_duty(Duty.TIDY_QUEUE, "one", t.now + MINUTE))
        await store.transact(lambda t: t.take_duty(Duty.PRUNE_HISTORY, "two", t.now + MINUTE))
        clock.advance(MINUTE / 2)
        assert [await renew(0), await renew(2), await renew(1)] == [False, False, True]
        clock.advance(MINUTE / 2)
        tidying, pruning = Duty.TIDY_QUEUE, Duty.PRUNE_HISTORY
        leases = {lease.duty: lease for lease in await store.read(lambda r: r.duties())}
        assert leases[tidying].is_held(clock.now())
        assert not leases[pruning].is_held(clock.now())
        clock.advance(MINUTE / 2)

        assert not await renew(1)

    async def test_a_duty_that_was_given_up_is_free_at_once_and_is_given_up_once(
        self, store: Store, clock: FakeClock
    ) -> None:
        duty = Duty.PRUNE_HISTORY
        await store.transact(lambda t: t.take_duty(duty, "one", t.now + MINUTE))
        await store.transact(lambda t: t.give_up_duty(duty, 2))
        assert await store.transact(lambda t: t.take_duty(duty, "two", t.now + MINUTE)) is None
        await store.transact(lambda t: t.give_up_duty(duty, 1))
        assert not await store.transact(lambda t: t.renew_duty(duty, 1, t.now + MINUTE))
        assert await store.transact(lambda t: t.take_duty(duty, "two", t.now + MINUTE)) == 2
        await store.transact(lambda t: t.give_up_duty(duty, 1))

        [lease] = await store.read(lambda r: r.duties())
        assert (lease.holder, lease.is_held(clock.now())) == ("two", True)

    async def test_a_holder_that_stood_still_changes_nothing_once_another_took_over(
        self, store: Store, clock: FakeClock
    ) -> None:
        first, second = (Leadership(store, Duty.PRUNE_HISTORY, name) for name in ("one", "two"))

        async def perform(leadership: Leadership, name: str) -> list[Task] | None:
            return await leadership.perform(
                lambda t: t.insert_tasks([task(id=0, at=t.now, name=name)])
            )

        assert await perform(first, "a") is not None
        assert await perform(second, "b") is None
        clock.advance(LEASE)
        assert await perform(second, "c") is not None
        assert await perform(first, "d") is None
        await first.give_up()
        assert await perform(second, "e") is not None

        page = await store.read(lambda r: r.list_tasks(TaskFilter(), PageRequest("id", 10)))
        assert [each.definition.name for each in page.items] == ["a", "c", "e"]

    async def test_a_holder_whose_work_failed_has_changed_nothing_and_may_go_on(
        self, store: Store
    ) -> None:
        leadership = Leadership(store, Duty.PRUNE_HISTORY, "one")

        def fail(transaction: Transaction) -> None:
            transaction.insert_tasks([task(id=0, at=transaction.now, name="half")])
            raise Conflict("no")

        for _ in range(2):
            with pytest.raises(Conflict):
                await leadership.perform(fail)
            assert await store.read(lambda r: r.task_named("default", "half")) is None
            assert await leadership.perform(lambda t: t.task_named("default", "half")) is None
        [lease] = await store.read(lambda r: r.duties())
        assert lease.fence == 1

    async def test_how_upstream_runs_stand_is_told_part_by_part(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)
        gone = await add_task(store, name="gone")
        times = [clock.now() + n * MINUTE for n in range(4)]
        waiting, first, second, other = await add_runs(store, owner, times)

        def act(transaction: Transaction) -> None:
            until = transaction.now + MINUTE
            fence = start(transaction, first, until).fence
            transaction.record_successes([Success(first.id, fence, {"x": "é"}, None, 0)])
            waits = partial(Edge, waiting.id, flow_run_id="f", condition="succeeded")
            transaction.add_edges(
                [
                    waits(owner.id, second.id, second.id),
                    waits(owner.id, 0, first.id, ended_as=RunStatus.FAILED),
                    waits(gone.id, 0, None, ended_as=RunStatus.CANCELLED),
                    Edge(other.id, owner.id, 0, first.id, "f", "failed"),
                ]
            )

        await store.transact(act)
        told = await store.transact(lambda t: t.upstream_ends([waiting.id]))
        assert sorted(told, key=lambda end: (end.task_name, end.run_id or 0)) == [
            UpstreamEnd(waiting.id, first.id, "a-task", RunStatus.FAILED, None, False, 9),
            UpstreamEnd(waiting.id, second.id, "a-task", RunStatus.PENDING, None, False, 0),
            UpstreamEnd(waiting.id, None, "gone", RunStatus.CANCELLED, None, False, 0),
        ]
        of_task = [end.run_id for end in told if end.task_name == "a-task"]
        assert of_task == [first.id, second.id]
        results = await store.transact(lambda t: t.results([first.id, second.id]))
        assert results == {first.id: {"x": "é"}, second.id: None}
        runs = await store.transact(lambda t: t.waiting_runs([waiting.id]))
        assert runs == {waiting.id: WaitingRun(waiting.id, waiting.scheduled_for, {})}

    async def test_a_skip_for_an_expression_that_failed_counts_as_a_failure(
        self, store: Store, clock: FakeClock
    ) -> None:
        owner = await add_task(store)

        def act(transaction: Transaction) -> dict[str, dict[str, int]]:
            runs = [
                skipped_run(owner, clock.now() + n * MINUTE, clock.now(), reason)
                for n, reason in enumerate(["expression", "upstream"])
            ]
            transaction.insert_runs([msgspec.structs.replace(run, flow_run_id="f") for run in runs])
            return transaction.unhandled_ends(["f"])

        assert await store.transact(act) == {"f": {"failed": 1, "skipped": 1}}
