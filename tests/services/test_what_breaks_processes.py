"""Clocks that are wrong and kills at a system call do what they say, and can prove it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidemill.testing.prerequisites import not_run
from tidemill.testing.services import ServiceMissing
from tidemill.testing.system_calls import KilledAt
from tidemill.testing.wall_clock import WallClock

_KILLED = -9
_HOUR = 3_600


def test_a_process_sees_the_clock_that_it_was_given_and_the_monotonic_one_of_the_machine(
    tmp_path: Path,
) -> None:
    try:
        clock = WallClock(tmp_path / "clock", hours=1)
    except ServiceMissing as missing:
        not_run(str(missing))
    look = "import time\nwhile input():\n print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", look],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=clock.environment(),
        text=True,
    ) as process:
        seen = []
        for hours in (1, -1, 0):
            clock.set(hours=hours)
            before = time.time(), time.monotonic()
            process.stdin.write("look\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            wall, monotonic = map(float, process.stdout.readline().split())  # type: ignore[union-attr]
            assert before[1] <= monotonic <= time.monotonic()
            seen.append(round((wall - before[0]) / _HOUR))
        process.stdin.write("\n")  # type: ignore[union-attr]

    assert seen == [1, -1, 0]


@pytest.mark.parametrize(("number", "is_killed"), [(1, True), (500, False)])
def test_a_process_is_killed_at_its_nth_call_and_not_without_it(
    tmp_path: Path, number: int, is_killed: bool
) -> None:
    try:
        sudden = KilledAt(tmp_path / "calls", number, "write", thread="main")
    except ServiceMissing as missing:
        not_run(str(missing))
    done = subprocess.run([*sudden.command, "--version"], capture_output=True, text=True)

    assert (done.returncode == _KILLED) is is_killed
    assert bool(done.stdout) is not is_killed
    assert sudden.has_happened() is is_killed
