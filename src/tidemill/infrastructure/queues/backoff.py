"""How long to wait before a broker is asked again."""

import random

_FIRST_SECONDS = 0.1
_LONGEST_SECONDS = 2.0


class Backoff:
    """Pauses that double up to two seconds, each cut by chance so that not all come at once."""

    def __init__(self) -> None:
        self._next = _FIRST_SECONDS

    def next_seconds(self) -> float:
        """How long to wait this time."""
        seconds = self._next
        self._next = min(seconds * 2, _LONGEST_SECONDS)
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311  nothing secret hangs on it

    def reset(self) -> None:
        """It answered."""
        self._next = _FIRST_SECONDS
