"""How much there is of everything at one moment: what no event tells by itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import Worker
from tidemill.foundation.listing import LaneDepth
from tidemill.foundation.store import Reads


class Levels(msgspec.Struct, frozen=True):
    """Unfinished runs by status, what waits and runs in each lane, and the workers alive."""

    at: datetime
    unfinished: Mapping[RunStatus, int]
    lanes: Sequence[LaneDepth]
    workers: Sequence[Worker]


def levels_of(reads: Reads) -> Levels:
    """What there is now; its cost follows the unfinished runs, not the history."""
    return Levels(reads.now, reads.status_counts(), reads.lane_depths(), reads.workers_alive())
