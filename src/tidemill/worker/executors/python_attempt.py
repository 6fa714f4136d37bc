"""One run in a warm process: what it is told, what it says and how it ended.

Messages in: `runs` [[id, execution's values], …], `cancel` {id}, `withdraw`.
Messages out: `ready`, `lines`, `progress`, `checkpoint`, `end` [id, outcome, seconds], `withdrawn`
[ids that were not begun], `async` id: it was not begun, since its function is async.

Nothing of asyncio is loaded here: it is half of what a process needs to start, and most functions
are sync.
"""

import importlib
import inspect
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

from tidemill.task_context import RunContext, TaskCancelled
from tidemill.worker.executors.capped_output import CappedOutput, Lines
from tidemill.worker.executors.frames import FrameReader, encode, receive
from tidemill.worker.executors.process_tree import (
    become_subreaper,
    children_of,
    descendants_of,
    signal_all,
)

FLUSH_SECONDS = 0.1

_CHANNEL = 3
_RESULT_BYTES = 256 * 1024  # of a result that goes in a message
_LEFT_BEHIND_SECONDS = 2.0  # what a function leaves running may take this long after SIGTERM
_COROUTINE_CANCELLED = "asyncio.exceptions.CancelledError"

_as_json = json.JSONEncoder(allow_nan=False).encode
running: "ContextVar[Attempt | None]" = ContextVar("tidemill_attempt", default=None)


def channel_to_the_worker() -> "Channel":
    """Prepare this process, which was started in a slot with PATHS, FIELDS and RESULTS, as JSON,
    and find its connection; the fields are those of an execution, in the order of its values, and
    RESULTS is how the names of files for large results begin, and how many bytes one may have."""
    paths, fields, results = map(json.loads, sys.argv[1:])
    sys.path[:0] = paths
    become_subreaper()
    channel = Channel(socket.socket(fileno=_CHANNEL), fields, *results)
    os.set_inheritable(_CHANNEL, False)
    return channel


class Channel:
    """The connection to the worker; several threads may send."""

    def __init__(
        self,
        connection: socket.socket,
        fields: Sequence[str],
        results: str,
        max_result_bytes: int,
    ) -> None:
        self.connection = connection
        self.fields = fields
        self.results = results
        self.max_result_bytes = max_result_bytes
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


class Attempt:
    """One attempt under way: its context and what it has said."""

    def __init__(self, request: tuple[int, Sequence[Any]], channel: Channel) -> None:
        self.id, values = request
        execution = dict(zip(channel.fields, values, strict=True))
        self.command: str = execution["command"]
        self.arguments: dict[str, Any] = execution["arguments"] or {}
        self.context = RunContext(execution, self)
        self._channel = channel
        self._output: CappedOutput | None = None  # most say nothing
        self._lock = threading.Lock()
        self._flushed_at = 0.0
        self.has_pending = False

    def say(self, stream: str, data: bytes) -> bool:
        """Take output; True where somebody has to come back and flush it."""
        with self._lock:
            if self._output is None:
                self._output = CappedOutput()
            self._output.feed(stream, data, time.time())
            if not self._output.has_ready:
                return False
            if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
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

    def keep(self, text: str) -> dict[str, Any]:
        """The outcome with a result that is too large for a message: its file is the worker's."""
        if len(text) > self._channel.max_result_bytes:
            said = f"a result has at most {self._channel.max_result_bytes} bytes"
            return {"reason": "result_too_large", "error_message": said}
        try:
            with open(f"{self._channel.results}{self.id}", "x", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            said = f"the result cannot be written to a file: {error.strerror}"
            return {"reason": "result_refused", "error_message": said}
        return {"is_in_file": True}

    def end(self, outcome: dict[str, Any], seconds: float = 0.0) -> None:
        """Tell how it ended; `seconds` is how long a sync function kept its thread."""
        with self._lock:
            self._channel.send(*self._last_messages(outcome, seconds))

    def last_messages(self, outcome: dict[str, Any]) -> list[dict[str, Any]]:
        """What `end` would tell, for whoever sends it with that of others."""
        with self._lock:
            return self._last_messages(outcome, 0.0)

    def _last_messages(self, outcome: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        said = [] if self._output is None else self._output.finish()
        return [*self._messages_of(said), {"end": [self.id, outcome, seconds]}]


class _Function(NamedTuple):
    """What a command names."""

    call: Callable[..., Any]
    is_async: bool
    told: tuple[str, ...]  # the parameters that ask for the context by their annotation

    def call_for(self, attempt: Attempt) -> Any:
        """Call it with the task's arguments and, where it asks for it, the context."""
        return self.call(**attempt.arguments | dict.fromkeys(self.told, attempt.context))


@cache
def resolve(command: str) -> _Function:
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


def success(result: Any, attempt: Attempt) -> dict[str, Any]:
    """The outcome of a function that gave this."""
    try:
        text = _as_json(result)
    except (TypeError, ValueError) as error:
        return {"reason": "invalid_result", "error_message": f"the result is not JSON: {error}"}
    return {"result": text} if len(text) <= _RESULT_BYTES else attempt.keep(text)


def failure(error: BaseException, attempt: Attempt) -> dict[str, Any]:
    """The outcome of a function that raised this; its trace is output."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code == 0:
            return {"result": "null"}
        return {"reason": "exit_code", "error_message": f"exit code {code}", "exit_code": code}
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not isinstance(error, TaskCancelled) and name != _COROUTINE_CANCELLED:
        trace = traceback.format_exception(error)
        attempt.say("stderr", "".join(trace).encode("utf-8", "replace"))
    return {
        "reason": "exception",
        "error_message": f"{kind.__name__}: {error}"[:4_000],
        "exception_type": name,
    }


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


def listen_to(say: Callable[[str, bytes], None]) -> None:
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
