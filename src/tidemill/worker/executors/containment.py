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
from pathlib import Path

from tidemill.errors import Unavailable
from tidemill.foundation.executor import StopRequest
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.process_tree import (
    descendants_of,
    processes_with,
    signal_all,
)
from tidemill.worker.executors.slot import Slot, TreeEnd, TreeRequest, no_process
from tidemill.worker.executors.slot_pool import SlotPool

COOKIE = "TIDEMILL_CONTAINMENT"  # in the environment of every process of every tree

_log = logging.getLogger("tidemill.worker")

_FULL_SECONDS = 0.005  # between tries while the warden has many requests before it
_LEFTOVER_ROUNDS = 1_000  # looks at leftovers before those that cannot die are left alone


class Containment:
    """The slots of one worker. `owner` tells its processes from those of other workers."""

    def __init__(self, directory: Path, owner: str) -> None:
        self.directory = directory
        self._owner = owner
        self._warden: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._numbers = 0
        self._slots: dict[int, Slot] = {}
        self._pool = SlotPool(self.slot)
        self._not_gone: dict[int, Slot] = {}
        self._is_closed = False

    async def start(self) -> None:
        """Kill what an earlier worker of this owner left behind and start afresh."""
        kill_leftovers(self._owner)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        self._start_warden()

    async def close(self) -> None:
        """End every tree; returns when all are gone."""
        self._is_closed = True
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
        slot = await self._pool.take()

        def end_tree() -> None:
            slot.stop(stop.grace)

        if stop.is_requested:
            self._pool.give_back(slot)
            return None
        stop.on_request(end_tree)
        try:
            end = await slot.run(request, on_lines)
        finally:
            stop.forget(end_tree)  # the slot's next tree is none of its business
        self._pool.give_back(slot)
        return end

    async def slot(self, channel: socket.socket | None = None) -> Slot:
        """A new slot, whose trees get this channel; raises Unavailable where there is none."""
        if self._is_closed:
            raise Unavailable("the worker has ended")
        try:
            if self._connection is None:
                self._start_warden()
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise Unavailable(no_process(error.errno)) from error
        self._numbers += 1
        slot = Slot(self._numbers, self.directory, {COOKIE: self._owner}, self._forget)
        descriptors = [theirs.fileno(), *([channel.fileno()] if channel else [])]
        self._not_gone[slot.number] = slot
        try:
            await self._ask_for(slot.number, descriptors)
        except OSError as error:
            ours.close()
            raise Unavailable(no_process(error.errno)) from error
        finally:
            theirs.close()
        self._slots[slot.number] = slot
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: slot, sock=ours)
        await slot.begin()
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

    def _forget(self, slot: Slot) -> None:
        self._slots.pop(slot.number, None)
        self._pool.forget(slot)

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
