"""Python tasks: `package.module:function`, in warm processes that can be killed."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, cast

import msgspec

from tidemill.domain.outcome import Outcome, failure, success
from tidemill.errors import Problem, Unavailable
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
from tidemill.worker.executors.run_environment import run_environment

Mode = Literal["sync", "async"]

_SLOW_SECONDS = 0.005  # a function that takes longer gets a process to itself
_DEPTH = 8  # quick runs that one process may have before it
_LOOK_SECONDS = 0.05  # how long runs wait before another process is started for them
_IDLE_SECONDS = 60.0  # a process that nobody needed for this long ends
_TAIL_CHARACTERS = 2_000  # of what a process that died said last


class PythonExecutor:
    """Sync functions one at a time in a process each; async ones together in one of their own."""

    task_type = "python"

    def __init__(
        self, containment: Containment, python_paths: Sequence[str], max_processes: int
    ) -> None:
        self._containment = containment
        self._paths = list(python_paths)
        self._pool = _SyncPool(self._start_host, max_processes)
        self._async_host: asyncio.Task[_Host] | None = None
        self._async_commands: set[str] = set()

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        problems = []
        module, _, path = command.partition(":")
        names = [*module.split("."), *path.split(".")]
        if not all(name.isidentifier() for name in names):
            problems.append(Problem("/command", "must be package.module:function"))
        if not isinstance(arguments, dict):
            problems.append(Problem("/arguments", "must be a mapping of keyword arguments"))
        return problems

    async def start(self) -> None:
        """Nothing to prepare: the first run starts a process."""

    async def close(self) -> None:
        await self._pool.close()
        if self._async_host is not None:
            with contextlib.suppress(_HostFailed):
                await (await self._async_host).kill()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        try:
            while True:
                with contextlib.suppress(_Withdrawn):
                    return await self._execute(execution, reports, stop)
        except _HostFailed as error:
            return failure("not_started", f"no Python process could be started: {error}")

    async def _execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        command = execution.command
        if command in self._async_commands:
            host = await self._host_for_async()
            return (await host.run(execution, reports, stop)).outcome
        place = await self._pool.take(command, stop)
        if place is None:
            return failure("cancelled", "stopped before a process was free")
        try:
            ended = await place.run(execution, reports, stop)
        finally:
            self._pool.give_back(place)
        if ended.is_async:
            self._async_commands.add(command)
        self._pool.learn(command, ended.seconds)
        return ended.outcome

    async def _host_for_async(self) -> "_Host":
        if self._async_host is None or (
            self._async_host.done()
            and (self._async_host.exception() or not self._async_host.result().is_alive)
        ):
            self._async_host = asyncio.create_task(self._start_host("async"))
        return await asyncio.shield(self._async_host)

    async def _start_host(self, mode: Mode) -> "_Host":
        host = _Host(mode)
        await host.start(self._containment, self._paths)
        return host


class _HostFailed(Exception):
    """A process ended before it was ready; says what it said last."""


class _Withdrawn(Exception):
    """The run was given to a process that did not come to it; it was not begun."""


class _Ended(msgspec.Struct, frozen=True):
    """How a run in a process ended; `seconds` is None where the process ended before it."""

    outcome: Outcome
    is_async: bool = False
    seconds: float | None = None


class _SyncPool:
    """Processes for sync functions; grows while runs wait, shrinks when nobody needs them.

    Functions that were quick so far share a few processes and queue up in them, so that a process
    is woken once for many: another process would add no processor. All others get one each. A
    function that is slow after all is relieved of those behind it.
    """

    def __init__(self, start: Callable[[Mode], Awaitable["_Host"]], max_processes: int) -> None:
        self._start = start
        self._max = max_processes
        self._quick_enough = (os.cpu_count() or 1) + 1
        self._slowest: dict[str, float] = {}  # of the last runs of each command, in seconds
        self._idle: list[_Host] = []
        self._busy: set[_Host] = set()
        self._starting: set[asyncio.Future[_Host]] = set()
        self._waiting: deque[tuple[str, asyncio.Future[_Host]]] = deque()
        self._looking: asyncio.TimerHandle | None = None

    async def take(self, command: str, stop: StopRequest) -> "_Host | None":
        """A process; None where the run was stopped while it waited for one."""
        host = self._host_for(command)
        if host is not None:
            return self._occupied(host, command)
        future: asyncio.Future[_Host] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if not self._busy and not self._starting:
            self._grow()
        self._look_later()
        stop.on_request(future.cancel)
        try:
            return await future
        except asyncio.CancelledError:
            if not stop.is_requested:
                raise
            return None

    def give_back(self, host: "_Host") -> None:
        """A run in it ended; it is free again, has others, or is dead."""
        host.load -= 1
        if not host.is_alive:
            self._busy.discard(host)
            if self._waiting:
                self._grow()
        elif host.load == 0:
            host.takes_company = True
            self._offer(host)
        else:
            self._serve_waiting()

    def learn(self, command: str, seconds: float | None) -> None:
        """What a run of this command took; one slow run is forgotten after some quick ones."""
        before = self._slowest.get(command, 0.0)
        self._slowest[command] = max(_SLOW_SECONDS if seconds is None else seconds, before * 0.8)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        for host in self._idle:
            host.rest_no_more()
            await host.kill()
        self._idle.clear()

    def _is_quick(self, command: str) -> bool:
        return self._slowest.get(command, _SLOW_SECONDS) < _SLOW_SECONDS

    def _host_for(self, command: str) -> "_Host | None":
        """A free process, or one that has only quick functions before it."""
        while self._idle:
            host = self._idle.pop()
            if host.is_alive:
                host.rest_no_more()
                return host
        if not self._is_quick(command):
            return None
        open_hosts = [
            host
            for host in self._busy
            if host.takes_company and host.load < _DEPTH and host.is_alive
        ]
        return min(open_hosts, key=lambda host: host.load, default=None)

    def _occupied(self, host: "_Host", command: str) -> "_Host":
        host.load += 1
        host.takes_company = host.takes_company and self._is_quick(command)
        self._busy.add(host)
        return host

    def _offer(self, host: "_Host") -> None:
        self._busy.discard(host)
        self._idle.append(host)
        self._serve_waiting()
        if host in self._idle:
            host.rest(_IDLE_SECONDS, lambda: self._retire(host))

    def _serve_waiting(self) -> None:
        while self._waiting:
            command, future = self._waiting[0]
            if not future.done():
                host = self._host_for(command)
                if host is None:
                    return
                future.set_result(self._occupied(host, command))
            self._waiting.popleft()

    def _retire(self, host: "_Host") -> None:
        if host in self._idle:
            self._idle.remove(host)
            host.hang_up()

    def _look_later(self) -> None:
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Relieve processes whose function takes long, and start others for those that wait."""
        self._looking = None
        long_ago = asyncio.get_running_loop().time() - _LOOK_SECONDS
        slow = [host for host in self._busy if host.front_since <= long_ago]
        for host in slow:
            host.takes_company = False
            host.withdraw()
        if self._waiting:
            quick = len(self._busy) - len(slow)
            wanted = self._quick_enough - quick - len(self._starting)
            for _ in range(min(wanted, len(self._waiting))):
                self._grow()
        if self._waiting or any(host.load > 1 for host in self._busy):
            self._look_later()

    def _grow(self) -> None:
        if len(self._busy) + len(self._starting) < self._max:
            starting = asyncio.ensure_future(self._start("sync"))
            self._starting.add(starting)
            starting.add_done_callback(self._started)

    def _started(self, starting: "asyncio.Future[_Host]") -> None:
        self._starting.discard(starting)
        error = starting.exception()
        if error is None:
            self._offer(starting.result())
        elif not self._busy and not self._starting:
            failed = error if isinstance(error, _HostFailed) else _HostFailed(str(error))
            waiting, self._waiting = self._waiting, deque()
            for _, future in waiting:
                if not future.done():
                    future.set_exception(failed)


class _Host(asyncio.Protocol):
    """The worker's end of one process that runs Python tasks."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.load = 0  # runs that were promised a place in it
        self.takes_company = True
        self.front_since = 0.0  # since when the run before all others runs, by the loop's clock
        self._loop = asyncio.get_running_loop()
        self._outbox: list[bytes] = []
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
        """Return when it is ready; raises _HostFailed."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._slot = await containment.slot(theirs)
        except Unavailable as error:
            ours.close()
            raise _HostFailed(str(error)) from error
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
        request = TreeRequest(
            argv=[sys.executable, "-m", f"{__package__}.python_host", self.mode, json.dumps(paths)],
            environment=without_settings(os.environ),
            directory="/",
        )
        self._tree = asyncio.create_task(self._slot.run(request, self._hear_raw))
        self._tree.add_done_callback(self._ended)
        await self._ready

    async def run(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> _Ended:
        """Run one attempt to its end; raises _Withdrawn where it was not begun."""
        if stop.is_requested:
            return _Ended(failure("cancelled", "stopped before it was started"))
        if not self.is_alive:
            return _Ended(self._outcome_of_death(None))
        self._ids += 1
        running = _Running(self._ids, reports)
        if not self._running:
            self.front_since = self._loop.time()
        self._running[running.id] = running
        self._send({"run": _request_of(running.id, execution)})
        stop.on_request(lambda: self._cancel(running, stop.grace))
        try:
            return await running.ended
        finally:
            running.forget_kill()

    def withdraw(self) -> None:
        """Take back what it was given and has not begun."""
        if len(self._running) > 1:
            self._send({"withdraw": {}})
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
        self._send({"cancel": {"id": running.id}})
        self._interrupt()
        running.kill_later(grace, lambda: self._kill_for(running))

    def _interrupt(self) -> None:
        """Have what was sent heard while a function runs."""
        self._flush()
        if self.mode == "sync" and self._slot is not None:
            self._slot.interrupt()

    def _send(self, message: dict[str, Any]) -> None:
        """What is sent in one round of the loop goes out together and wakes the process once."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(framed(msgspec.json.encode(message)))

    def _flush(self) -> None:
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
                self._hear_end(**message["end"])
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
                    self._running.pop(attempt_id).withdraw()
            elif not self._ready.done():
                self._ready.set_result(None)

    def _hear_end(self, id: int, outcome: dict[str, Any], is_async: bool, seconds: float) -> None:
        self.front_since = self._loop.time()
        self._running.pop(id).end(_Ended(_outcome_of(outcome), is_async, seconds))

    def _hear_raw(self, lines: Lines) -> None:
        """What the process says past its attempts: warnings at start, last words."""
        self._said.append(lines.text)

    def _ended(self, tree: "asyncio.Task[TreeEnd]") -> None:
        if self._slot is not None:
            self._slot.hang_up()
        if not self._ready.done():
            self._ready.set_exception(_HostFailed(self._last_words(_end_of(tree))))
        if self._transport is None:
            self._tell_all()  # else once all that it still said was heard

    def _tell_all(self) -> None:
        """The process is gone: one run was under way in it, or many were that share a loop."""
        end = _end_of(self._tree)
        running, self._running = self._running, {}
        for place, each in enumerate(running.values()):
            if self.mode == "sync" and place > 0:
                each.withdraw()
            else:
                each.end(_Ended(self._outcome_of_death(end, each.id)))

    def _outcome_of_death(self, end: TreeEnd | None, attempt_id: int | None = None) -> Outcome:
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
        self.ended: asyncio.Future[_Ended] = asyncio.get_running_loop().create_future()
        self._kill: asyncio.TimerHandle | None = None

    def end(self, ended: _Ended) -> None:
        """Tell whoever waits for it, if anybody still does."""
        if not self.ended.done():
            self.ended.set_result(ended)

    def withdraw(self) -> None:
        """Tell them that it was not begun."""
        if not self.ended.done():
            self.ended.set_exception(_Withdrawn())

    def kill_later(self, grace: timedelta, kill: Any) -> None:
        self.forget_kill()
        self._kill = asyncio.get_running_loop().call_later(grace.total_seconds(), kill)

    def forget_kill(self) -> None:
        if self._kill is not None:
            self._kill.cancel()


def _end_of(tree: "asyncio.Task[TreeEnd] | None") -> TreeEnd | None:
    return None if tree is None or tree.cancelled() else tree.result()


def _request_of(id: int, execution: Execution) -> dict[str, Any]:
    return {
        "id": id,
        "command": execution.command,
        "arguments": execution.arguments or {},
        "facts": {
            "run_id": execution.run_id,
            "task_id": execution.task_id,
            "task_name": execution.task_name,
            "namespace": execution.namespace,
            "attempt": execution.attempt,
            "fence": execution.fence,
            "scheduled_for": execution.scheduled_for.isoformat(),
            "parameters": execution.parameters,
            "checkpoint": execution.checkpoint,
            "environment": run_environment(execution),
        },
    }


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
