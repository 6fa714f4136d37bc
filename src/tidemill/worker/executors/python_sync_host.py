"""A warm process that runs sync Python functions, one at a time; async ones it gives back.

Started in a slot as `python -m tidemill.worker.executors.python_sync_host PATHS FIELDS RESULTS`.
Where a function runs, SIGUSR1, which the slot sends, says that there is a message to be heard.
"""

import contextlib
import os
import resource
import select
import signal
import threading
import time
from collections import deque
from typing import Any

from tidemill.task_context import TaskCancelled, _current
from tidemill.worker.executors.python_attempt import (
    FLUSH_SECONDS,
    Attempt,
    Channel,
    channel_to_the_worker,
    end_what_is_left_behind,
    failure,
    listen_to,
    resolve,
    running,
    success,
)

_PIPE_BYTES = 65_536


def main() -> None:
    """Serve until the worker hangs up."""
    _SyncHost(channel_to_the_worker()).serve()


class _SyncHost:
    """Functions run in the main thread, where a signal can interrupt them.

    The same thread hears the worker between two functions. A second one looks after what is
    written past Python and after output that waits, while a function runs.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._attempts: deque[Attempt] = deque()  # that are to come
        self._attempt: Attempt | None = None
        self._may_interrupt = False
        self._was_signalled = False
        self._shown: dict[bytes, bytes] = {}
        self._pipes = {_capture(1): "stdout", _capture(2): "stderr"}
        self._written = select.poll()
        for descriptor in self._pipes:
            self._written.register(descriptor, select.POLLIN)
        self._draining = threading.Lock()
        self._woken, self._wake = os.pipe()
        self._effort = _Effort()

    def serve(self) -> None:
        signal.signal(signal.SIGUSR1, self._interrupt)
        listen_to(self._say)
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
            if "runs" in message:
                self._attempts.extend(Attempt(run, self._channel) for run in message["runs"])
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

    def _run(self, attempt: Attempt) -> None:
        with self._draining:
            self._attempt = attempt
        self._effort.begin()
        before, current = running.set(attempt), _current.set(attempt.context)
        self._show_environment(attempt.context.environment)
        outcome = self._outcome_of(attempt)
        end_what_is_left_behind()
        with self._draining:
            for descriptor, _ in self._written.poll(0):
                self._drain(descriptor)
            self._attempt = None
        running.reset(before)
        _current.reset(current)
        if outcome is None:
            self._channel.send({"async": attempt.id})
        else:
            attempt.end(outcome, self._effort.seconds())

    def _outcome_of(self, attempt: Attempt) -> dict[str, Any] | None:
        """What the function came to; None where it is async and was not called."""
        try:
            try:
                self._may_interrupt = True
                if self._was_signalled:
                    self._interrupt()
                attempt.context.raise_if_cancelled()  # while nothing could be interrupted yet
                function = resolve(attempt.command)
                if function.is_async:
                    return None
                result = function.call_for(attempt)
            finally:
                self._may_interrupt = False
            return success(result, attempt)
        except BaseException as error:
            return failure(error, attempt)

    def _show_environment(self, environment: dict[str, str]) -> None:
        """As bytes: to convert them again for each look and each change would cost twice that."""
        shown = {name.encode(): value.encode() for name, value in environment.items()}
        for name in self._shown.keys() - shown.keys():
            os.environb.pop(name, None)
        for name, value in shown.items():
            if os.environb.get(name) != value:  # it costs a tenth of setting it
                os.environb[name] = value
        self._shown = shown

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
            ready, _, _ = select.select(watched, [], [], FLUSH_SECONDS if is_pending else None)
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


class _Effort:
    """How long functions keep this thread, without the time in which others had its processor.

    That time says nothing of a function, and where processors are short another process for what
    waits would make it longer still.
    """

    def __init__(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_THREAD)
        self._began = 0.0

    def begin(self) -> None:
        """From now on a function has it."""
        self._began = time.monotonic()

    def seconds(self) -> float:
        """How long the function that ends now had it."""
        took = time.monotonic() - self._began
        before, self._before = self._before, resource.getrusage(resource.RUSAGE_THREAD)
        if self._before.ru_nvcsw != before.ru_nvcsw:
            return took  # it waited for something
        worked = self._before.ru_utime + self._before.ru_stime - before.ru_utime - before.ru_stime
        return min(took, worked)


def _capture(descriptor: int) -> int:
    """Lead a standard descriptor into a pipe and return the end to read from."""
    read, write = os.pipe()
    os.dup2(write, descriptor)
    os.close(write)
    os.set_blocking(read, False)
    return read


if __name__ == "__main__":
    main()
