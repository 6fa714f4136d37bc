"""What a server and all of its processes take."""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_GONE_WITHIN_SECONDS = 15.0


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of the family, ended children included."""
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def cpu_of_machine() -> Callable[[], float]:
    """What tells how busy all processors of the machine were since now, in percent."""
    before = psutil.cpu_times()

    def busy_percent() -> float:
        now = psutil.cpu_times()
        passed = sum(now) - sum(before)
        idle = now.idle + now.iowait - before.idle - before.iowait
        return round(100 * (1 - idle / passed), 1) if passed else 0.0

    return busy_percent


def resident_bytes(pid: int) -> int:
    """Memory of the family; what processes share is counted once in each."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def proportional_bytes(pid: int) -> int:
    """Memory of the family; what processes share is divided among them."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


@contextmanager
def end_of(pid: int) -> Iterator[int]:
    """A descriptor that becomes readable when this process ends."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def contained(data_dir: Path) -> list[int]:
    """The living processes that a server with this data directory contains."""
    wanted = f"TIDEMILL_CONTAINMENT={data_dir.resolve()}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", name, "environ").read_bytes():
                    found.append(int(name))
    return found


def wait_until_gone(data_dir: Path) -> int:
    """Wait for the end of all that a dead server contained; how many are left in the end."""
    deadline = time.monotonic() + _GONE_WITHIN_SECONDS
    while (pids := contained(data_dir)) and (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(ProcessLookupError), end_of(pids[0]) as ended:
            select.select([ended], [], [], left)
    return len(pids)


def status_bytes(pid: int, field: str) -> int:
    """A size of /proc/PID/status: VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not tell {field}")
