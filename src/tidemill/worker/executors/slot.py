"""The worker's end of one slot process: a tree is asked for, and its end comes back."""

import asyncio
import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from tidemill.errors import Unavailable
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.worker_frames import encode, frame_reader


class TreeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to start.

    `environment` is what the worker's own has in addition, or otherwise. `grace` bounds how long
    what the main process leaves behind may take.
    """

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


class Slot(asyncio.Protocol):
    """The worker's end of one slot process.

    Its files are in `directory`, `marks` go into the environment of all that it starts, and
    `forget` is called with it once it takes no more.
    """

    def __init__(
        self,
        number: int,
        directory: Path,
        marks: dict[str, str],
        forget: Callable[["Slot"], object],
    ) -> None:
        self.number = number
        self._directory = directory
        self._marks = marks
        self._forget = forget
        self._reader = frame_reader()
        self._transport: asyncio.Transport | None = None
        self._on_lines: Callable[[Lines], None] | None = None
        self._end: asyncio.Future[TreeEnd] | None = None
        self._is_hung_up = False
        # Once it takes messages, or is gone before it did.
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Once it and everything below it is gone; an errno where it could not be made at all.
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_connected(self) -> bool:
        """Whether it takes messages."""
        return not self._is_hung_up and self._transport is not None

    def path_of(self, name: str) -> str:
        """Where what runs in it may keep something of this name, until its worker ends."""
        return str(self._directory / f"{name}-{self.number}-")

    async def begin(self) -> None:
        """Return once its process is there; raises Unavailable where there will be none."""
        try:
            await self._begun
        except asyncio.CancelledError:
            self.hang_up()  # nobody else knows of it
            raise
        if not self.is_connected:
            raise Unavailable(no_process(await asyncio.shield(self.gone)))

    async def run(self, request: TreeRequest, on_lines: Callable[[Lines], None]) -> TreeEnd:
        """Run one tree to its end; one at a time."""
        try:
            asked = encode(self._what_to_run(request))
        except UnicodeEncodeError as error:
            return TreeEnd(None, not_started=str(error))
        self._on_lines = on_lines
        self._end = asyncio.get_running_loop().create_future()
        if self.is_connected:
            self._send(asked)
        else:
            self._finish(TreeEnd(None))
        end = await self._end
        self._end = self._on_lines = None
        return end

    def _what_to_run(self, request: TreeRequest) -> dict[str, Any]:
        return {
            "run": {
                "argv": request.argv,
                "environment": request.environment | self._marks,
                "directory": request.directory,
                "stdin": request.stdin,
                "grace": request.grace.total_seconds(),
            }
        }

    def stop(self, grace: timedelta) -> None:
        """Ask the tree to end; it is killed when the grace is over."""
        if self.is_connected:
            self._send(encode({"stop": {"grace": grace.total_seconds()}}))

    def interrupt(self) -> None:
        """Send SIGUSR1 to the main process of the tree."""
        if self.is_connected:
            self._send(encode({"interrupt": {}}))

    def hang_up(self) -> None:
        """The slot kills its tree, if it has one, and ends."""
        if self.is_connected:
            self._is_hung_up = True
            self._forget(self)
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
            elif "ready" in message:
                self._note_begun()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._forget(self)
        self._note_begun()
        self._finish(TreeEnd(None))

    def _note_begun(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)

    def _finish(self, end: TreeEnd) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(end)

    def _send(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)


def no_process(error_number: int | None) -> str:
    """What to say where the system refuses one."""
    return f"no process can be started: {os.strerror(error_number or errno.EIO)}"
