"""What the scripts of loads share. They are told on stdin, by a line of JSON, what to do.

A load is measured from the first call that asks for a run to the instant at which the last run is
seen to have its last record. `PEER_FILE` names the file to which tasks write when they start.
"""

import asyncio
import functools
import inspect
import itertools
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_LOOKS_EACH_SECONDS = 0.02
_FILE = Path(os.environ["PEER_FILE"])

Kind = Callable[..., Any]


def note(what: object) -> None:
    """The work of a task whose start is looked for: append what it is, and when by both clocks."""
    descriptor = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what} {time.monotonic():.6f} {time.time():.6f}\n".encode())
    os.close(descriptor)


def obey(kinds: dict[str, Kind], begin: Callable[[], Any] = lambda: None) -> None:
    """Do one after the other what is asked for; coroutines on one loop, `begin` before all."""
    with asyncio.Runner() as runner:
        if inspect.iscoroutine(begun := begin()):
            runner.run(begun)
        print("ready", flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            found = kinds[order.pop("kind")](**order)
            answer = runner.run(found) if inspect.iscoroutine(found) else found
            print(f"done {json.dumps(answer)}", flush=True)


class Load(ABC):
    """Runs of a no-op, asked for by calls that block."""

    asked = 0  # runs of the no-op, ever

    @abstractmethod
    def enqueue(self) -> None:
        """Ask for one run of the no-op; returns when it is where it will be found."""

    @abstractmethod
    def enqueue_note(self, number: int) -> None:
        """The same, of a task that notes this number."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether all that was asked for has its last record."""

    def enqueue_many(self, runs: int) -> None:
        """Ask for so many, as fast as one caller can."""
        for _ in range(runs):
            self.enqueue()

    def kinds(self) -> dict[str, Kind]:
        return {"bulk": self.bulk, "callers": self.callers, "pick_up": self.pick_up}

    def bulk(self, runs: int) -> dict[str, float]:
        return self._measure(runs, lambda: self.enqueue_many(runs))

    def callers(self, runs: int, callers: int) -> dict[str, float]:
        numbers = itertools.count()

        def call() -> None:
            while next(numbers) < runs:
                self.enqueue()

        def ask() -> None:
            for done in [self._threads(callers).submit(call) for _ in range(callers)]:
                done.result()

        return self._measure(runs, ask)

    def pick_up(self, calls: int, every_seconds: float) -> dict[str, list[float]]:
        forget()
        called = []
        for number in range(calls):
            called.append(time.monotonic())
            self.enqueue_note(number)
            time.sleep(every_seconds)
        return {"seconds": took(called)}

    @functools.cache  # noqa: B019  the load lives as long as its process
    def _threads(self, callers: int) -> ThreadPoolExecutor:
        """The same for each load: what a library keeps for each thread is there after a warm-up."""
        return ThreadPoolExecutor(callers)

    def _measure(self, runs: int, ask: Callable[[], None]) -> dict[str, float]:
        self.asked += runs
        begun = time.monotonic()
        ask()
        asked = time.monotonic()
        while not self.is_over():
            time.sleep(_LOOKS_EACH_SECONDS)
        return {"seconds": time.monotonic() - begun, "asked_seconds": asked - begun}


class AsyncLoad(ABC):
    """Runs of a no-op, asked for by calls that are awaited."""

    asked = 0  # runs of the no-op, ever

    @abstractmethod
    async def begin(self) -> None:
        """Connect."""

    @abstractmethod
    async def enqueue(self) -> None:
        """Ask for one run of the no-op; returns when it is where it will be found."""

    @abstractmethod
    async def enqueue_note(self, number: int) -> None:
        """The same, of a task that notes this number."""

    @abstractmethod
    async def is_over(self) -> bool:
        """Whether all that was asked for has its last record."""

    @abstractmethod
    async def enqueue_many(self, runs: int) -> None:
        """Ask for so many, as fast as there is a way to."""

    def kinds(self) -> dict[str, Kind]:
        return {"bulk": self.bulk, "callers": self.callers, "pick_up": self.pick_up}

    async def bulk(self, runs: int) -> dict[str, float]:
        return await self._measure(runs, lambda: self.enqueue_many(runs))

    async def callers(self, runs: int, callers: int) -> dict[str, float]:
        return await self._measure(runs, lambda: self.enqueue_by(callers, runs))

    async def enqueue_by(self, callers: int, runs: int) -> None:
        """Ask for so many one by one; each caller awaits its call before it makes the next."""
        numbers = itertools.count()

        async def call() -> None:
            while next(numbers) < runs:
                await self.enqueue()

        await asyncio.gather(*(call() for _ in range(callers)))

    async def pick_up(self, calls: int, every_seconds: float) -> dict[str, list[float]]:
        forget()
        called = []
        for number in range(calls):
            called.append(time.monotonic())
            await self.enqueue_note(number)
            await asyncio.sleep(every_seconds)
        return {"seconds": took(called)}

    async def _measure(self, runs: int, ask: Callable[[], Awaitable[None]]) -> dict[str, float]:
        self.asked += runs
        begun = time.monotonic()
        await ask()
        asked = time.monotonic()
        while not await self.is_over():  # noqa: ASYNC110  there is nobody who would tell
            await asyncio.sleep(_LOOKS_EACH_SECONDS)
        return {"seconds": time.monotonic() - begun, "asked_seconds": asked - begun}


def forget() -> None:
    """Nothing was noted so far."""
    _FILE.unlink(missing_ok=True)


def took(called: list[float]) -> list[float]:
    """From each call to the note of its task, once all are there."""
    while len(_lines()) < len(called):
        time.sleep(_LOOKS_EACH_SECONDS)
    return [float(at) - called[int(number)] for number, at, _ in _lines()]


def late(due: float, tasks: int, patience_seconds: float) -> dict[str, list[float]]:
    """How long after `due` each of so many tasks noted its start, as far as one can wait."""
    until = due + patience_seconds
    while len(_lines()) < tasks and time.time() < until:
        time.sleep(_LOOKS_EACH_SECONDS * 10)
    return {"late": [float(at) - due for _, _, at in _lines()]}


def _lines() -> list[list[str]]:
    return [line.split() for line in _FILE.read_text().splitlines()] if _FILE.exists() else []
