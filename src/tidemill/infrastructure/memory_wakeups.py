"""Wake-ups within one process."""

import asyncio
from collections.abc import Iterable

from tidemill.foundation.wakeups import Topic


class MemoryWakeup:
    """One listener's ear."""

    def __init__(
        self, listeners: "dict[Topic, set[MemoryWakeup]]", topics: Iterable[Topic]
    ) -> None:
        self._event = asyncio.Event()
        self._ears = [listeners[topic] for topic in topics]
        for ears in self._ears:
            ears.add(self)

    async def wait(self, timeout_seconds: float | None) -> bool:
        if not self._event.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._event.wait()
            except TimeoutError:
                return False
        self._event.clear()
        return True

    def wake(self) -> None:
        """What was announced is for this listener."""
        self._event.set()

    def close(self) -> None:
        for ears in self._ears:
            ears.discard(self)


class MemoryWakeups:
    """Carries wake-ups to the listeners of this process."""

    def __init__(self) -> None:
        self._listeners: dict[Topic, set[MemoryWakeup]] = {topic: set() for topic in Topic}

    def listen(self, *topics: Topic) -> MemoryWakeup:
        return MemoryWakeup(self._listeners, topics)

    def announce(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            for listener in self._listeners[topic]:
                listener.wake()
