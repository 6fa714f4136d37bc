"""What Tidemill takes when it has nothing to do, and how soon it is there."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import cpu_seconds, proportional_bytes, resident_bytes
from tidemill.testing.server import Server

_COMMAND = str(Path(sys.executable).with_name("tidemill"))
_SETTLING_SECONDS = 5.0  # after the start, before an idle process is looked at


def version(times: int = 10) -> dict[str, Any]:
    """How long `tidemill --version` takes."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        subprocess.run([_COMMAND, "--version"], check=True, capture_output=True)
        took.append((time.monotonic() - began) * 1000)
    return {"version_median_ms": round(statistics.median(took), 1)}


def ready(times: int = 5) -> dict[str, Any]:
    """Seconds from `tidemill up` until it says that it is ready.

    The first start makes the database; the others find it.
    """
    with tempfile.TemporaryDirectory() as directory:
        took = []
        for _ in range(times + 1):
            began = time.monotonic()
            with Server(Path(directory) / "data", command=(_COMMAND,)):
                took.append(time.monotonic() - began)
    return {
        "first_start_seconds": round(took[0], 2),
        "later_start_median_seconds": round(statistics.median(took[1:]), 2),
    }


def idle(seconds: float = 30) -> dict[str, Any]:
    """CPU and memory of all processes of a server without due tasks."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory) / "data", command=(_COMMAND,)) as server,
    ):
        time.sleep(_SETTLING_SECONDS)
        before, began = cpu_seconds(server.pid), time.monotonic()
        time.sleep(seconds)
        cpu = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
        return {
            "idle_cpu_percent": round(cpu * 100, 2),
            "resident_mb": round(resident_bytes(server.pid) / 1e6, 1),
            "proportional_mb": round(proportional_bytes(server.pid) / 1e6, 1),
        }
