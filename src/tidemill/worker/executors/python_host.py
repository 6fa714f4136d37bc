"""A warm process that runs Python tasks: `sync` ones one at a time, or many `async` ones at once.

Started in a slot as `python -m tidemill.worker.executors.python_host MODE PATHS`, with its
connection to the worker under descriptor CHANNEL.

Messages in: `run` [id, execution], `cancel` {id}, `withdraw`. Where a sync function runs, SIGUSR1,
which the slot sends, says that there is one to be heard.
Messages out: `ready`, `lines`, `progress`, `checkpoint`, `end` [id, outcome, is_async, seconds],
`withdrawn` [ids that were not begun].
"""

import asyncio
import contextlib
import importlib
import inspect
import io
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

from tidemill.task_context import RunContext, TaskCancelled, _current
from tidemill.worker.executors.capped_output import CappedOutput, Lines
from tidemill.worker.executors.frames import FrameReader, encode, receive
from tidemill.worker.executors.process_tree import (
    become_subreaper,
    children_of,
    descendants_of,
    signal_all,
)

CHANNEL = 3

_FLUSH_SECONDS = 0.1
_PIPE_BYTES = 65_536
_RESULT_BYTES = 256 * 1024
_LEFT_BEHIND_SECONDS = 2.0  # what a function leaves running may take this long after SIGTERM

_as_json = json.JSONEncoder(allow_nan=False).encode
_running: "ContextVar[_Attempt | None]" = ContextVar("tidemill_attempt", default=None)


def main() -> None:
    """Serve until the worker hangs up."""
    mode, paths = sys.argv[1], json.loads(sys.argv[2])
    sys.path[:0] = paths
    become_subreaper()
    channel = _Channel(socket.socket(fileno=CHANNEL))
    os.set_inheritable(CHANNEL, False)
    if mode == "sync":
        _SyncHost(channel).serve()
    else:
        asyncio.run(_AsyncHost(channel).serve())


class _Channel:
    """The connection to the worker; several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader()
        self._lock = threading.Lock()

    def send(self, *messages: dict[str, Any]) -> None:
        data = b"".join(map(encode, messages))
        with self._lock:
            self.connection.sendall(data)

    def receive(self) -> list[dict[str, Any]] | None:
        """The next messages; None once the worker is gone."""
        return receive(self.connection, self._reader)

    def receive_now(self) -> list[dict[str, Any]] | None:
        """Those that are here already."""
        try:
            return receive(self.connection, self._reader, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []


class _Attempt:
    """One attempt under way: its context and what it has said."""

    def __init__(self, request: tuple[int, dict[str, Any]], channel: _Channel) -> None:
        self.id, execution = request
        self.command: str = execution["command"]
        self.arguments: dict[str, Any] = execution["arguments"] or {}
        self.context = RunContext(execution, self)
        self._channel = channel
        self._output: CappedOutput | None = None  # most say nothing
        self._lock = threading.Lock()
        self._flushed_at = 0.0
        self._began = 0.0
        self.has_pending = False

    def begin(self) -> None:
        """From now on it runs."""
        self._began = time.monotonic()

    def say(self, stream: str, data: bytes) -> bool:
        """Take output; True where somebody has to come back and flush it."""
        with self._lock:
            if self._output is None:
                self._output = CappedOutput()
            self._output.feed(stream, data, time.time())
            if not self._output.has_ready:
                return False
            if time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
                self._flush()
                return False
            was_pending, self.has_pending = self.has_pending, True
            return not was_pending

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        self._flushed_at, self.has_pending = time.monotonic(), False
        if self._output is not None:
            self._channel.send(*self._messages_of(self._output.take()))

    def _messages_of(self, lines: list[Lines]) -> list[dict[str, Any]]:
        return [{"lines": [self.id, *each]} for each in lines]

    def progress(self, fraction: float | None, message: str) -> None:
        self._channel.send({"progress": [self.id, fraction, message]})

    def checkpoint(self, data: Any) -> None:
        self._channel.send({"checkpoint": [self.id, data]})

    def end(self, outcome: dict[str, Any], *, is_async: bool) -> None:
        seconds = time.monotonic() - self._began
        ended = {"end": [self.id, outcome, is_async, seconds]}
        with self._lock:
            said = [] if self._output is None else self._output.finish()
            self._channel.send(*self._messages_of(said), ended)


class _SyncHost:
    """Functions run in the main thread, where a signal can interrupt them.

    The same thread hears the worker between two functions. A second one looks after what is
    written past Python and after output that waits, while a function runs.
    """

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._attempts: deque[_Attempt] = deque()  # that are to come
        self._attempt: _Attempt | None = None
        self._may_interrupt = False
        self._was_signalled = False
        self._environment: set[str] = set()
        self._pipes = {_capture(1): "stdout", _capture(2): "stderr"}
        self._written = select.poll()
        for descriptor in self._pipes:
            self._written.register(descriptor, select.POLLIN)
        self._draining = threading.Lock()
        self._woken, self._wake = os.pipe()

    def serve(self) -> None:
        signal.signal(signal.SIGUSR1, self._interrupt)
        _listen_to(self._say)
        threading.Thread(target=self._look_after_output, daemon=True).start()
        self._channel.send({"ready": True})
        while True:
            while not self._attempts:
                self._heed(self._channel.receive())
            self._run(self._attempts.popleft())

    def _heed(self, messages: list[dict[str, Any]] | None) -> None:
        if messages is None:
            os._exit(0)
        for message in messages:
            if "run" in message:
                self._attempts.append(_Attempt(message["run"], self._channel))
            elif "cancel" in message:
                self._cancel(message["cancel"]["id"])
            elif "withdraw" in message:
                self._channel.send({"withdrawn": [attempt.id for attempt in self._attempts]})
                self._attempts.clear()

    def _cancel(self, attempt_id: int) -> None:
        known = [*self._attempts, *([self._attempt] if self._attempt else [])]
        for attempt in known:
            if attempt.id == attempt_id:
                attempt.context.is_cancelled = True

    def _run(self, attempt: _Attempt) -> None:
        with self._draining:
            self._attempt = attempt
        attempt.begin()
        is_async = False
        running, current = _running.set(attempt), _current.set(attempt.context)
        self._show_environment(attempt.context.environment)
        try:
            try:
                self._may_interrupt = True
                if self._was_signalled:
                    self._interrupt()
                attempt.context.raise_if_cancelled()  # while nothing could be interrupted yet
                function = _resolve(attempt.command)
                is_async = function.is_async
                value = function.call_for(attempt)
                result = asyncio.run(value) if is_async else value
            finally:
                self._may_interrupt = False
            outcome = _success(result)
        except BaseException as error:
            outcome = _failure(error, attempt)
        end_what_is_left_behind()
        with self._draining:
            for descriptor, _ in self._written.poll(0):
                self._drain(descriptor)
            self._attempt = None
        _running.reset(running)
        _current.reset(current)
        attempt.end(outcome, is_async=is_async)

    def _show_environment(self, environment: dict[str, str]) -> None:
        for name in self._environment - environment.keys():
            os.environ.pop(name, None)
        for name, value in environment.items():
            if os.environ.get(name) != value:  # it costs a tenth of setting it
                os.environ[name] = value
        self._environment = set(environment)

    def _interrupt(self, *_: Any) -> None:
        """End the function that runs, if it was cancelled; a signal that came early is kept."""
        if not self._may_interrupt:
            self._was_signalled = True
            return
        self._was_signalled = False
        self._heed(self._channel.receive_now())
        if self._attempt is not None and self._attempt.context.is_cancelled:
            self._may_interrupt = False
            raise TaskCancelled

    def _say(self, stream: str, data: bytes) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.say(stream, data):
            os.write(self._wake, b"!")

    def _look_after_output(self) -> None:
        watched = [self._woken, *self._pipes]
        while True:
            attempt = self._attempt
            is_pending = attempt is not None and attempt.has_pending
            ready, _, _ = select.select(watched, [], [], _FLUSH_SECONDS if is_pending else None)
            if is_pending and attempt is not None:
                attempt.flush()
            for descriptor in ready:
                if descriptor == self._woken:
                    os.read(self._woken, _PIPE_BYTES)
                else:
                    with self._draining:
                        self._drain(descriptor)

    def _drain(self, descriptor: int) -> None:
        """Read what was written. Whoever does so holds the lock under which attempts change, so
        that nothing goes to the one before, or gets lost between two."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(descriptor, _PIPE_BYTES):
                if self._attempt is not None:
                    self._attempt.say(self._pipes[descriptor], data)


class _AsyncHost:
    """Coroutines share one loop; each has its context by way of context variables."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._tasks: dict[int, asyncio.Task[dict[str, Any]]] = {}
        self._attempts: dict[int, _Attempt] = {}
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        _listen_to(self._say)
        self._loop.add_reader(self._channel.connection.fileno(), self._heed)
        self._channel.send({"ready": True})
        await self._closed.wait()
        os._exit(0)

    def _heed(self) -> None:
        messages = self._channel.receive()
        if messages is None:
            self._closed.set()
            return
        for message in messages:
            if "run" in message:
                attempt = _Attempt(message["run"], self._channel)
                self._attempts[attempt.id] = attempt
                task = asyncio.create_task(self._run(attempt))
                task.add_done_callback(partial(self._end, attempt))
                self._tasks[attempt.id] = task
            elif "cancel" in message:
                self._cancel(message["cancel"]["id"])

    def _cancel(self, attempt_id: int) -> None:
        if attempt_id in self._tasks:
            self._attempts[attempt_id].context.is_cancelled = True
            self._tasks[attempt_id].cancel()

    async def _run(self, attempt: _Attempt) -> dict[str, Any]:
        _running.set(attempt)
        _current.set(attempt.context)
        attempt.begin()
        try:
            return _success(await _resolve(attempt.command).call_for(attempt))
        except BaseException as error:
            return _failure(error, attempt)

    def _end(self, attempt: _Attempt, task: "asyncio.Task[dict[str, Any]]") -> None:
        """Tell how it ended; one that was cancelled before its first step never ran."""
        is_unbegun = task.cancelled()
        outcome = _failure(asyncio.CancelledError(), attempt) if is_unbegun else task.result()
        del self._tasks[attempt.id], self._attempts[attempt.id]
        if not self._tasks:
            end_what_is_left_behind()
        attempt.end(outcome, is_async=True)

    def _say(self, stream: str, data: bytes) -> None:
        attempt = _running.get()
        if attempt is not None and attempt.say(stream, data):
            assert self._loop is not None
            # Perhaps from a thread of the task.
            self._loop.call_soon_threadsafe(self._loop.call_later, _FLUSH_SECONDS, attempt.flush)


class _Said(io.RawIOBase):
    """The far end of sys.stdout and sys.stderr: what is printed belongs to the attempt."""

    def __init__(self, stream: str, say: Callable[[str, bytes], None]) -> None:
        self._stream = stream
        self._say = say

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._say(self._stream, bytes(data))
        return len(data)

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2


def _listen_to(say: Callable[[str, bytes], None]) -> None:
    """Lead what Python code prints and logs to `say`."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[_LogLines(say)],
        force=True,
    )
    for stream in ("stdout", "stderr"):
        said = _Said(stream, say)
        wrapper = io.TextIOWrapper(said, "utf-8", "replace", write_through=True)  # type: ignore[type-var]
        setattr(sys, stream, wrapper)


class _LogLines(logging.Handler):
    """Log records of the task and of the libraries it uses."""

    def __init__(self, say: Callable[[str, bytes], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say("log", f"{self.format(record)}\n".encode("utf-8", "replace"))


def _capture(descriptor: int) -> int:
    """Lead a standard descriptor into a pipe and return the end to read from."""
    read, write = os.pipe()
    os.dup2(write, descriptor)
    os.close(write)
    os.set_blocking(read, False)
    return read


class _Function(NamedTuple):
    """What a command names."""

    call: Callable[..., Any]
    is_async: bool
    told: tuple[str, ...]  # the parameters that ask for the context by their annotation

    def call_for(self, attempt: _Attempt) -> Any:
        """Call it with the task's arguments and, where it asks for it, the context."""
        return self.call(**attempt.arguments | dict.fromkeys(self.told, attempt.context))


@cache
def _resolve(command: str) -> _Function:
    """Looked up once; what fails is tried again each time."""
    module_name, _, path = command.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{command} is not callable")
    told = tuple(
        name
        for name, annotation in getattr(found, "__annotations__", {}).items()
        if name != "return" and _names_the_context(annotation)
    )
    return _Function(found, inspect.iscoroutinefunction(found), told)


def _names_the_context(annotation: Any) -> bool:
    return annotation is RunContext or str(annotation).rpartition(".")[2] == "RunContext"


def _success(result: Any) -> dict[str, Any]:
    try:
        text = _as_json(result)
    except (TypeError, ValueError) as error:
        return {"reason": "invalid_result", "error_message": f"the result is not JSON: {error}"}
    if len(text) > _RESULT_BYTES:
        said = f"a result has at most {_RESULT_BYTES} bytes"
        return {"reason": "result_too_large", "error_message": said}
    return {"result": text}


def _failure(error: BaseException, attempt: _Attempt) -> dict[str, Any]:
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code == 0:
            return {"result": "null"}
        return {"reason": "exit_code", "error_message": f"exit code {code}", "exit_code": code}
    if not isinstance(error, (TaskCancelled, asyncio.CancelledError)):
        trace = traceback.format_exception(error)
        attempt.say("stderr", "".join(trace).encode("utf-8", "replace"))
    kind = type(error)
    return {
        "reason": "exception",
        "error_message": f"{kind.__name__}: {error}"[:4_000],
        "exception_type": f"{kind.__module__}.{kind.__qualname__}",
    }


def end_what_is_left_behind() -> None:
    """End every process that a function started and did not wait for."""
    deadline = 0.0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        now = time.monotonic()
        if not deadline:
            deadline = now + _LEFT_BEHIND_SECONDS
            signal_all(descendants_of(os.getpid()), signal.SIGTERM)
        elif now >= deadline:
            signal_all(children_of(os.getpid()), signal.SIGKILL)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
