"""What every role stands on: where everything is kept, and how processes reach one another."""

from collections.abc import Sequence
from typing import NamedTuple

from tidemill.foundation.clock import Clock
from tidemill.foundation.queue import MessageQueue
from tidemill.foundation.store import Store
from tidemill.foundation.wakeups import Wakeups
from tidemill.observability.health import Component

DATABASE, MESSAGE_QUEUE = "database", "message_queue"


class Ground(NamedTuple):
    """`components` are the parts of it that may be gone."""

    store: Store
    queue: MessageQueue
    wakeups: Wakeups
    clock: Clock
    components: Sequence[Component]
