"""The facts of a run's life. Streams, metrics, timelines and replays all read these."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class EventType(StrEnum):
    """What happened to a run; the data of each says from which status to which."""

    RUN_CREATED = "RunCreated"
    RUN_SKIPPED = "RunSkipped"  # it was never to start; `reason` says why
    RUN_HELD = "RunHeld"  # a gate keeps it back; `gate` and `detail` say which and why
    RUN_RELEASED = "RunReleased"  # what held it back is gone
    RUN_PLACED = "RunPlaced"  # it waits for `worker_id`; for anybody again where that is null
    RUN_DISPATCHED = "RunDispatched"  # handed to the queue
    DISPATCH_WITHDRAWN = "DispatchWithdrawn"  # back to pending; `reason` says why
    RUN_STARTED = "RunStarted"  # claimed: attempt, fence, worker
    RETRY_PLANNED = "RetryPlanned"  # the attempt ended, another follows at `not_before`
    RUN_FINISHED = "RunFinished"  # final: status, reason
    RUN_LOST = "RunLost"  # the attempt's lease ran out
    CANCEL_REQUESTED = "CancelRequested"  # its worker was asked to end it
    RUN_CANCELLED = "RunCancelled"
    STALE_WRITE_REFUSED = "StaleWriteRefused"  # an old fence tried to write; nothing changed


class RunEvent(msgspec.Struct, frozen=True):
    """One fact; `seq` counts from 1 without a gap within its run."""

    run_id: int
    seq: int
    type: EventType
    at: datetime
    data: dict[str, Any]
    namespace: str
