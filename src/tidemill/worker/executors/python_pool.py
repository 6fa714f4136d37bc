"""Which process a Python function runs in, and how many processes there are."""

import asyncio
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable

from tidemill.domain.outcome import Outcome
from tidemill.worker.executors.python_process import Host, Owner, not_started
from tidemill.worker.executors.python_run import PythonRun

_SLOW_SECONDS = 0.005  # a function that takes longer gets a process to itself
_DEPTH = 24  # quick runs that one process may have before it
_LOOK_SECONDS = 0.05  # how long runs wait, or stand in one, before another is started for them
_BACKLOG_SECONDS = 0.1  # of work that one process may have before it
_IDLE_SECONDS = 60.0  # a process that nobody needed for this long ends, unless
_KEPT_WARM = 1  # so many would not be left


class SyncPool:
    """Processes for sync functions; grows while runs wait, shrinks when nobody needs them.

    Functions that were quick so far share a few processes and queue up in them, so that a process
    is woken once for many: another process would add no processor. All others get one each. A
    function that is slow after all is relieved of those behind it. What turns out to be async is
    handed to `move`.
    """

    def __init__(
        self,
        start: Callable[[Owner], Awaitable[Host]],
        max_processes: int,
        move: Callable[[PythonRun], None],
    ) -> None:
        self._start = start
        self._move = move
        self._max = max_processes
        self._quick_enough = (os.cpu_count() or 1) + 1
        self._slowest: dict[str, float] = {}  # of the last runs of each command, in seconds
        self._idle: list[Host] = []
        self._busy: set[Host] = set()
        self._starting: set[asyncio.Future[Host]] = set()
        self._waiting: deque[PythonRun] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._fronts: dict[Host, int | None] = {}  # which run each was at, at the last look

    def open(self) -> None:
        """Start what is kept warm."""
        for _ in range(_KEPT_WARM):
            self._grow()

    def take(self, run: PythonRun) -> None:
        """Give it to a process, at once or when one is free."""
        host = self._host_for(run.command)
        if host is not None:
            self._give(host, run)
            return
        self._waiting.append(run)
        if not self._busy and not self._starting:
            self._grow()
        self._look_later()

    def ended(self, host: Host, run: PythonRun, outcome: Outcome, seconds: float | None) -> None:
        self._free(host, run.command)
        self._learn(run.command, seconds)
        run.end(outcome)

    def withdrawn(self, host: Host, run: PythonRun) -> None:
        self._free(host, run.command)
        self._take_again(run, self.take)

    def is_async(self, host: Host, run: PythonRun) -> None:
        self._free(host, run.command)
        self._take_again(run, self._move)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        for host in self._idle:
            host.rest_no_more()
            await host.kill()
        self._idle.clear()

    def _take_again(self, run: PythonRun, take: Callable[[PythonRun], None]) -> None:
        """Unless it was asked to end meanwhile: it has not begun."""
        if run.stop.is_requested:
            run.heed_stop()
        else:
            take(run)

    def _free(self, host: Host, command: str) -> None:
        """A run in it ended; it is free again, has others, or is dead."""
        host.load -= 1
        host.seconds = max(host.seconds - self._seconds_of(command), 0) if host.load else 0
        if not host.is_alive:
            self._busy.discard(host)
            if self._waiting:
                self._grow()
        elif host.load == 0:
            host.takes_company = True
            self._offer(host)
        else:
            self._serve_waiting()

    def _learn(self, command: str, seconds: float | None) -> None:
        """What a run of this command took; one slow run is forgotten after some quick ones.

        Nor does it say much by itself: it may just have had to wait for a processor.
        """
        took = _SLOW_SECONDS if seconds is None else seconds
        before = self._slowest.get(command, took)
        self._slowest[command] = max(min(took, before * 2), before * 0.8)

    def _is_quick(self, command: str) -> bool:
        return self._seconds_of(command) < _SLOW_SECONDS

    def _seconds_of(self, command: str) -> float:
        return self._slowest.get(command, _SLOW_SECONDS)

    def _host_for(self, command: str) -> Host | None:
        """A free process, or one that has only quick functions before it."""
        while self._idle:
            host = self._idle.pop()
            if host.is_alive:
                host.rest_no_more()
                return host
        if not self._is_quick(command):
            return None
        least: Host | None = None
        for host in self._busy:
            load = _DEPTH if least is None else least.load
            if host.load < load and host.takes_company and host.is_alive:
                least = host
        return least

    def _give(self, host: Host, run: PythonRun) -> None:
        host.load += 1
        host.seconds += self._seconds_of(run.command)
        host.takes_company = host.takes_company and self._is_quick(run.command)
        self._busy.add(host)
        host.begin(run)

    def _offer(self, host: Host) -> None:
        self._busy.discard(host)
        self._idle.append(host)
        self._serve_waiting()
        if host in self._idle:
            host.rest(_IDLE_SECONDS, lambda: self._retire(host))

    def _serve_waiting(self) -> None:
        while self._waiting:
            run = self._waiting[0]
            if not run.is_over:
                host = self._host_for(run.command)
                if host is None:
                    return
                self._give(host, run)
            self._waiting.popleft()

    def _retire(self, host: Host) -> None:
        if host in self._idle and len(self._idle) > _KEPT_WARM:
            self._idle.remove(host)
            host.hang_up()

    def _look_later(self) -> None:
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Relieve processes whose function takes long, and start others for those that wait.

        It takes long where it is still under way at the second look. No clock tells: where the
        loop itself is late, what has long ended has not yet been heard of.
        """
        self._looking = None
        before, self._fronts = self._fronts, {host: host.front for host in self._busy}
        slow = [
            host
            for host, front in self._fronts.items()
            if front is not None and front == before.get(host)
        ]
        for host in slow:
            host.takes_company = False
            host.withdraw()
        quick = [host for host in self._busy if host not in slow]
        seconds = sum(host.seconds for host in quick)
        seconds += sum(self._seconds_of(run.command) for run in self._waiting)
        wanted = min(math.ceil(seconds / _BACKLOG_SECONDS), self._quick_enough)
        for _ in range(wanted - len(quick) - len(self._idle) - len(self._starting)):
            self._grow()
        if self._waiting or any(host.load > 1 for host in self._busy):
            self._look_later()

    def _grow(self) -> None:
        if len(self._busy) + len(self._starting) < self._max:
            starting = asyncio.ensure_future(self._start(self))
            self._starting.add(starting)
            starting.add_done_callback(self._started)

    def _started(self, starting: "asyncio.Future[Host]") -> None:
        self._starting.discard(starting)
        error = starting.exception()
        if error is None:
            self._offer(starting.result())
        elif not self._busy and not self._starting:
            waiting, self._waiting = self._waiting, deque()
            for run in waiting:
                run.end(not_started(error))
