"""What every store must do. Each adapter's tests subclass this and give a `store` and a `clock`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pytest

from tidemill.domain.events import EventType
from tidemill.domain.new_run import fired_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, Task
from tidemill.domain.task_run import AttemptOutcome, RunAttempt, TaskRun, annotate, move
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import Conflict, Unavailable, VersionMismatch
from tidemill.foundation.listing import PageRequest, RunFilter, TaskFilter
from tidemill.foundation.store import (
    AttemptClosing,
    LogLines,
    Store,
    StoredAnswer,
    TaskAdvance,
    Transaction,
)
from tidemill.testing.builders import task, worker
from tidemill.testing.clock import FakeClock

MINUTE = timedelta(minutes=1)


async def add_task(store: Store, **fields: object) -> Task:
    """A stored task."""
    return await store.transact(lambda t: t.insert_task(task(id=0, at=t.now, **fields)))  # type: ignore[arg-type]


async def add_runs(store: Store, owner: Task, times: Sequence[datetime]) -> list[TaskRun]:
    """A run for each fire time."""
    return await store.transact(
        lambda t: t.insert_runs([fired_run(owner, at, t.now) for at in times])
    )


def start(transaction: Transaction, run: TaskRun, until: datetime) -> None:
    """Dispatch and claim a pending run."""
    now = transaction.now
    transaction.change_runs(
        [move(run, RunStatus.DISPATCHED, now, EventType.RUN_DISPATCHED, dispatched_at=now)]
    )
    dispatched = transaction.runs([run.id])[run.id]
    transaction.change_runs(
        [
            move(
                dispatched,
                RunStatus.RUNNING,
                now,
                EventType.RUN_STARTED,
                worker_id="worker-1",
                fence=dispatched.fence + 1,
                attempt=1,
                started_at=now,
                lease_expires_at=until,
            )
        ]
    )


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
        await store.transact(lambda t: t.delete_task(first.id))
        second = await add_task(store, name="a")

        assert second.id != first.id
        assert await store.read(lambda r: r.task(first.id)) is None

    async def test_a_replace_of_another_version_is_refused(self, store: Store) -> None:
        stored = await add_task(store)
        other = msgspec.structs.replace(stored, version=9)
        with pytest.raises(VersionMismatch):
            await store.transact(lambda t: t.replace_task(other, other))

    async def test_what_a_body_raises_leaves_nothing(self, store: Store) -> None:
        def body(transaction: Transaction) -> None:
            transaction.insert_task(task(id=0, at=transaction.now, name="gone"))
            raise ValueError("after all, no")

        with pytest.raises(ValueError, match="after all"):
            await store.transact(body)
        assert await store.read(lambda r: r.task_named("default", "gone")) is None

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

    async def test_ready_runs_come_by_lane_and_rank(self, store: Store, clock: FakeClock) -> None:
        plain = await add_task(store, name="plain")
        urgent = await add_task(store, name="urgent", priority=Priority.HIGH)
        other = await add_task(store, name="other", queue="other")
        await add_runs(store, plain, [clock.now()])
        await add_runs(store, urgent, [clock.now()])
        await add_runs(store, other, [clock.now()])
        await add_runs(store, plain, [clock.now() + MINUTE])  # not yet

        lanes = await store.transact(lambda t: t.ready_lanes())
        assert lanes == {"default/shell": 0, "other/shell": 0}
        ready = await store.transact(lambda t: t.ready_runs("default/shell", 10))
        assert [run.task_name for run in ready] == ["urgent", "plain"]

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

    async def test_an_attempt_is_closed_once(self, store: Store, clock: FakeClock) -> None:
        attempt = RunAttempt(
            run_id=1, attempt=1, fence=1, worker_id="worker-1", started_at=clock.now()
        )
        await store.transact(lambda t: t.open_attempts([attempt]))
        for outcome in (AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED):
            closing = AttemptClosing(1, 1, outcome, clock.now())
            await store.transact(lambda t, c=closing: t.close_attempts([c]))  # type: ignore[misc]

        [stored] = await store.read(lambda r: r.attempts(1))
        assert stored.outcome is AttemptOutcome.LOST

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

    async def test_answers_are_kept_for_a_day_and_replaced_by_newer_ones(
        self, store: Store, clock: FakeClock
    ) -> None:
        first = [StoredAnswer("scope", key, "hash", {"a": [1]}, clock.now()) for key in "ab"]
        await store.transact(lambda t: t.store_answers("scope", first))
        newer = msgspec.structs.replace(first[0], answer=2)
        await store.transact(lambda t: t.store_answers("scope", [newer]))

        stored = await store.transact(lambda t: t.stored_answers("scope", ["a", "b", "c"]))
        assert stored == {"a": newer, "b": first[1]}
        assert await store.transact(lambda t: t.stored_answers("other", ["a"])) == {}
        clock.advance(timedelta(hours=25))
        assert await store.transact(lambda t: t.stored_answers("scope", ["a"])) == {}

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

    async def test_closing_twice_is_allowed(self, store: Store) -> None:
        await store.close()
        await store.close()
