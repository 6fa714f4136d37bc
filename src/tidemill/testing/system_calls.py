"""A process that is killed at the N-th system call of a kind: between two steps that look like one.

    sudden = KilledAt(directory / "calls", 12, "fdatasync")
    server.start(sudden.command)
    ...
    assert sudden.has_happened()

It is done by strace, a program of Debian's package of that name, which stops the process before the
call is carried out.
"""

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tidemill.testing.services.programs import ServiceMissing


class KilledAt:
    """SIGKILL for a `tidemill` as one of its threads comes to its `number`-th call of one of these.

    `thread` says of which: `main` is the one that serves connections, `any` is any of them, and of
    any process that was started by it. The calls are written to `file`, and counted from its start.
    Raises ServiceMissing where there is no strace on this machine, or where it may not trace.
    """

    def __init__(self, file: Path, number: int, *calls: str, thread: str = "any") -> None:
        self._file = file
        self._number = number
        strace = _find_strace()
        followed = ("-f",) if thread == "any" else ()
        self.command = (
            strace, "-D", *followed, "-qq", "-o", str(file), "-e", "signal=none",
            "-e", f"trace={','.join(calls)}",
            "-e", f"inject={','.join(calls)}:signal=SIGKILL:when={number}",
            sys.executable, "-m", "tidemill",
        )  # fmt: skip

    def has_happened(self) -> bool:
        """Of a process that is gone: whether it was killed at this very call."""
        for pid in self._tracers():
            with contextlib.suppress(ProcessLookupError):
                end = os.pidfd_open(pid)
                select.select([end], [], [])
                os.close(end)
        begun: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            begins = re.match(r"(\d+ +)?(\w+)\(", line)
            if begins is not None:
                begun[begins[0]] += 1
            ends = re.match(r"(\d+ +)?(?:<\.\.\. )?(\w+)[( ].* = \?$", line)
            if ends is not None and begun[f"{ends[1] or ''}{ends[2]}("] == self._number:
                return True
        return False

    def _tracers(self) -> Iterator[int]:
        """strace goes on by itself, and is done a moment after what it traces."""
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (directory / "cmdline").read_bytes().split(b"\0")
                if str(self._file).encode() in arguments and arguments[0].endswith(b"strace"):
                    yield int(directory.name)


def _find_strace() -> str:
    strace = shutil.which("strace")
    if strace is None:
        raise ServiceMissing("strace is not on this machine; `make servers` installs it on Debian")
    tried = subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], check=False)
    if tried.returncode != 0:
        raise ServiceMissing("strace may not trace processes here")
    return strace
