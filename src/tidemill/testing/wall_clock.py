"""A wall clock that is wrong, for one process and all that it starts.

    clock = WallClock(directory / "clock", hours=1)
    with Server(data_dir, environment=clock.environment()) as server:
        clock.set(hours=-1)     # it jumps back by two hours, at once

It is libfaketime, a library of Debian's package of that name. The monotonic clock, the times of
files and everybody else's clock stay right.
"""

from datetime import timedelta
from pathlib import Path

from tidemill.testing.services.programs import ServiceMissing

_LIBRARIES = ("/usr/lib/*/faketime", "/usr/lib*/faketime", "/usr/local/lib/faketime")


class WallClock:
    """Ahead of the machine's by so many hours; behind it where they are negative.

    Raises ServiceMissing where the library is not on this machine.
    """

    def __init__(self, file: Path, *, hours: float = 0) -> None:
        self._library = _find_library()
        self._file = file
        self.set(hours=hours)

    def set(self, *, hours: float) -> None:
        """From now on it is off by so much; whoever looks at it next sees that."""
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(f"{timedelta(hours=hours).total_seconds():+.0f}\n")
        new.replace(self._file)

    def environment(self) -> dict[str, str]:
        """What a process needs that shall go by it."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            # With it, waits by the monotonic clock end at once, and whoever waits spins.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


def _find_library() -> Path:
    for pattern in _LIBRARIES:
        for found in Path("/").glob(f"{pattern.lstrip('/')}/libfaketimeMT.so.1"):
            return found
    raise ServiceMissing("libfaketime is not on this machine; `make servers` installs it on Debian")
