"""Who is told that something is worth a look. A wake-up carries nothing and may get lost."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol


class Topic(StrEnum):
    """What may be worth a look."""

    SCHEDULES = "schedules"  # a task's next fire time moved
    READY = "ready"  # runs may be dispatched, or room was made for them
    CLAIMABLE = "claimable"  # runs are ready that any worker of their lane may have
    MESSAGES = "messages"  # the queue has some
    LEASES = "leases"  # a worker should look at its runs: one is to be cancelled
    EVENTS = "events"  # run events were appended
    OUTPUT = "output"  # output of runs was stored
    DUTIES = "duties"  # a dispatcher gave up what another should do


class Wakeup(Protocol):
    """One listener's ear. A wake-up that comes between two waits is remembered, once."""

    async def wait(self, timeout_seconds: float | None) -> bool:
        """Return True when woken, False when so many seconds passed first."""

    def close(self) -> None:
        """Listen no more."""


class Wakeups(Protocol):
    """Carries wake-ups to everyone who listens; polling stands behind each of them."""

    def listen(self, *topics: Topic) -> Wakeup:
        """An ear for any of these topics."""

    def announce(self, topics: Iterable[Topic]) -> None:
        """Wake those who listen to any of these topics. Called on the event loop."""
