"""Processes and their descendants, as Linux shows them.

Only the standard library is used here: every process of a task's tree imports this.
"""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt every descendant whose parent dies, however it detached itself; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot become a subreaper: {os.strerror(error)}")


def be_killed_first() -> None:
    """When memory runs out, let this process and its children go before others."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def children_of(pid: int) -> list[int]:
    """The direct children of a process, zombies included; none where it is gone."""
    return _listed_children(pid) if _IS_LISTED else _children_by_parent().get(pid, [])


def descendants_of(pid: int) -> list[int]:
    """All processes below `pid`, parents before children."""
    by_parent = {} if _IS_LISTED else _children_by_parent()
    found: list[int] = []
    level = [pid]
    while level:
        level = [
            child
            for parent in level
            for child in (_listed_children(parent) if _IS_LISTED else by_parent.get(parent, []))
        ]
        found += level
    return found


# Not every kernel is built with these lists.
_IS_LISTED = os.path.exists("/proc/thread-self/children")


def _listed_children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as listed:
                found += map(int, listed.read().split())
    return found


def _children_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                stat = Path("/proc", name, "stat").read_text(errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                found.setdefault(parent, []).append(int(name))
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each of these that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def processes_with(variable: str, value: str) -> list[int]:
    """Processes of this user that were started with an environment variable of this value."""
    wanted = f"{variable}={value}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                environment = Path("/proc", name, "environ").read_bytes()
                if wanted in environment.split(b"\0"):
                    found.append(int(name))
    return found
