"""Where facts go once they are committed."""

from collections.abc import Sequence
from typing import Protocol

from tidemill.domain.events import RunEvent


class EventSink(Protocol):
    """Counts, logs or alerts. Must not raise and must not wait."""

    def publish(self, events: Sequence[RunEvent]) -> None:
        """These were committed, in this order."""
