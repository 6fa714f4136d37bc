"""Calls to a part that is gone fail at once, instead of one time limit after the other.

    closed ── failure_threshold calls in a row reach nothing ──► open ── its pause is over ─┐
       ▲                                                          ▲                         ▼
       │                                                          └── reaches nothing ── half open
       └───────────────────────── is answered ──────────────────────────────────────────────┘

While it is half open a single call goes through, to find out. What counts is whether the part was
reached, never what it said.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.health import BreakerReading, BreakerState


class BreakerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens and how long it stays so; durations in seconds."""

    failure_threshold: int = 3
    reset_seconds: float = 0.5  # and twice as long each time that the part is still gone, up to
    longest_reset_seconds: float = 2.0


DEFAULTS = BreakerOptions()


class Call:
    """One call that was let through. What came of it counts once, and not when it comes late."""

    def __init__(self, breaker: "CircuitBreaker", episode: int) -> None:
        self.episode = episode
        self._breaker = breaker

    def is_answered(self) -> None:
        """The part was reached, whatever becomes of the call."""
        self._breaker.note_answer(self)


class CircuitBreaker:
    """Stands before one part, of which `component` is the name. All of it runs on one event loop.

    `call` is for one call at a time of each caller; any number of them may be under way.
    """

    def __init__(self, component: str, options: BreakerOptions, clock: Clock) -> None:
        self.component = component
        self._options = options
        self._clock = clock
        self._failures = 0  # in a row, while it is closed
        self._pause = 0.0  # 0: it is closed
        self._opens_until = 0.0
        self._probe: Call | None = None
        self._episode = 0  # from one change of what goes through to the next
        self._openings = 0
        self._refusals = 0

    def read(self) -> BreakerReading:
        """How it is."""
        return BreakerReading(self.component, self.state, self._openings, self._refusals)

    @property
    def state(self) -> BreakerState:
        """Whether calls go through."""
        if not self._pause:
            return BreakerState.CLOSED
        if self._clock.monotonic() < self._opens_until:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Raise Unavailable at once, or let a call through.

        It counts as a failure when it raises Unavailable for a part that was not reached, and as an
        answer when it ends well. Any other error says nothing, and neither does a cancellation: the
        next call finds out.
        """
        call = self.enter()
        try:
            yield call
        except BaseException as error:
            if isinstance(error, Unavailable) and not error.was_reached:
                self.note_failure(call)
            self.give_up(call)
            raise
        self.note_answer(call)

    def enter(self) -> Call:
        """A call that may be made; raises Unavailable where none may."""
        state = self.state
        if state is BreakerState.OPEN or self._probe is not None:
            self._refusals += 1
            raise Unavailable(
                f"the {self.component.replace('_', ' ')} does not answer; it is asked again within "
                f"{self._options.longest_reset_seconds:g} s",
                was_reached=False,
            )
        call = Call(self, self._episode)
        if state is BreakerState.HALF_OPEN:
            self._probe = call
        return call

    def note_answer(self, call: Call) -> None:
        """The part answered this call."""
        if call.episode != self._episode:
            return
        self._failures = 0
        if self._pause:
            self._pause = 0.0
            self._begin_episode()

    def note_failure(self, call: Call) -> None:
        """The part was not reached by this call."""
        if call.episode != self._episode:
            return
        self._failures += 1
        if self._pause:
            self._open(min(self._pause * 2, self._options.longest_reset_seconds))
        elif self._failures >= self._options.failure_threshold:
            self._openings += 1
            self._open(self._options.reset_seconds)

    def give_up(self, call: Call) -> None:
        """Nothing is known of this call; if others waited for what it would find, they may try."""
        if call is self._probe:
            self._probe = None

    def _open(self, pause: float) -> None:
        self._pause = pause
        self._opens_until = self._clock.monotonic() + pause
        self._begin_episode()

    def _begin_episode(self) -> None:
        self._episode += 1
        self._probe = None
