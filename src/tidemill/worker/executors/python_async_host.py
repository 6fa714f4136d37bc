"""A warm process that runs async Python functions, many at once on one loop.

Started in a slot as `python -m tidemill.worker.executors.python_async_host PATHS FIELDS RESULTS`.
"""

import asyncio
import os
from functools import partial
from typing import Any

from tidemill.task_context import _current
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


def main() -> None:
    """Serve until the worker hangs up."""
    asyncio.run(_AsyncHost(channel_to_the_worker()).serve())


class _AsyncHost:
    """Coroutines share one loop; each has its context by way of context variables."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tasks: dict[int, asyncio.Task[dict[str, Any]]] = {}
        self._attempts: dict[int, Attempt] = {}
        self._ended: list[dict[str, Any]] = []
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        listen_to(self._say)
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
            if "runs" in message:
                for run in message["runs"]:
                    self._begin(Attempt(run, self._channel))
            elif "cancel" in message:
                self._cancel(message["cancel"]["id"])

    def _begin(self, attempt: Attempt) -> None:
        self._attempts[attempt.id] = attempt
        task = asyncio.create_task(self._run(attempt))
        task.add_done_callback(partial(self._end, attempt))
        self._tasks[attempt.id] = task

    def _cancel(self, attempt_id: int) -> None:
        if attempt_id in self._tasks:
            self._attempts[attempt_id].context.is_cancelled = True
            self._tasks[attempt_id].cancel()

    async def _run(self, attempt: Attempt) -> dict[str, Any]:
        running.set(attempt)
        _current.set(attempt.context)
        try:
            return success(await resolve(attempt.command).call_for(attempt), attempt)
        except BaseException as error:
            return failure(error, attempt)

    def _end(self, attempt: Attempt, task: "asyncio.Task[dict[str, Any]]") -> None:
        """Tell how it ended; one that was cancelled before its first step never ran."""
        is_unbegun = task.cancelled()
        outcome = failure(asyncio.CancelledError(), attempt) if is_unbegun else task.result()
        del self._tasks[attempt.id], self._attempts[attempt.id]
        if not self._tasks:
            end_what_is_left_behind()
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._tell_ends)
        self._ended += attempt.last_messages(outcome)

    def _tell_ends(self) -> None:
        """Of all that ended in one round of the loop: the worker wakes once for them."""
        ended, self._ended = self._ended, []
        self._channel.send(*ended)

    def _say(self, stream: str, data: bytes) -> None:
        attempt = running.get()
        if attempt is not None and attempt.say(stream, data):
            assert self._loop is not None
            # Perhaps from a thread of the task.
            self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, attempt.flush)


if __name__ == "__main__":
    main()
