"""What every way from a worker to the others must do.

Each adapter's tests subclass this and give a `control_plane`, and the `store`, `queue` and `clock`
that are at its other end.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.define_task import create_task
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.recover_lost_runs import recover_lost_runs
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.artifact import CHUNK_BYTES, ArtifactId
from tidemill.domain.events import EventType
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task import Dependency
from tidemill.domain.task_run import AttemptOutcome, Shard, TaskRun
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict, InvalidInput
from tidemill.foundation.control_plane import (
    ArtifactChunk,
    AttemptReport,
    ClaimedRun,
    ControlPlane,
    GoOn,
    OutputReport,
)
from tidemill.foundation.queue import MessageQueue, RunMessage
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import LogLines, Store
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import FakeClock

LEASE = timedelta(seconds=10)


class Begun:
    """What was handed over to begin."""

    def __init__(self) -> None:
        self.runs: list[ClaimedRun] = []
        self.asked_at: list[float] = []

    def __call__(self, claimed: Sequence[ClaimedRun], asked_at: float) -> None:
        self.runs += claimed
        self.asked_at += [asked_at] * len(claimed)

    @property
    def ids(self) -> list[int]:
        """The runs, in the order in which they came."""
        return [each.run.id for each in self.runs]


async def ready_runs(
    store: Store, queue: MessageQueue, count: int = 1, **fields: object
) -> list[TaskRun]:
    """Runs of a new task, dispatched and named in the queue."""

    def make(transaction):  # type: ignore[no-untyped-def]
        name = f"task-{transaction.last_event()}"
        wanted = definition(name, **fields)
        made = create_task(transaction, wanted, lambda _: ())
        namespace = made.definition.namespace
        return trigger_runs(
            transaction, [TriggerRequest(task=made.id, namespace=namespace)] * count
        )

    runs: list[TaskRun] = await store.transact(make)
    dispatched = await store.transact(lambda t: dispatch_ready_runs(t, 500, built_in_strategies()))
    await queue.publish(dispatched.messages)
    return runs


async def connected_runs(
    store: Store, queue: MessageQueue, known: Worker
) -> tuple[TaskRun, TaskRun]:
    """A run that is dispatched, and one that waits for it."""

    def make(transaction):  # type: ignore[no-untyped-def]
        first = create_task(transaction, definition("first"), lambda _: ())
        second = definition("second", dependencies=[Dependency("name:first", "succeeded")])
        create_task(transaction, second, lambda _: ())
        [run] = trigger_runs(transaction, [TriggerRequest(task=first.id)])
        [waiting] = transaction.runs_of_tasks(
            [edge.task_id for edge in transaction.task_edges_below([first.id])],
            [RunStatus.WAITING],
        )
        return run, waiting

    runs: tuple[TaskRun, TaskRun] = await store.transact(make)
    dispatched = await store.transact(lambda t: dispatch_ready_runs(t, 500, built_in_strategies()))
    await queue.publish(dispatched.messages)
    return runs


def ending(claimed: ClaimedRun, **what: object) -> AttemptReport:
    """How its attempt ended: well, unless something else is said."""
    given = {"fence": claimed.run.fence, "cause": "itself", "outcome": success({"n": 1}, 0)}
    return AttemptReport(claimed.run.id, log_seq=0, **given | what)  # type: ignore[arg-type]


def output(claimed: ClaimedRun, first: int, *texts: str, fence: int | None = None) -> OutputReport:
    """Lines that it wrote, numbered from `first`."""
    run = claimed.run
    at = run.scheduled_for
    last = first + len(texts) - 1
    lines = LogLines(run.id, first, last, run.attempt, "stdout", at, "\n".join(texts) + "\n")
    return OutputReport(run.id, run.fence if fence is None else fence, [lines])


def artifact_of(claimed: ClaimedRun) -> ArtifactId:
    """The name of its large result."""
    return ArtifactId(claimed.run.id, claimed.run.fence)


def chunk(claimed: ClaimedRun, number: int, *pieces: bytes) -> ArtifactChunk:
    """One of these pieces of what it returned."""
    size = sum(map(len, pieces))
    return ArtifactChunk(claimed.run.id, claimed.run.fence, size, number, pieces[number])


class ControlPlaneSuite:
    """Tests that take a fresh `control_plane`, its `store`, `queue` and `clock`."""

    @pytest.fixture
    async def known(self, control_plane: ControlPlane) -> Worker:
        """The worker, registered."""
        return await control_plane.register(worker("a-worker", max_concurrent_tasks=8))

    async def claim(self, control_plane: ControlPlane, at_most: int = 8) -> Begun:
        """What one claim came to."""
        begun = Begun()
        await control_plane.claim(Slots(at_most), begun)
        return begun

    async def row(self, store: Store, run_id: int) -> TaskRun:
        """The run as it stands."""
        found = await store.read(lambda reads: reads.run(run_id))
        assert found is not None
        return found

    async def test_a_worker_may_go_on_with_what_its_report_made_ready(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        first, _ = await connected_runs(store, queue, known)
        [claimed] = (await self.claim(control_plane)).runs
        slots, begun = Slots(8), Begun()

        await control_plane.report([], [ending(claimed)], GoOn(slots, begun))

        assert (await self.row(store, first.id)).status is RunStatus.SUCCEEDED
        assert slots.free == 8 - len(begun.runs)
        for each in begun.runs:
            assert each.run.parameters["upstream"] == {first.task_name: {"n": 1}}
            assert (await self.row(store, each.run.id)).fence == each.run.fence

    async def test_a_worker_without_a_free_slot_is_given_nothing_to_go_on_with(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        _, second = await connected_runs(store, queue, known)
        [claimed] = (await self.claim(control_plane)).runs
        slots, begun = Slots(0), Begun()

        await control_plane.report([], [ending(claimed)], GoOn(slots, begun))

        assert (slots.free, begun.runs) == (0, [])
        assert (await self.row(store, second.id)).status is RunStatus.PENDING

    async def test_a_worker_that_registered_is_active(self, store: Store, known: Worker) -> None:
        [stored] = await store.read(lambda reads: reads.workers_alive())

        assert (stored.id, stored.name, stored.status) == (
            known.id, "a-worker", WorkerStatus.ACTIVE,
        )  # fmt: skip
        assert (stored.task_types, stored.queues) == (["http", "python", "shell"], ["default"])

    async def test_a_worker_is_given_what_it_needs_to_run(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        clock: FakeClock,
        known: Worker,
    ) -> None:
        [run] = await ready_runs(
            store, queue, command="echo", arguments=["a", "b"], timeout_seconds=7,
            deadline_seconds=60, metadata={"team": "x"},
        )  # fmt: skip
        clock.advance(timedelta(seconds=5))
        [claimed] = (await self.claim(control_plane)).runs

        held = await self.row(store, run.id)
        assert (held.status, held.worker_id, held.fence) == (RunStatus.RUNNING, known.id, 1)
        assert held.lease_expires_at == clock.now() + LEASE
        for name in (
            "id",
            "fence",
            "attempt",
            "task_id",
            "task_name",
            "task_type",
            "namespace",
            "parameters",
            "scheduled_for",
            "timeout_seconds",
            "worker_id",
            "log_seq",
            "missed_count",
            "flow_run_id",
            "traceparent",
            "checkpoint",
            "status",
        ):
            assert getattr(claimed.run, name) == getattr(held, name), name  # fmt: skip
        assert claimed.definition.command == "echo"
        assert claimed.definition.arguments == ["a", "b"]
        assert claimed.definition.metadata == {"team": "x"}
        assert claimed.deadline_seconds == 55

    async def test_a_worker_is_told_which_part_of_the_work_is_its_own(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        await ready_runs(store, queue, strategy={"name": "shard", "count": 2})
        again = await store.transact(lambda t: dispatch_ready_runs(t, 500, built_in_strategies()))
        await queue.publish(again.messages)
        claimed: list[ClaimedRun] = []
        while len(claimed) < 2:
            claimed += (await self.claim(control_plane)).runs

        assert {each.shard for each in claimed} == {Shard(0, 2), Shard(1, 2)}

    async def test_a_claim_waits_until_there_is_a_run(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        claiming = asyncio.create_task(self.claim(control_plane))
        await asyncio.wait([claiming], timeout=0.01)
        [run] = await ready_runs(store, queue)

        assert (await claiming).ids == [run.id]

    async def test_a_claim_takes_no_more_than_was_asked_for(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        runs = await ready_runs(store, queue, count=5)
        first = await self.claim(control_plane, at_most=3)
        second = await self.claim(control_plane, at_most=3)

        assert first.ids + second.ids == [run.id for run in runs]
        assert len(first.ids) == 3

    async def test_a_lease_is_counted_from_before_it_was_asked_for(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        clock: FakeClock,
        known: Worker,
    ) -> None:
        await ready_runs(store, queue)
        begun = await self.claim(control_plane)

        assert begun.asked_at == [clock.monotonic()]

    async def test_what_a_worker_that_stops_claiming_left_goes_to_others(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        runs = await ready_runs(store, queue, count=3)
        taken = await self.claim(control_plane, at_most=1)
        begun = Begun()
        await control_plane.stop_claiming(begun)
        await control_plane.drain()
        other = await queue.subscribe(worker("another"))

        assert runs[1].id in (await other.receive()).message.run_ids
        assert (taken.ids, begun.ids) == ([runs[0].id], [])

    async def test_a_claim_that_is_cancelled_while_it_waits_takes_nothing(
        self, control_plane: ControlPlane, queue: MessageQueue, known: Worker
    ) -> None:
        begun = Begun()
        claiming = asyncio.create_task(control_plane.claim(Slots(8), begun))
        await asyncio.wait([claiming], timeout=0.01)
        claiming.cancel()
        await asyncio.wait([claiming])
        await control_plane.stop_claiming(begun)
        await control_plane.drain()
        other = await queue.subscribe(worker("another"))
        await queue.publish([RunMessage("default/shell", (7,))])

        assert (await other.receive()).message.run_ids == (7,)
        assert begun.ids == []

    async def test_what_is_claimed_is_begun_though_the_claim_is_cancelled(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        known: Worker,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        [run] = await ready_runs(store, queue)
        is_asked, may_go, transact = asyncio.Event(), asyncio.Event(), store.transact

        async def transact_slowly(body: Any) -> Any:
            is_asked.set()
            await may_go.wait()
            return await transact(body)

        monkeypatch.setattr(store, "transact", transact_slowly)
        begun = Begun()
        claiming = asyncio.create_task(control_plane.claim(Slots(8), begun))
        await is_asked.wait()
        claiming.cancel()
        may_go.set()
        await asyncio.wait([claiming])
        await control_plane.stop_claiming(begun)

        is_claimed = (await self.row(store, run.id)).status is RunStatus.RUNNING
        assert begun.ids == ([run.id] if is_claimed else [])

    async def test_a_heartbeat_extends_what_is_held(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        clock: FakeClock,
        known: Worker,
    ) -> None:
        runs = await ready_runs(store, queue, count=2)
        begun = await self.claim(control_plane)
        clock.advance(timedelta(seconds=6))
        await store.transact(
            lambda t: cancel_runs(t, list(t.runs([runs[1].id]).values()), "cancelled_by_user")
        )
        renewal = await control_plane.renew({each.run.id: each.run.fence for each in begun.runs})

        assert renewal.is_known
        assert renewal.may_claim
        assert renewal.statuses == {
            runs[0].id: RunStatus.RUNNING, runs[1].id: RunStatus.CANCELLING,
        }  # fmt: skip
        assert (await self.row(store, runs[0].id)).lease_expires_at == clock.now() + LEASE
        [stored] = await store.read(lambda reads: reads.workers_alive())
        assert (stored.last_heartbeat, stored.current_task_count) == (clock.now(), 2)

    async def test_an_old_fence_is_not_renewed(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs

        assert (await control_plane.renew({run.id: claimed.run.fence + 1})).statuses == {}

    async def test_a_worker_that_was_silent_too_long_comes_back_as_another(
        self,
        control_plane: ControlPlane,
        store: Store,
        queue: MessageQueue,
        clock: FakeClock,
        known: Worker,
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        clock.advance(timedelta(seconds=60))
        await store.transact(
            lambda t: recover_lost_runs(t, 500, claim_within=LEASE, silent_after=LEASE)
        )
        renewal = await control_plane.renew({run.id: claimed.run.fence})
        await control_plane.report([], [ending(claimed)])

        assert not renewal.is_known
        assert renewal.statuses == {}
        assert (await self.row(store, run.id)).status is RunStatus.RETRYING
        again = await control_plane.register(worker("a-worker-again", name="a-worker"))
        assert again.id != known.id
        assert (await control_plane.renew({})).is_known

    async def test_output_is_stored_while_a_run_goes_on(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        said = OutputReport(run.id, 1, progress={"fraction": 0.5}, checkpoint={"page": 2})
        for _ in range(2):  # the first answer may have been lost
            await control_plane.report([output(claimed, 1, "one", "ø\t\x1b"), said], [])

        [row] = await store.read(lambda reads: reads.run_logs(run.id, 0, 10))
        assert (row.first_seq, row.last_seq, row.text) == (1, 2, "one\nø\t\x1b\n")
        stored = await self.row(store, run.id)
        assert (stored.progress, stored.checkpoint) == ({"fraction": 0.5}, {"page": 2})

    async def test_a_report_of_any_size_arrives(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        outputs = [output(claimed, 1 + n, f"{n} " + "\x1b" * 65_000) for n in range(12)]
        await control_plane.report(outputs, [ending(claimed, outcome=success("r" * 200_000))])

        rows = await store.read(lambda reads: reads.run_logs(run.id, 0, 100))
        assert [row.text.split()[0] for row in rows] == [str(n) for n in range(12)]
        stored = await self.row(store, run.id)
        assert (stored.status, len(stored.result)) == (RunStatus.SUCCEEDED, 200_000)

    async def test_a_large_result_arrives_piece_by_piece_however_often_one_is_sent(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        pieces = [b"\x00" * CHUNK_BYTES, b"\xff" * CHUNK_BYTES, b"end"]
        for number in (0, 0, 2, 1, 2):  # answers were lost
            assert await control_plane.store_chunk(chunk(claimed, number, *pieces))

        found = [
            await control_plane.fetch_chunk(
                claimed.run.id, claimed.run.fence, artifact_of(claimed), number
            )
            for number in range(3)
        ]
        assert found == pieces
        kept = await store.read(lambda reads: reads.artifact(artifact_of(claimed), "default"))
        assert kept is not None
        assert kept.size == 2 * CHUNK_BYTES + 3

    async def test_a_piece_with_an_old_fence_is_refused_and_told(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        old = msgspec.structs.replace(chunk(claimed, 0, b"x"), fence=claimed.run.fence + 1)

        assert not await control_plane.store_chunk(old)
        assert await store.read(lambda reads: reads.artifact(ArtifactId(run.id, old.fence))) is None
        events = await store.read(lambda reads: reads.run_events(run.id, 0, 100))
        assert events[-1].type is EventType.STALE_WRITE_REFUSED
        assert events[-1].data == {"fences": [old.fence], "held": claimed.run.fence}
        assert not await control_plane.store_chunk(msgspec.structs.replace(old, run_id=4_711))

    async def test_a_piece_that_does_not_fit_the_others_is_refused(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        first = chunk(claimed, 0, b"four")
        await control_plane.store_chunk(first)

        for wrong in ({"size": 5}, {"number": 1}, {"content": b"fours"}, {"content": b""}):
            with pytest.raises(InvalidInput):
                await control_plane.store_chunk(msgspec.structs.replace(first, **wrong))
        with pytest.raises(Conflict):
            await control_plane.store_chunk(chunk(claimed, 0, b"other size"))

    async def test_a_large_result_is_for_whoever_holds_a_run_of_its_namespace(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        await ready_runs(store, queue)
        await ready_runs(store, queue, namespace="team")
        claimed = (await self.claim(control_plane)).runs
        while len(claimed) < 2:
            claimed += (await self.claim(control_plane)).runs
        own, foreign = sorted(claimed, key=lambda each: each.run.namespace)
        await control_plane.store_chunk(chunk(own, 0, b"x"))
        id = artifact_of(own)

        assert await control_plane.fetch_chunk(own.run.id, own.run.fence, id, 0) == b"x"
        for run_id, fence, number in (
            (own.run.id, own.run.fence + 1, 0), (foreign.run.id, foreign.run.fence, 0),
            (own.run.id, own.run.fence, 1), (4_711, 1, 0),
        ):  # fmt: skip
            with pytest.raises(Conflict):
                await control_plane.fetch_chunk(run_id, fence, id, number)
        await control_plane.report([], [ending(own)])
        with pytest.raises(Conflict):
            await control_plane.fetch_chunk(own.run.id, own.run.fence, id, 0)

    async def test_an_end_is_recorded_once(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        runs = await ready_runs(store, queue, count=2)
        begun = await self.claim(control_plane)
        failed = failure("exit_code", "exit code 3", exit_code=3)
        said = [ending(begun.runs[0]), ending(begun.runs[1], outcome=failed)]
        await control_plane.report([], said)
        await control_plane.report([], said)  # its answer was lost

        first, second = [await self.row(store, run.id) for run in runs]
        assert (first.status, first.result, first.exit_code) == (RunStatus.SUCCEEDED, {"n": 1}, 0)
        assert (second.status, second.reason, second.exit_code) == (
            RunStatus.FAILED, "exit_code", 3,
        )  # fmt: skip
        attempts = await store.read(lambda reads: reads.attempts(runs[0].id))
        assert [each.outcome for each in attempts] == [AttemptOutcome.SUCCEEDED]

    async def test_what_an_old_fence_says_changes_nothing_and_is_told(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        old = claimed.run.fence + 1
        await control_plane.report(
            [output(claimed, 1, "from elsewhere", fence=old)], [ending(claimed, fence=old)]
        )

        assert (await self.row(store, run.id)).status is RunStatus.RUNNING
        assert await store.read(lambda reads: reads.run_logs(run.id, 0, 10)) == []
        events = await store.read(lambda reads: reads.run_events(run.id, 0, 100))
        assert events[-1].type is EventType.STALE_WRITE_REFUSED

    async def test_a_worker_that_drains_may_not_claim_and_hands_back(
        self, control_plane: ControlPlane, store: Store, queue: MessageQueue, known: Worker
    ) -> None:
        [run] = await ready_runs(store, queue)
        [claimed] = (await self.claim(control_plane)).runs
        await control_plane.stop_claiming(Begun())
        await control_plane.drain()
        renewal = await control_plane.renew({run.id: claimed.run.fence})
        with pytest.raises(Conflict):
            await control_plane.sign_off()
        await control_plane.report([], [ending(claimed, cause="drain", outcome=failure("x", "y"))])
        await control_plane.sign_off()

        assert (renewal.is_known, renewal.may_claim) == (True, False)
        assert (await self.row(store, run.id)).reason == "handed_back"
        gone = await store.read(lambda reads: reads.worker(known.id))
        assert gone is not None
        assert gone.status is WorkerStatus.OFFLINE

    async def test_closing_twice_is_allowed(self, control_plane: ControlPlane) -> None:
        await control_plane.close()
        await control_plane.close()
