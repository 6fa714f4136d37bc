"""What one dispatcher does for all of them. Who that is stands in the database, for a while."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

LEASE = timedelta(seconds=60)  # a holder that is silent for so long is replaced


class Duty(StrEnum):
    """What is wasted when several do it at once."""

    PRUNE_HISTORY = "prune_history"  # delete what is past its keep
    TIDY_QUEUE = "tidy_queue"  # drop what the queue keeps for nobody


class DutyLease(msgspec.Struct, frozen=True):
    """Who took a duty last. The fields are the columns of `duties`.

    `fence` grows with each taking, so that whoever was replaced can tell.
    """

    duty: str  # another version may know more of them
    holder: str
    fence: int
    taken_at: datetime
    lease_expires_at: datetime

    def is_held(self, now: datetime) -> bool:
        """Whether somebody has it."""
        return now < self.lease_expires_at
