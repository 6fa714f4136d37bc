"""Large results on their way through a worker: stored before an end is told, files for a run."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidemill.domain.artifact import CHUNK_BYTES, ArtifactId, Reference
from tidemill.domain.outcome import Outcome, failure, success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task_run import TaskRun
from tidemill.errors import Conflict, LimitExceeded, Unavailable
from tidemill.foundation.control_plane import ArtifactChunk, ClaimedRun, execution_of
from tidemill.foundation.executor import (
    Execution,
    ExecutionReports,
    Executor,
    LargeResult,
    StopRequest,
)
from tidemill.foundation.slots import Slots
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock, run_in_virtual_time
from tidemill.testing.conformance.control_plane_suite import (
    LEASE,
    Begun,
    artifact_of,
    chunk,
    connected_runs,
    ready_runs,
)
from tidemill.testing.executors import CollectedReports, ScriptedExecutor
from tidemill.worker.artifacts import ArtifactTransfer, WithArtifacts
from tidemill.worker.executors.large_results import kept_aside
from tidemill.worker.worker import WorkerOptions, WorkerService

LARGE = json.dumps("ü" * CHUNK_BYTES, ensure_ascii=False).encode()  # of three pieces
LIMIT = len(LARGE)

Script = Callable[[Execution, ExecutionReports, StopRequest], Awaitable[Outcome]]


class Way(StoreControlPlane):
    """A way on which pieces meet what a test puts there."""

    def __init__(self, store: Any, queue: Any, clock: FakeClock) -> None:
        super().__init__(store, queue, MemoryWakeups(), clock, built_in_strategies(), LEASE)
        self.errors: list[Exception] = []  # for the second piece, one after the other
        self.lets_pass: asyncio.Event | None = None
        self.is_asked = asyncio.Event()
        self.numbers: list[int] = []

    async def store_chunk(self, chunk: ArtifactChunk) -> bool:
        await self._pass(chunk.number)
        return await super().store_chunk(chunk)

    async def fetch_chunk(self, run_id: int, fence: int, id: ArtifactId, number: int) -> bytes:
        await self._pass(number)
        return await super().fetch_chunk(run_id, fence, id, number)

    async def _pass(self, number: int) -> None:
        self.numbers.append(number)
        if number == 1:
            self.is_asked.set()
            if self.lets_pass is not None:
                await self.lets_pass.wait()
            if self.errors:
                raise self.errors.pop(0)


class Place:
    """A store, a way to it, and what goes between its files and the store."""

    def __init__(self, files: Path) -> None:
        self.clock = FakeClock()
        self.store = InlineSqliteStore(self.clock, MemoryWakeups(), schema=empty_schema())
        self.queue = MemoryQueue()
        self.way = Way(self.store, self.queue, self.clock)
        self.files = files
        self.transfer = ArtifactTransfer(
            self.way, self.clock, files, largest=LIMIT, most_upstream=3 * LIMIT
        )
        self.stop = StopRequest()

    async def claimed(self, **fields: Any) -> ClaimedRun:
        """A run that is held."""
        await self.way.register(worker("a-worker", max_concurrent_tasks=8))
        await ready_runs(self.store, self.queue, **fields)
        return await self.next()

    async def next(self) -> ClaimedRun:
        """The next run that can be had."""
        begun = Begun()
        await self.way.claim(Slots(1), begun)
        return begun.runs[0]

    async def run(self, claimed: ClaimedRun, script: Script) -> Outcome:
        """Run it to its end, as a worker does."""
        return await self.run_on(ScriptedExecutor(script), claimed)

    async def run_on(self, inner: Executor, claimed: ClaimedRun) -> Outcome:
        """Run it to its end on this executor."""
        executor = WithArtifacts(inner, self.transfer)
        execution = execution_of(executor.placed(claimed))
        return await executor.execute(execution, CollectedReports(), self.stop)

    async def row(self, run_id: int) -> TaskRun:
        """The run as it stands."""
        found = self.store.read_now(lambda reads: reads.run(run_id))
        assert found is not None
        return found

    async def content(self, claimed: ClaimedRun) -> bytes:
        """What is stored of what it returned."""
        found = [
            self.store.read_now(lambda r, n=n: r.artifact_chunk(artifact_of(claimed), n))  # type: ignore[misc]
            for n in range(3)
        ]
        return b"".join(piece for piece in found if piece is not None)

    def having(self, claimed: ClaimedRun, **upstream: Any) -> ClaimedRun:
        """The same run, with results of upstream runs."""
        run = msgspec.structs.replace(claimed.run, parameters={"upstream": upstream})
        return msgspec.structs.replace(claimed, run=run)

    async def kept(self, claimed: ClaimedRun, content: bytes = LARGE) -> dict[str, Any]:
        """The reference to a large result of this attempt, which is stored."""
        pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        for number in range(len(pieces)):
            await self.way.store_chunk(chunk(claimed, number, *pieces))
        self.way.numbers.clear()
        return Reference(artifact_of(claimed), len(content)).beside({})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def content_at(reference: dict[str, Any]) -> bytes:
    """What is in the file that a run is told of."""
    return Path(reference["path"]).read_bytes()


def giving(result: LargeResult) -> Script:
    """A task that returns this."""

    async def give(*_: object) -> Outcome:
        return success(result, 0)

    return give


async def never(*_: object) -> Outcome:
    """A task that must not be begun."""
    raise AssertionError("it was begun")


async def test_a_large_result_is_stored_before_its_end_is_told(place: Place) -> None:
    claimed = await place.claimed()
    result = kept_aside(LARGE, {"status": 200})
    outcome = await place.run(claimed, giving(result))

    assert outcome == success(
        {"status": 200, "$artifact": {"id": str(artifact_of(claimed)), "bytes": len(LARGE)}}, 0
    )
    assert await place.content(claimed) == LARGE
    assert result.content.closed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LARGE + b" ", "result_too_large"),
        (LARGE[:-1], "invalid_result"),
        (LARGE[:-1] + b"\xff", "invalid_result"),
        (b'"' + b"\xc3" * CHUNK_BYTES + b'"', "invalid_result"),
        (b"[" * CHUNK_BYTES, "invalid_result"),
    ],
    ids=["too large", "cut off", "no end", "no UTF-8", "nested without end"],
)
async def test_nothing_is_stored_of_a_result_that_cannot_be_kept(
    place: Place, content: bytes, reason: str
) -> None:
    claimed = await place.claimed()
    result = kept_aside(content)
    outcome = await place.run(claimed, giving(result))

    assert (outcome.succeeded, outcome.reason, outcome.result) == (False, reason, None)
    assert outcome.exit_code == 0
    assert place.way.numbers == []
    assert result.content.closed


def test_a_piece_whose_connection_is_lost_is_sent_again(place: Place) -> None:
    async def story() -> None:
        claimed = await place.claimed()
        place.way.errors = [Unavailable("the connection was reset")] * 3
        outcome = await place.run(claimed, giving(kept_aside(LARGE)))

        assert outcome.succeeded
        assert place.way.numbers == [0, 1, 1, 1, 1, 2]
        assert await place.content(claimed) == LARGE

    run_in_virtual_time(story(), place.clock)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LimitExceeded("a result has at most 9 bytes here"), "result_too_large"),
        (Conflict("no worker a-worker"), "result_refused"),
    ],
)
async def test_a_result_that_the_other_side_refuses_fails_its_attempt(
    place: Place, error: Exception, reason: str
) -> None:
    claimed = await place.claimed()
    place.way.errors = [error]
    outcome = await place.run(claimed, giving(kept_aside(LARGE)))

    assert (outcome.succeeded, outcome.reason, outcome.error_message) == (False, reason, str(error))


async def test_nothing_more_is_sent_of_a_run_that_somebody_else_holds(place: Place) -> None:
    claimed = await place.claimed()
    old = msgspec.structs.replace(claimed.run, fence=claimed.run.fence + 1)
    stale = msgspec.structs.replace(claimed, run=old)
    outcome = await place.run(stale, giving(kept_aside(LARGE)))

    assert (outcome.succeeded, place.way.numbers) == (False, [0])


async def test_a_result_that_is_on_its_way_when_its_attempt_is_to_end_is_given_up(
    place: Place,
) -> None:
    claimed = await place.claimed()
    place.way.lets_pass = asyncio.Event()
    result = kept_aside(LARGE)
    running = asyncio.create_task(place.run(claimed, giving(result)))
    await place.way.is_asked.wait()
    place.stop.request(timedelta(0))
    outcome = await running

    assert (outcome.succeeded, outcome.reason) == (False, "cancelled")
    assert result.content.closed


async def test_a_result_may_arrive_within_the_grace_of_an_end(place: Place) -> None:
    claimed = await place.claimed()
    place.way.lets_pass = asyncio.Event()
    running = asyncio.create_task(place.run(claimed, giving(kept_aside(LARGE))))
    await place.way.is_asked.wait()
    place.stop.request(timedelta(minutes=1))
    place.way.lets_pass.set()

    assert (await running).succeeded


async def test_a_run_reads_what_it_is_referred_to_in_files_that_go_with_it(place: Place) -> None:
    first = await place.claimed()
    await ready_runs(place.store, place.queue)
    second = await place.next()
    reference, other = await place.kept(first), await place.kept(second, b"[%b]" % LARGE)
    inline = {"$artifact": "of a kind of its own"}
    reading = place.having(first, a=reference, b=[1, other, reference], c=inline, d=None)
    seen: dict[str, Any] = {}

    async def read(execution: Execution, *_: object) -> Outcome:
        seen.update(execution.parameters["upstream"])
        seen["a text"] = content_at(seen["a"])
        seen["b text"] = content_at(seen["b"][1])
        return success()

    outcome = await place.run(reading, read)

    assert outcome == success()
    assert (seen["a text"], seen["b text"]) == (LARGE, b"[%b]" % LARGE)
    assert seen["a"] == reference | {"path": seen["a"]["path"]}
    assert (seen["b"][0], seen["b"][2]) == (1, seen["a"])
    assert (seen["c"], seen["d"]) == (inline, None)
    assert place.way.numbers == [0, 1, 2] * 2  # each once
    assert Path(seen["a"]["path"]).is_relative_to(place.files)
    assert list(place.files.iterdir()) == []


async def test_a_run_for_an_item_reads_that_alone_of_many(place: Place) -> None:
    first = await place.claimed()
    await ready_runs(place.store, place.queue)
    second = await place.next()
    item, other = await place.kept(first), await place.kept(second)
    reading = place.having(first, all=[item, other], none=None)
    parameters = reading.run.parameters | {"item": item, "item_index": 0, "item_total": 2}
    run = msgspec.structs.replace(reading.run, parameters=parameters)
    told: dict[str, Any] = {}

    async def read(execution: Execution, *_: object) -> Outcome:
        told.update(execution.parameters)
        return success(len(content_at(execution.parameters["item"])))

    outcome = await place.run(msgspec.structs.replace(reading, run=run), read)

    assert outcome == success(len(LARGE))
    assert place.way.numbers == [0, 1, 2]
    assert told["upstream"] == {"all": [told["item"], other], "none": None}
    assert told["item"] == item | {"path": told["item"]["path"]}


async def test_nothing_is_fetched_for_a_task_that_reads_no_files(place: Place) -> None:
    claimed = await place.claimed()
    reference = await place.kept(claimed)
    executor = ScriptedExecutor()
    executor.reads_files = False  # type: ignore[attr-defined]
    outcome = await place.run_on(executor, place.having(claimed, a=reference))

    assert outcome == success()
    assert executor.executions[0].parameters == {"upstream": {"a": reference}}
    assert place.way.numbers == []


@pytest.mark.parametrize("how", ["fails", "raises", "is to end"])
async def test_the_files_of_a_run_go_however_it_ends(place: Place, how: str) -> None:
    claimed = await place.claimed()
    reading = place.having(claimed, a=await place.kept(claimed))

    async def end(execution: Execution, _: object, stop: StopRequest) -> Outcome:
        assert content_at(execution.parameters["upstream"]["a"]) == LARGE
        if how == "raises":
            raise RuntimeError("a defect")
        if how == "is to end":
            stop.request(timedelta(0))
        return failure("exit_code", "exit code 1", exit_code=1)

    outcome = await place.run(reading, end)

    assert outcome.reason == ("executor_error" if how == "raises" else "exit_code")
    assert list(place.files.iterdir()) == []


async def test_a_run_that_is_to_end_while_its_files_come_is_not_begun(place: Place) -> None:
    claimed = await place.claimed()
    reading = place.having(claimed, a=await place.kept(claimed))
    place.way.lets_pass, place.way.is_asked = asyncio.Event(), asyncio.Event()

    running = asyncio.create_task(place.run(reading, never))
    await place.way.is_asked.wait()
    place.stop.request(timedelta(minutes=1))
    outcome = await running

    assert outcome == failure("cancelled", "stopped before it was begun")
    assert list(place.files.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "4711-1"}, "artifact 4711-1 is not there any more"),
        ({"bytes": len(LARGE) - 1}, "has not"),
        ({"bytes": len(LARGE) + 1}, "not there any more"),
        ({"bytes": 3 * LIMIT + 1}, f"this worker takes {3 * LIMIT}"),
    ],
    ids=["gone", "longer", "shorter", "too large"],
)
async def test_a_run_whose_files_cannot_be_had_fails_and_says_why(
    place: Place, changes: dict[str, Any], said: str
) -> None:
    claimed = await place.claimed()
    kept = await place.kept(claimed)
    reading = place.having(claimed, a={"$artifact": kept["$artifact"] | changes})
    outcome = await place.run(reading, never)

    assert (outcome.succeeded, outcome.reason) == (False, "artifact_unavailable")
    assert said in (outcome.error_message or "")
    assert list(place.files.iterdir()) == []


async def test_a_run_whose_files_cannot_be_written_fails_and_says_why(place: Place) -> None:
    claimed = await place.claimed()
    reading = place.having(claimed, a=await place.kept(claimed))
    place.transfer = ArtifactTransfer(
        place.way, place.clock, place.files / "none", largest=LIMIT, most_upstream=LIMIT
    )
    outcome = await place.run(reading, never)

    assert outcome.reason == "artifact_unavailable"
    assert "No such file" in (outcome.error_message or "")


async def test_a_lease_is_renewed_while_a_result_is_sent_and_a_dependent_reads_it(
    place: Place,
) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def work(execution: Execution, *_: object) -> Outcome:
        if not execution.parameters["upstream"]:
            return success(kept_aside(LARGE))
        [reference] = execution.parameters["upstream"].values()
        seen.put_nowait(content_at(reference))
        return success()

    place.way.lets_pass = asyncio.Event()
    options = WorkerOptions(
        name="a-worker", hostname="host", version="0", heartbeat_seconds=0.02,
        lease_seconds=LEASE.total_seconds(),
    )  # fmt: skip
    executors: dict[str, Executor] = {"shell": ScriptedExecutor(work)}
    service = WorkerService(
        place.way, MemoryWakeups(), place.clock, executors, options, place.files
    )
    await service.start()
    assert service.heartbeat is not None
    first, _ = await connected_runs(place.store, place.queue, worker())
    await place.way.is_asked.wait()
    for _ in range(5):  # more than a lease
        place.clock.advance(LEASE / 2)
        await service.heartbeat.next_round()
    held = await place.row(first.id)
    place.way.lets_pass.set()
    assert await seen.get() == LARGE
    ended = await place.row(first.id)
    await service.stop()

    assert (held.status, held.lease_expires_at) == (RunStatus.RUNNING, place.clock.now() + LEASE)
    assert ended.result == {"$artifact": {"id": f"{first.id}-1", "bytes": len(LARGE)}}
    assert list(place.files.iterdir()) == []
