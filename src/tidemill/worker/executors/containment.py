"""Runs task trees in slot processes, so that nothing of a tree outlives its attempt or its worker.

    worker ── warden ── slot ── the task's own process ── …
       └────────────────┘ each slot talks to the worker directly

See docs/adr/0005.
"""

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from tidemill.errors import Unavailable
from tidemill.foundation.executor import StopRequest
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.frames import FrameReader, encode
from tidemill.worker.executors.process_tree import (
    descendants_of,
    processes_with,
    signal_all,
)

COOKIE = "TIDEMILL_CONTAINMENT"  # in the environment of every process of every tree

_log = logging.getLogger("tidemill.worker")

_FULL_SECONDS = 0.005  # between tries while the warden has many requests before it
_LEFTOVER_ROUNDS = 1_000  # looks at leftovers before those that cannot die are left alone
_IDLE_SLOTS = 8  # kept warm for the next task


class TreeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to start. `grace` bounds how long what the main process leaves behind may take."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    stdin: str | None = None
    grace: timedelta = timedelta(seconds=5)


class TreeEnd(msgspec.Struct, frozen=True):
    """How a tree ended; nothing of it lives any more."""

    exit_code: int | None  # None: its slot was killed, by the kernel or by the task
    result: str | None = None
    last_line: str = ""
    result_file: str | None = None  # in place of `result`, where that is too long for a message
    not_started: str | None = None  # why nothing was started


class Containment:
    """The slots of one worker. `owner` tells its processes from those of other workers."""

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = directory
        self._owner = owner
        self._warden: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._numbers = 0
        self._slots: dict[int, Slot] = {}
        self._idle: list[Slot] = []
        self._not_gone: dict[int, Slot] = {}

    async def start(self) -> None:
        """Kill what an earlier worker of this owner left behind and start afresh."""
        kill_leftovers(self._owner)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        self._start_warden()

    async def close(self) -> None:
        """End every tree; returns when all are gone."""
        if self._connection is not None:
            self._hang_up()
        warden, self._warden = self._warden, None
        if warden is not None:
            await asyncio.to_thread(warden.wait)
        kill_leftovers(self._owner)
        shutil.rmtree(self.directory, ignore_errors=True)

    async def run(
        self,
        request: TreeRequest,
        on_lines: Callable[[Lines], None],
        stop: StopRequest,
    ) -> TreeEnd | None:
        """Run one tree to its end; None where it was to end before it began."""
        slot = await self.slot()

        def end_tree() -> None:
            slot.stop(stop.grace)

        if stop.is_requested:
            self.give_back(slot)
            return None
        stop.on_request(end_tree)
        try:
            end = await slot.run(request, on_lines)
        finally:
            stop.forget(end_tree)  # the slot's next tree is none of its business
        self.give_back(slot)
        return end

    async def slot(self, channel: socket.socket | None = None) -> "Slot":
        """A slot; a new one where it gets a channel of its own."""
        if channel is None and self._idle:
            return self._idle.pop()
        if self._connection is None:
            try:
                self._start_warden()
            except OSError as error:
                raise Unavailable(_no_process(error.errno)) from error
        self._numbers += 1
        ours, theirs = socket.socketpair()
        slot = Slot(self, self._numbers)
        descriptors = [theirs.fileno(), *([channel.fileno()] if channel else [])]
        self._not_gone[slot.number] = slot
        try:
            await self._ask_for(slot.number, descriptors)
        except OSError as error:
            ours.close()
            raise Unavailable(_no_process(error.errno)) from error
        finally:
            theirs.close()
        self._slots[slot.number] = slot
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: slot, sock=ours)
        return slot

    async def _ask_for(self, number: int, descriptors: list[int]) -> None:
        while self._connection is not None:
            try:
                socket.send_fds(self._connection, [str(number).encode()], descriptors)
            except BlockingIOError:
                await asyncio.sleep(_FULL_SECONDS)
            else:
                return
        raise ConnectionResetError(errno.ECONNRESET, "the warden died")

    def give_back(self, slot: "Slot") -> None:
        """The slot is free again, or hung up where enough are."""
        if not slot.is_connected:
            return
        if len(self._idle) < _IDLE_SLOTS:
            self._idle.append(slot)
        else:
            slot.hang_up()

    def forget(self, slot: "Slot") -> None:
        """It is hung up, or its connection is closed."""
        self._slots.pop(slot.number, None)
        if slot in self._idle:
            self._idle.remove(slot)

    def _start_warden(self) -> None:
        if self._warden is not None:
            self._warden.wait()  # it died, and would stay a zombie
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._warden = subprocess.Popen(
                [sys.executable, "-m", "tidemill.worker.executors.warden",
                 str(theirs.fileno()), str(self.directory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=without_settings(os.environ) | {COOKIE: self._owner},
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._connection = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear_warden)

    def _hear_warden(self) -> None:
        assert self._connection is not None
        with contextlib.suppress(BlockingIOError):
            try:
                while data := self._connection.recv(64):
                    number, refusal = [*map(int, data.split()), 0][:2]
                    self._not_gone.pop(number).gone.set_result(refusal)
            except ConnectionError:
                data = b""
            if not data:
                _log.error("the process that contains tasks died; ending what it contained")
                self._hang_up()

    def _hang_up(self) -> None:
        """Every slot that loses its worker kills its tree and ends."""
        assert self._connection is not None
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        self._connection = None
        for slot in list(self._slots.values()):
            slot.hang_up()
        for slot in self._not_gone.values():
            slot.gone.set_result(0)
        self._not_gone.clear()


class Slot(asyncio.Protocol):
    """The worker's end of one slot process."""

    def __init__(self, containment: Containment, number: int) -> None:
        self.number = number
        self._containment = containment
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._on_lines: Callable[[Lines], None] | None = None
        self._end: asyncio.Future[TreeEnd] | None = None
        self._is_hung_up = False
        # Once it and everything below it is gone; an errno where it could not be made at all.
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_connected(self) -> bool:
        """Whether it takes messages."""
        return not self._is_hung_up and self._transport is not None

    def path_of(self, name: str) -> str:
        """Where what runs in it may keep something of this name, until its worker ends."""
        return str(self._containment.directory / f"{name}-{self.number}-")

    async def run(self, request: TreeRequest, on_lines: Callable[[Lines], None]) -> TreeEnd:
        """Run one tree to its end; one at a time."""
        self._on_lines = on_lines
        self._end = asyncio.get_running_loop().create_future()
        if self.is_connected:
            self._send(
                {
                    "run": {
                        "argv": request.argv,
                        "environment": request.environment | {COOKIE: self._containment._owner},
                        "directory": request.directory,
                        "stdin": request.stdin,
                        "grace": request.grace.total_seconds(),
                    }
                }
            )
        else:
            self._finish(TreeEnd(None))
        end = await self._end
        self._end = self._on_lines = None
        if (
            end.exit_code is None
            and end.not_started is None
            and (refusal := await asyncio.shield(self.gone))
        ):
            return TreeEnd(None, not_started=_no_process(refusal))
        return end

    def stop(self, grace: timedelta) -> None:
        """Ask the tree to end; it is killed when the grace is over."""
        if self.is_connected:
            self._send({"stop": {"grace": grace.total_seconds()}})

    def interrupt(self) -> None:
        """Send SIGUSR1 to the main process of the tree."""
        if self.is_connected:
            self._send({"interrupt": {}})

    def hang_up(self) -> None:
        """The slot kills its tree, if it has one, and ends."""
        if self.is_connected:
            self._is_hung_up = True
            self._containment.forget(self)
            cast(asyncio.Transport, self._transport).write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if "lines" in message:
                if self._on_lines is not None:
                    self._on_lines(Lines(*message["lines"]))
            elif "end" in message:
                self._finish(TreeEnd(**message["end"]))
            elif "failed" in message:
                self._finish(TreeEnd(None, not_started=message["failed"]["message"]))

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._containment.forget(self)
        self._finish(TreeEnd(None))

    def _finish(self, end: TreeEnd) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(end)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._transport is not None
        self._transport.write(encode(message))


def _no_process(error_number: int | None) -> str:
    return f"no process can be started: {os.strerror(error_number or errno.EIO)}"


def kill_leftovers(owner: str) -> None:
    """Kill every process that this owner's trees left behind, and what these started."""
    told: set[int] = set()
    for _ in range(_LEFTOVER_ROUNDS):
        marked = processes_with(COOKIE, owner)
        if not marked:
            return
        for pid in marked:
            if pid not in told:
                _log.warning("killing process %d, left behind by a worker that died", pid)
            signal_all([*descendants_of(pid), pid], signal.SIGKILL)
        told.update(marked)


def without_settings(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment without our own settings: they may hold secrets."""
    return {name: value for name, value in environment.items() if not name.startswith("TIDEMILL_")}
