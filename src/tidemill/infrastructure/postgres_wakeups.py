"""Wake-ups between processes, by LISTEN and NOTIFY.

What is announced wakes the listeners of this process at once and those of others by one
notification, however many commits announce something while one is under way. It is sent beside the
transactions, since those that notify commit one after another. Who only watches is told of a burst
a few times a second. One that gets lost costs the polling's time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import asyncpg

from tidemill.foundation.wakeups import Topic
from tidemill.infrastructure.memory_wakeups import MemoryWakeup, MemoryWakeups

_log = logging.getLogger("tidemill.wakeups")

_CHANNEL = "tidemill"
_ANSWER_SECONDS = 5.0
_SIGN_OF_LIFE_SECONDS = 5.0  # a link that is dead looks like one on which nobody says anything
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
# Nothing starts later for it, and each notification is a commit of its own that wakes all others.
_WATCHED = frozenset({Topic.EVENTS, Topic.OUTPUT})
_WATCHED_SECONDS = 0.05


class PostgresWakeups:
    """Carries wake-ups to everyone who listens on one database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._here = MemoryWakeups()
        self._sender = uuid4().hex  # to know one's own again
        self._unsent: set[Topic] = set()
        self._something_unsent = asyncio.Event()
        self._watchers_told_at = -_WATCHED_SECONDS  # by the event loop
        self._telling_watchers: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self, *topics: Topic) -> MemoryWakeup:
        return self._here.listen(*topics)

    def announce(self, topics: Iterable[Topic]) -> None:
        self._here.announce(topics)
        self._unsent.update(topics)
        if self._unsent <= _WATCHED:
            self._tell_watchers_soon()
        else:
            self._something_unsent.set()

    async def start(self) -> None:
        """Begin to hear of others, and to be heard."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="wakeups")

    async def stop(self) -> None:
        if self._telling_watchers is not None:
            self._telling_watchers.cancel()
            self._telling_watchers = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _tell_watchers_soon(self) -> None:
        if self._telling_watchers is None:
            self._telling_watchers = asyncio.get_running_loop().call_at(
                self._watchers_told_at + _WATCHED_SECONDS, self._tell_watchers
            )

    def _tell_watchers(self) -> None:
        self._telling_watchers = None
        if self._unsent:
            self._something_unsent.set()

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = await asyncpg.connect(
                    self._url, timeout=_ANSWER_SECONDS, command_timeout=_ANSWER_SECONDS
                )
                try:
                    await connection.add_listener(_CHANNEL, self._hear)
                    pause = _FIRST_PAUSE_SECONDS
                    self._here.announce(Topic)  # whatever was said meanwhile
                    await self._send_for_ever(connection)
                finally:
                    connection.terminate()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                _log.warning("wake-ups are cut off: %s; again in %.1f s", error, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _send_for_ever(self, connection: Any) -> None:
        connection.add_termination_listener(lambda _: self._something_unsent.set())
        while not connection.is_closed():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SIGN_OF_LIFE_SECONDS):
                    await self._something_unsent.wait()
            self._something_unsent.clear()
            topics, self._unsent = self._unsent, set()
            if topics:
                if topics & _WATCHED:
                    self._watchers_told_at = asyncio.get_running_loop().time()
                message = " ".join([self._sender, *sorted(topics)])
                await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, message)
            elif not connection.is_closed():
                await connection.execute("SELECT 1")
        raise ConnectionError("the database closed the connection")

    def _hear(self, _connection: Any, _pid: int, _channel: str, message: object) -> None:
        sender, *topics = str(message).split(" ")
        if sender != self._sender:
            # Another version may know others.
            self._here.announce([topic for topic in Topic if topic.value in topics])
