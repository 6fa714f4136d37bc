"""What a transaction leaves to be told once it is committed."""

from collections.abc import Sequence
from typing import Any

from tidemill.foundation.event_sink import EventSink
from tidemill.foundation.wakeups import Wakeups
from tidemill.infrastructure.database.rows import Rows


class Committed:
    """What a body returned, and whom to tell."""

    def __init__(self, result: Any, transaction: Rows) -> None:
        self.result = result
        self.topics = transaction.topics
        self.events = transaction.events


def tell(committed: Committed, wakeups: Wakeups, sinks: Sequence[EventSink]) -> None:
    """Tell the listeners what was committed."""
    if committed.events:
        for sink in sinks:
            sink.publish(committed.events)
    if committed.topics:
        wakeups.announce(committed.topics)
