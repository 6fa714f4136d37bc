"""The worker's end of a process that runs Python tasks: of a `python_sync_host` or async one."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from datetime import timedelta
from typing import Any, Literal, cast

import msgspec

from tidemill.domain.outcome import Outcome, failure, success
from tidemill.errors import Unavailable
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.chunks import chunk_of
from tidemill.worker.executors.containment import (
    Containment,
    Slot,
    TreeEnd,
    TreeRequest,
    without_settings,
)
from tidemill.worker.executors.frames import FrameReader, framed

Mode = Literal["sync", "async"]

_ENOUGH = 8  # runs before a process: until it has so few left, more are gathered
_TAIL_CHARACTERS = 2_000  # of what a process that died said last


class HostFailed(Exception):
    """A process ended before it was ready; says what it said last."""


class Withdrawn(Exception):
    """The run was given to a process that did not come to it; it was not begun."""


class IsAsync(Exception):
    """The run was given to a process for sync functions, and its function is async; it was not
    begun."""


class Ended(msgspec.Struct, frozen=True):
    """How a run in a process ended; `seconds` is None where the process ended before it."""

    outcome: Outcome
    seconds: float | None = None


class Host(asyncio.Protocol):
    """The worker's end of one process that runs Python tasks."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.load = 0  # runs that were promised a place in it
        self.seconds = 0.0  # about how long they will take
        self.takes_company = True
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []
        self._will_flush = False
        self._reader = FrameReader(msgspec.json.decode)
        self._transport: asyncio.Transport | None = None
        self._slot: Slot | None = None
        self._tree: asyncio.Task[TreeEnd] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: dict[int, _Running] = {}
        self._ids = 0
        self._said: deque[str] = deque(maxlen=20)
        self._retirement: asyncio.TimerHandle | None = None
        self._killed_for: int | None = None

    @property
    def is_alive(self) -> bool:
        if self._transport is None or self._tree is None:
            return False
        return not self._tree.done() and self._killed_for is None

    async def start(self, containment: Containment, paths: list[str]) -> None:
        """Return when it is ready; raises HostFailed."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._slot = await containment.slot(theirs)
        except Unavailable as error:
            ours.close()
            raise HostFailed(str(error)) from error
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        request = TreeRequest(
            argv=[
                sys.executable,
                "-m",
                f"{__package__}.python_{self.mode}_host",
                json.dumps(paths),
                json.dumps(Execution.__struct_fields__),
            ],
            environment=without_settings(os.environ),
            directory="/",
        )
        self._tree = asyncio.create_task(self._slot.run(request, self._hear_raw))
        self._tree.add_done_callback(self._ended)
        await self._ready

    async def run(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Ended:
        """Run one attempt to its end; raises Withdrawn or IsAsync where it was not begun."""
        if stop.is_requested:
            return Ended(failure("cancelled", "stopped before it was started"))
        if not self.is_alive:
            raise Withdrawn  # it died on the way here; another takes the run
        self._ids += 1
        running = _Running(self._ids, reports)
        self._running[running.id] = running
        self._outbox.append(_framed({"run": [running.id, execution]}))
        self._flush_soon()
        stop.on_request(lambda: self._cancel(running, stop.grace))
        try:
            return await running.ended
        finally:
            running.forget_kill()

    @property
    def front(self) -> int | None:
        """Which run is before all others; each that it is given has another number."""
        return next(iter(self._running), None)

    def withdraw(self) -> None:
        """Take back what it was given and has not begun."""
        if len(self._running) > 1:
            self._outbox.append(_framed({"withdraw": {}}))
            self._interrupt()

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

    def _cancel(self, running: "_Running", grace: timedelta) -> None:
        if self._transport is None or running.ended.done():
            return
        self._outbox.append(_framed({"cancel": {"id": running.id}}))
        self._interrupt()
        running.kill_later(grace, lambda: self._kill_for(running))

    def _interrupt(self) -> None:
        """Have what was sent heard while a function runs."""
        self._flush()
        if self.mode == "sync" and self._slot is not None:
            self._slot.interrupt()

    def _flush_soon(self) -> None:
        """What is sent in one round of the loop goes out together and wakes the process once.

        While one for sync functions has enough before it, what comes next waits for more.
        """
        has_enough = self.mode == "sync" and len(self._running) - len(self._outbox) > _ENOUGH
        if not self._will_flush and not has_enough:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        outbox, self._outbox = self._outbox, []
        if outbox and self._transport is not None:
            self._transport.write(b"".join(outbox))

    def _kill_for(self, running: "_Running") -> None:
        """It does not end by itself: only with its whole process."""
        self._killed_for = running.id
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
                    self._running.pop(attempt_id).refuse(Withdrawn())
            elif "async" in message:
                self._running.pop(message["async"]).refuse(IsAsync())
            elif not self._ready.done():
                self._ready.set_result(None)

    def _hear_end(self, id: int, outcome: dict[str, Any], seconds: float) -> None:
        self._running.pop(id).end(Ended(_outcome_of(outcome), seconds))
        if self._outbox:
            self._flush_soon()

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
        running, self._running = self._running, {}
        for place, each in enumerate(running.values()):
            if self.mode == "sync" and place > 0:
                each.refuse(Withdrawn())
            else:
                each.end(Ended(self._outcome_of_death(end, each.id)))

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


class _Running:
    """One attempt inside a process."""

    def __init__(self, id: int, reports: ExecutionReports) -> None:
        self.id = id
        self.reports = reports
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._kill: asyncio.TimerHandle | None = None

    def end(self, ended: Ended) -> None:
        """Tell whoever waits for it, if anybody still does."""
        if not self.ended.done():
            self.ended.set_result(ended)

    def refuse(self, why: Exception) -> None:
        """Tell them that it was not begun."""
        if not self.ended.done():
            self.ended.set_exception(why)

    def kill_later(self, grace: timedelta, kill: Any) -> None:
        self.forget_kill()
        self._kill = asyncio.get_running_loop().call_later(grace.total_seconds(), kill)

    def forget_kill(self) -> None:
        if self._kill is not None:
            self._kill.cancel()


def _framed(message: dict[str, Any]) -> bytes:
    return framed(msgspec.json.encode(message))


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
