"""How the parts are that a process needs, as operators are told."""

from enum import StrEnum

import msgspec


class BreakerState(StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"  # they do
    HALF_OPEN = "half_open"  # one does, to find out
    OPEN = "open"  # none does


class BreakerReading(msgspec.Struct, frozen=True):
    """How a circuit breaker is now, and what it did since the process began."""

    component: str
    state: BreakerState
    openings: int  # how often it found its component gone
    refusals: int  # calls that it did not let through
