"""A process that runs one task tree at a time and proves when it is gone.

It adopts whatever its tree leaves behind, so that no `setsid` and no double fork gets away, and
it reports the end only when it has no child left. When the worker's end of the connection closes,
the tree is killed at once: a worker that dies takes its tasks with it.

Messages in: `run` {argv, environment, directory, stdin, grace}, `stop` {grace}, `interrupt`.
Messages out: `ready` when it begins, `failed` {message} where nothing could be started, `lines`,
`end` {exit_code, result, last_line, result_file}: a result that is too long for a message stays in
its file, which is the worker's then.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import selectors
import signal
import socket
import stat
import sys
import time
from typing import Any, NoReturn

from tidemill.worker.executors.capped_output import CappedOutput, Lines
from tidemill.worker.executors.frames import FrameReader, encode, receive
from tidemill.worker.executors.process_tree import (
    be_killed_first,
    become_subreaper,
    descendants_of,
    signal_all,
)

CHANNEL = 3  # the descriptor under which a long-lived child finds its connection to the worker

_STREAMS = ("stdout", "stderr")  # what the selector watches, beside:
_WORKER = "worker"
_MAIN_ENDED = "main ended"

_FLUSH_SECONDS = 0.1  # output that comes faster than this is sent together
_REAP_SECONDS = 1.0  # how often adopted children are looked after while the main one runs
_ENDING_SECONDS = 0.005  # how often, while the tree is coming to its end
_RESULT_BYTES = 256 * 1024  # of a result that goes in a message
_PIPE_BYTES = 1024 * 1024
_DRAINED_AT_MOST = 4 * 1024 * 1024
_FOR_EVER = float("inf")
# What a worker ignores (SIGQUIT and SIGINT, when a shell started it in its background) is its
# own affair: a command begins with every signal as the system gives it.
_ALL_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def serve_slot(connection: socket.socket, channel: int | None, results: str) -> NoReturn:
    """Run what the worker asks for until it hangs up; `results` begins the names of files."""
    become_subreaper()
    be_killed_first()
    reader = FrameReader()
    inherited = dict(os.environ)
    numbers = itertools.count(1)
    connection.sendall(encode({"ready": True}))
    while (messages := receive(connection, reader)) is not None:
        for message in messages:
            if "run" in message:
                # A new name each time: a tree may have put anything under an old one.
                result_file = f"{results}-{next(numbers)}.json"
                request = message["run"]
                request["environment"] = inherited | request["environment"]
                _Tree(connection, reader, channel, result_file).run(request)
    os._exit(0)


class _Tree:
    """One task tree, from its start to the proof of its end."""

    def __init__(
        self,
        connection: socket.socket,
        reader: FrameReader,
        channel: int | None,
        result_file: str,
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._channel = channel
        self._result_file = result_file
        self._selector = selectors.DefaultSelector()
        self._output = CappedOutput()
        self._main: int | None = None
        self._exit_code: int | None = None
        self._grace = 5.0
        self._kill_at = _FOR_EVER
        self._flush_at = _FOR_EVER
        self._flushed_at = 0.0
        self._is_orphaned = False  # the worker is gone

    def run(self, request: dict[str, Any]) -> None:
        self._grace = request["grace"]
        try:
            self._start(request)
        except (OSError, ValueError) as error:
            self._send({"failed": {"message": _said(error)}})
            return
        self._selector.register(self._connection, selectors.EVENT_READ, _WORKER)
        try:
            while not self._is_gone():
                self._wait()
        finally:
            self._drain()
            self._selector.close()
        if self._is_orphaned:
            os._exit(0)
        self._send_lines(self._output.finish())
        is_large = self._has_large_result()
        self._send(
            {
                "end": {
                    "exit_code": self._exit_code,
                    "result": None if is_large else self._take_result(),
                    "last_line": self._output.last_line("stdout"),
                    "result_file": self._result_file if is_large else None,
                }
            }
        )

    # starting

    def _start(self, request: dict[str, Any]) -> None:
        stdin = _stdin_of(request.get("stdin"))
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        try:
            self._main = self._spawn(request, stdin, out_write, err_write)
        except (OSError, ValueError):
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            for descriptor in (stdin, out_write, err_write):
                os.close(descriptor)
        for stream, descriptor in zip(_STREAMS, (out_read, err_read), strict=True):
            os.set_blocking(descriptor, False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._selector.register(descriptor, selectors.EVENT_READ, stream)
        pidfd = os.pidfd_open(self._main)
        self._selector.register(pidfd, selectors.EVENT_READ, _MAIN_ENDED)

    def _spawn(self, request: dict[str, Any], stdin: int, out: int, err: int) -> int:
        actions: list[tuple[int, int, int]] = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ]
        if self._channel is not None:
            actions.append((os.POSIX_SPAWN_DUP2, self._channel, CHANNEL))
        os.chdir(request.get("directory") or "/")
        try:
            return os.posix_spawnp(
                request["argv"][0],
                request["argv"],
                request["environment"] | {"TIDEMILL_RESULT_FILE": self._result_file},
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_ALL_SIGNALS,
            )
        finally:
            os.chdir("/")

    # while it runs

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.data == _WORKER:
                self._heed()
            elif key.data == _MAIN_ENDED:
                self._selector.unregister(key.fileobj)
                os.close(key.fd)
            else:
                self._read(key.fd, key.data)
        now = time.monotonic()
        if now >= self._flush_at:
            self._flush(now)
        if now >= self._kill_at:
            signal_all(descendants_of(os.getpid()), signal.SIGKILL)

    def _patience(self) -> float:
        is_ending = self._exit_code is not None or self._kill_at != _FOR_EVER
        nap = _ENDING_SECONDS if is_ending else _REAP_SECONDS
        until = self._flush_at - time.monotonic()
        return max(min(nap, until), 0)

    def _read(self, descriptor: int, stream: str) -> None:
        try:
            data = os.read(descriptor, _PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            return
        self._output.feed(stream, data, time.time())
        if self._output.has_ready and self._flush_at == _FOR_EVER:
            # The first line is sent at once; what follows quickly waits for company.
            self._flush_at = self._flushed_at + _FLUSH_SECONDS

    def _flush(self, now: float) -> None:
        self._flushed_at, self._flush_at = now, _FOR_EVER
        self._send_lines(self._output.take())

    def _heed(self) -> None:
        messages = receive(self._connection, self._reader)
        if messages is None:
            self._is_orphaned = True
            self._selector.unregister(self._connection)
            self._end(0)
            return
        for message in messages:
            if "stop" in message:
                self._end(message["stop"]["grace"])
            elif self._main is not None and self._exit_code is None:
                signal_all([self._main], signal.SIGUSR1)

    def _end(self, grace: float) -> None:
        """Ask the whole tree to end, and kill it when the grace is over."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        if grace > 0:
            tree = descendants_of(os.getpid())
            signal_all(tree, signal.SIGTERM)
            signal_all(tree, signal.SIGCONT)  # what is stopped must hear it too

    def _is_gone(self) -> bool:
        """Reap what ended; whether nothing is left, adopted orphans included."""
        main_ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                if main_ended:
                    self._end(self._grace)
                return False
            if pid == self._main:
                self._exit_code = os.waitstatus_to_exitcode(status)
                main_ended = True

    # the end

    def _drain(self) -> None:
        """Read what is still in the pipes; nobody of the tree can write any more."""
        left = _DRAINED_AT_MOST
        for key in list(self._selector.get_map().values()):
            if key.data in _STREAMS:
                with contextlib.suppress(BlockingIOError):
                    while left > 0 and (data := os.read(key.fd, _PIPE_BYTES)):
                        self._output.feed(key.data, data, time.time())
                        left -= len(data)
            if key.data != _WORKER:
                os.close(key.fd)

    def _has_large_result(self) -> bool:
        """Whether there is one that counts, and is too long for a message."""
        try:
            found = os.lstat(self._result_file)
        except OSError:
            return False
        return (
            self._exit_code == 0 and stat.S_ISREG(found.st_mode) and found.st_size > _RESULT_BYTES
        )

    def _take_result(self) -> str | None:
        if not os.path.isfile(self._result_file):
            return None
        try:
            with open(self._result_file, encoding="utf-8", errors="replace") as file:
                os.unlink(self._result_file)
                return file.read(_RESULT_BYTES + 1) or None
        except OSError:
            return None

    def _send_lines(self, lines: list[Lines]) -> None:
        for each in lines:
            self._send({"lines": list(each)})

    def _send(self, message: dict[str, Any]) -> None:
        if self._is_orphaned:
            return
        try:
            self._connection.sendall(encode(message))
        except OSError:
            self._is_orphaned = True
            self._end(0)


def _stdin_of(text: str | None) -> int:
    if text is None:
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.memfd_create("stdin")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _said(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return str(error)
    where = f": {error.filename}" if error.filename else ""
    return f"{os.strerror(error.errno or errno.EIO)}{where}"


if sys.platform != "linux":
    raise ImportError("task trees are contained by means that only Linux has")
