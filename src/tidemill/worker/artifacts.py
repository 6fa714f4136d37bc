"""Large results: what a run is to read is fetched before it begins, and what it returned is stored
before its end is told.

    claimed ─► files of what it refers to ─► the task ─► its result, piece by piece ─► its end

Both are parts of the attempt: its lease is renewed meanwhile, and its limits hold.
"""

import asyncio
import codecs
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tidemill.domain.artifact import (
    ArtifactId,
    Reference,
    located,
    numbered,
    references_in,
)
from tidemill.domain.outcome import Outcome, failure
from tidemill.errors import Conflict, InvalidInput, LimitExceeded, Problem, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import ArtifactChunk, ClaimedRun, ControlPlane
from tidemill.foundation.executor import (
    Ended,
    Execution,
    ExecutionReports,
    Executor,
    LargeResult,
    StopRequest,
)
from tidemill.worker.in_tasks import as_direct, executor_error

T = TypeVar("T")

_log = logging.getLogger("tidemill.worker")

_FIRST_PAUSE_SECONDS = 0.2  # between tries while the other side does not answer; it grows
_LONGEST_PAUSE_SECONDS = 2.0
_CHECKED_AT_ONCE = 1024 * 1024


class WithArtifacts:
    """An executor whose attempts read large results as files, and may return some."""

    def __init__(self, executor: Executor, transfer: "ArtifactTransfer") -> None:
        self.task_type = executor.task_type
        self._reads_files = getattr(executor, "reads_files", True)
        self._executor = as_direct(executor)
        self._transfer = transfer
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself would forget them

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        return self._executor.check(command, arguments)

    async def start(self) -> None:
        await self._executor.start()

    async def close(self) -> None:
        await self._executor.close()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.begin(execution, reports, stop, outcome.set_result)
        return await outcome

    def placed(self, claimed: ClaimedRun) -> ClaimedRun:
        """The same run, which is told where the files will be that it is to read."""
        return self._transfer.placed(claimed) if self._reads_files else claimed

    def begin(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        def has_ended(outcome: Outcome) -> None:
            if isinstance(outcome.result, LargeResult):
                self._go(self._store(execution, outcome, outcome.result, stop, ended))
            else:
                ended(outcome)

        wanted = references_in(execution.parameters) if self._reads_files else ()
        if wanted:
            self._go(self._run_with_files(execution, wanted, reports, stop, has_ended))
        else:
            self._executor.begin(execution, reports, stop, has_ended)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_with_files(
        self,
        execution: Execution,
        wanted: Sequence[Reference],
        reports: ExecutionReports,
        stop: StopRequest,
        ended: Ended,
    ) -> None:
        place = self._transfer.place_of(execution.run_id, execution.fence)
        try:
            fetching = asyncio.ensure_future(self._transfer.fetch(execution, wanted))
            outcome = await _unless_stopped(
                fetching, stop, "stopped before it was begun", is_patient=False
            )
            if outcome is None:
                outcome = await self._executor.execute(execution, reports, stop)
        except Exception as error:
            outcome = executor_error(error)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        ended(outcome)

    async def _store(
        self,
        execution: Execution,
        outcome: Outcome,
        result: LargeResult,
        stop: StopRequest,
        ended: Ended,
    ) -> None:
        try:
            with result.content:
                storing = asyncio.ensure_future(self._transfer.store(execution, outcome, result))
                said = "stopped before its result was stored"
                stored = await _unless_stopped(storing, stop, said, is_patient=True)
        except Exception as error:
            stored = executor_error(error)
        ended(stored)


async def _unless_stopped(
    working: "asyncio.Future[T]", stop: StopRequest, said: str, *, is_patient: bool
) -> "T | Outcome":
    """What it comes to; a failure that says so where it is stopped before: at once, or after the
    grace."""
    loop = asyncio.get_running_loop()

    def cut_short() -> None:
        seconds = stop.grace.total_seconds() if is_patient else 0
        loop.call_later(seconds, working.cancel)

    stop.on_request(cut_short)
    try:
        return await working
    except asyncio.CancelledError:
        if not working.cancelled():
            raise
        return failure("cancelled", said)
    finally:
        stop.forget(cut_short)


class ArtifactTransfer:
    """One worker's: between its files and wherever results are kept. Sizes are in bytes."""

    def __init__(
        self,
        control_plane: ControlPlane,
        clock: Clock,
        files: Path,
        *,
        largest: int,
        most_upstream: int,
    ) -> None:
        self._control_plane = control_plane
        self._clock = clock
        self._files = files
        self._largest = largest
        self._most_upstream = most_upstream
        self._checking = asyncio.Lock()  # one result at a time is held in memory

    def place_of(self, run_id: int, fence: int) -> Path:
        """Where the files of an attempt are."""
        return self._files / f"upstream-{run_id}-{fence}"

    def placed(self, claimed: ClaimedRun) -> ClaimedRun:
        """The same; what it refers to has the path of the file in which it will be."""
        run = claimed.run
        if not references_in(run.parameters):
            return claimed
        place = self.place_of(run.id, run.fence)
        parameters = located(run.parameters, lambda id: str(_file_of(place, id)))
        return msgspec.structs.replace(
            claimed, run=msgspec.structs.replace(run, parameters=parameters)
        )

    async def fetch(self, execution: Execution, wanted: Sequence[Reference]) -> Outcome | None:
        """Write what is referred to into files; the failure where that cannot be done."""
        once = {reference.id: reference for reference in wanted}
        total = sum(reference.size for reference in once.values())
        if total > self._most_upstream:
            said = f"results of {total} bytes are to be read as files; this worker takes"
            return failure("artifact_unavailable", f"{said} {self._most_upstream}")
        place = self.place_of(execution.run_id, execution.fence)
        try:
            place.mkdir(mode=0o700)
            for reference in once.values():
                await self._fetch_one(execution, reference, _file_of(place, reference.id))
        except (Conflict, InvalidInput) as refusal:
            return failure("artifact_unavailable", str(refusal))
        except OSError as error:
            said = f"a result cannot be written to a file: {error.strerror}"
            return failure("artifact_unavailable", said)
        return None

    async def _fetch_one(self, execution: Execution, reference: Reference, path: Path) -> None:
        number, left = 0, reference.size
        with path.open("xb") as file:
            while left > 0:
                content = await self._until_answered(
                    partial(
                        self._control_plane.fetch_chunk,
                        execution.run_id,
                        execution.fence,
                        reference.id,
                        number,
                    )
                )
                number, left = number + 1, left - len(content)
                if left < 0 or not content:
                    raise Conflict(f"artifact {reference.id} has not {reference.size} bytes")
                await asyncio.to_thread(file.write, content)

    async def store(self, execution: Execution, outcome: Outcome, result: LargeResult) -> Outcome:
        """Store a result; the outcome with a reference to it, or the failure to do so."""
        if result.size > self._largest:
            said = f"a result has at most {self._largest} bytes, and this one {result.size}"
            return _failed(outcome, "result_too_large", said)
        try:
            async with self._checking:
                await asyncio.to_thread(_check_json, result)
        except (ValueError, RecursionError) as error:
            return _failed(outcome, "invalid_result", f"the result is not JSON: {error}")
        try:
            is_stored = await self._store_all(execution, result)
        except LimitExceeded as refusal:
            return _failed(outcome, "result_too_large", str(refusal))
        except (Conflict, InvalidInput) as refusal:
            return _failed(outcome, "result_refused", str(refusal))
        if not is_stored:
            return _failed(outcome, "result_refused", "the run is held by somebody else")
        reference = Reference(ArtifactId(execution.run_id, execution.fence), result.size)
        return msgspec.structs.replace(outcome, result=reference.beside(result.beside))

    async def _store_all(self, execution: Execution, result: LargeResult) -> bool:
        """Whether all was taken; what is left is not sent to who refuses a piece as stale."""
        offset, descriptor = 0, result.content.fileno()
        for number, length in numbered(result.size):
            content = await asyncio.to_thread(os.pread, descriptor, length, offset)
            chunk = ArtifactChunk(execution.run_id, execution.fence, result.size, number, content)
            if not await self._until_answered(partial(self._control_plane.store_chunk, chunk)):
                return False
            offset += length
        return True

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await call()
            except Unavailable as error:
                _log.warning("a large result waits: %s", error)
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _file_of(place: Path, id: ArtifactId) -> Path:
    return place / f"{id}.json"


def _check_json(result: LargeResult) -> None:
    """Raises ValueError or RecursionError where it is none; makes nothing of what it says.

    It is read, not mapped: whoever cuts the file short meanwhile would end this process.
    """
    content = result.content.read(result.size)
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), _CHECKED_AT_ONCE):
        decoder.decode(content[start : start + _CHECKED_AT_ONCE])
    decoder.decode(b"", final=True)
    msgspec.json.decode(content, type=msgspec.Raw)


def _failed(outcome: Outcome, reason: str, said: str) -> Outcome:
    return failure(reason, said, exit_code=outcome.exit_code)
