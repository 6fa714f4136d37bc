"""The worker's end of a process that runs Python tasks: of a `python_sync_host` or async one."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, Protocol, cast

import msgspec

from tidemill.domain.outcome import Outcome, failure, success
from tidemill.errors import Unavailable
from tidemill.foundation.executor import Execution
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.chunks import chunk_of
from tidemill.worker.executors.containment import Containment, without_settings
from tidemill.worker.executors.frames import framed
from tidemill.worker.executors.large_results import large_outcome
from tidemill.worker.executors.python_run import PythonRun
from tidemill.worker.executors.slot import Slot, TreeEnd, TreeRequest
from tidemill.worker.executors.worker_frames import encode, frame_reader

Mode = Literal["sync", "async"]

_ENOUGH = 8  # runs before a process: until it has so few left, more are gathered
_READ_LATER_SECONDS = 0.003  # while it has enough before it, more of what it says is read at once
_LARGE = 256 * 1024  # bytes of runs that are sent as one
_TAIL_CHARACTERS = 2_000  # of what a process that died said last


class HostFailed(Exception):
    """A process ended before it was ready; says what it said last."""


def not_started(error: BaseException) -> Outcome:
    """The outcome of a run for which there was no process."""
    return failure("not_started", f"no Python process could be started: {error}")


class Owner(Protocol):
    """Whoever gives a process its runs."""

    def ended(self, host: "Host", run: PythonRun, outcome: Outcome, seconds: float | None) -> None:
        """A run ended; `seconds` is None where the process did before it."""

    def withdrawn(self, host: "Host", run: PythonRun) -> None:
        """The process did not come to this run; it was not begun."""

    def is_async(self, host: "Host", run: PythonRun) -> None:
        """The process is for sync functions, and this one is async; it was not begun."""


class Host(asyncio.Protocol):
    """The worker's end of one process that runs Python tasks."""

    def __init__(self, mode: Mode, owner: Owner) -> None:
        self.mode = mode
        self._owner = owner
        self.load = 0  # runs that were promised a place in it
        self.seconds = 0.0  # about how long they will take
        self.takes_company = True
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []
        self._will_flush = False
        self._reader = frame_reader()
        self._transport: asyncio.Transport | None = None
        self._slot: Slot | None = None
        self._results = ""  # how the names of files for large results begin
        self._tree: asyncio.Task[TreeEnd] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: dict[int, PythonRun] = {}
        self._ids = 0
        self._said: deque[str] = deque(maxlen=20)
        self._retirement: asyncio.TimerHandle | None = None
        self._killed_for: int | None = None

    @property
    def is_alive(self) -> bool:
        if self._transport is None or self._tree is None:
            return False
        return not self._tree.done() and self._killed_for is None

    async def start(
        self, containment: Containment, paths: list[str], max_result_bytes: int
    ) -> None:
        """Return when it is ready; raises HostFailed."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._slot = await containment.slot(theirs)
        except Unavailable as error:
            ours.close()
            raise HostFailed(str(error)) from error
        self._results = self._slot.path_of("returned")
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        request = TreeRequest(
            argv=[
                sys.executable,
                "-m",
                f"{__package__}.python_{self.mode}_host",
                json.dumps(paths),
                json.dumps(Execution.__struct_fields__),
                json.dumps([self._results, max_result_bytes]),
            ],
            environment=without_settings(os.environ),
            directory="/",
        )
        self._tree = asyncio.create_task(self._slot.run(request, self._hear_raw))
        self._tree.add_done_callback(self._ended)
        await self._ready

    def begin(self, run: PythonRun) -> None:
        """Run one attempt; the owner is told how it went. Only while it is alive."""
        self._ids += 1
        run.enter(self, self._ids)
        self._running[run.id] = run
        self._outbox.append(b"[%d,%b]" % (run.id, run.told))
        self._flush_soon()

    def cancel(self, run: PythonRun) -> None:
        if self._transport is not None:
            self._interrupt({"cancel": {"id": run.id}})
            run.kill_later(self._kill_for)

    @property
    def front(self) -> int | None:
        """Which run is before all others; each that it is given has another number."""
        return next(iter(self._running), None)

    def withdraw(self) -> None:
        """Take back what it was given and has not begun."""
        if len(self._running) > 1:
            self._interrupt({"withdraw": {}})

    def rest(self, seconds: float, retire: Any) -> None:
        """Call `retire` when nobody needs this process for so long."""
        self._retirement = asyncio.get_running_loop().call_later(seconds, retire)

    def rest_no_more(self) -> None:
        """Somebody needs it."""
        if self._retirement is not None:
            self._retirement.cancel()

    def hang_up(self) -> None:
        """The process ends when it has nothing to do, and its slot with it."""
        if self._slot is not None:
            self._slot.hang_up()

    async def kill(self) -> None:
        """End it now; returns when it is gone."""
        self.hang_up()
        if self._tree is not None:
            await asyncio.wait([self._tree])

    def _interrupt(self, message: dict[str, Any]) -> None:
        """Send this and have it heard while a function runs."""
        self._flush()
        if self._transport is not None:
            self._transport.write(encode(message))
        if self.mode == "sync" and self._slot is not None:
            self._slot.interrupt()

    def _flush_soon(self) -> None:
        """What is sent in one round of the loop goes out together and wakes the process once.

        While one for sync functions has enough before it, what comes next waits for more.
        """
        if not self._will_flush and not self._has_enough:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    @property
    def _has_enough(self) -> bool:
        return self.mode == "sync" and len(self._running) - len(self._outbox) > _ENOUGH

    def _flush(self) -> None:
        self._will_flush = False
        outbox, self._outbox = self._outbox, []
        if outbox and self._transport is not None:
            self._transport.write(_frames_of(outbox))

    def _kill_for(self, run: PythonRun) -> None:
        """It does not end by itself: only with its whole process."""
        self._killed_for = run.id
        if self._slot is not None:
            self._slot.stop(timedelta(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._tree is not None and self._tree.done():
            self._tell_all()

    def data_received(self, data: bytes) -> None:
        # A thread that a function left behind may speak for an attempt that is over.
        for message in self._reader.feed(data):
            if "end" in message:
                self._hear_end(*message["end"])
            elif "lines" in message:
                attempt_id, *lines = message["lines"]
                if running := self._running.get(attempt_id):
                    running.reports.output(chunk_of(Lines(*lines)))
            elif "progress" in message:
                attempt_id, fraction, said = message["progress"]
                if running := self._running.get(attempt_id):
                    running.reports.progress(fraction, said)
            elif "checkpoint" in message:
                attempt_id, checkpoint = message["checkpoint"]
                if running := self._running.get(attempt_id):
                    running.reports.checkpoint(checkpoint)
            elif "withdrawn" in message:
                for attempt_id in message["withdrawn"]:
                    self._owner.withdrawn(self, self._left_by(attempt_id))
            elif "async" in message:
                self._owner.is_async(self, self._left_by(message["async"]))
            elif not self._ready.done():
                self._ready.set_result(None)
        if self._has_enough:
            self._read_later()

    def _read_later(self) -> None:
        """To be woken for each single end costs more than to hear it; none is lost meanwhile, even
        where the process dies."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(_READ_LATER_SECONDS, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _hear_end(self, id: int, outcome: dict[str, Any], seconds: float) -> None:
        if "is_in_file" in outcome:
            ended = large_outcome(self._result_file(id))
        else:
            ended = _outcome_of(outcome)
        self._owner.ended(self, self._left_by(id), ended, seconds)
        if self._outbox:
            self._flush_soon()

    def _result_file(self, id: int) -> str:
        return f"{self._results}{id}"

    def _left_by(self, id: int) -> PythonRun:
        run = self._running.pop(id)
        run.leave()
        return run

    def _hear_raw(self, lines: Lines) -> None:
        """What the process says past its attempts: warnings at start, last words."""
        self._said.append(lines.text)

    def _ended(self, tree: "asyncio.Task[TreeEnd]") -> None:
        if self._slot is not None:
            self._slot.hang_up()
        if not self._ready.done():
            self._ready.set_exception(HostFailed(self._last_words(_end_of(tree))))
        if self._transport is None:
            self._tell_all()  # else once all that it still said was heard

    def _tell_all(self) -> None:
        """The process is gone: one run was under way in it, or many were that share a loop."""
        end = _end_of(self._tree)
        for place, id in enumerate(list(self._running)):
            run = self._left_by(id)
            with contextlib.suppress(OSError):
                os.unlink(self._result_file(id))  # it died while it wrote it
            if self.mode == "sync" and place > 0:
                self._owner.withdrawn(self, run)
            else:
                self._owner.ended(self, run, self._outcome_of_death(end, id), None)

    def _outcome_of_death(self, end: TreeEnd | None, attempt_id: int) -> Outcome:
        if self._killed_for is not None and self._killed_for != attempt_id:
            return failure("executor_lost", "its process was killed to end another task")
        code = None if end is None else end.exit_code
        if code is None:
            return failure("killed", self._last_words(end))
        reason = "signal" if code < 0 else "exit_code"
        return failure(reason, self._last_words(end), exit_code=code)

    def _last_words(self, end: TreeEnd | None) -> str:
        code = None if end is None else end.exit_code
        how = "was killed" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was ended by signal {-code}"
        said = "".join(self._said)[-_TAIL_CHARACTERS:].strip()
        return f"the Python process {how}" + (f": {said}" if said else "")


def _frames_of(runs: Sequence[bytes]) -> bytes:
    """One frame for all of them, unless that is so large that the first would have to wait."""
    body = b'{"runs":[%b]}' % b",".join(runs)
    if len(runs) == 1 or len(body) <= _LARGE:
        return framed(body)
    return b"".join(_frames_of([run]) for run in runs)


def _end_of(tree: "asyncio.Task[TreeEnd] | None") -> TreeEnd | None:
    return None if tree is None or tree.cancelled() else tree.result()


def _outcome_of(told: dict[str, Any]) -> Outcome:
    if "result" not in told:
        return failure(
            told["reason"],
            told["error_message"],
            exit_code=told.get("exit_code"),
            exception_type=told.get("exception_type"),
        )
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        return success(msgspec.json.decode(told["result"]))
    return failure("invalid_result", "the result is not JSON")
