"""What Tidemill takes when it has nothing to do, and how soon it is there."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import cpu_seconds, proportional_bytes, resident_bytes
from tidemill.testing.cluster import Cluster
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres

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
    """CPU and memory of all processes of a server without due tasks; then of a lone worker."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.monotonic()
        with Server(Path(directory) / "data", command=(_COMMAND,)) as server:
            ready_seconds = time.monotonic() - began
            taken = _taken_by(server.pid, seconds)
    return {"ready_seconds": round(ready_seconds, 2), **taken, "worker": _lone_worker(seconds)}


def _lone_worker(seconds: float) -> dict[str, float]:
    """`serve worker` on PostgreSQL, with nothing beside it."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Postgres() as postgres,
        Cluster(Path(directory), postgres.url) as cluster,
    ):
        began = time.monotonic()
        worker = cluster.worker()
        ready_seconds = time.monotonic() - began
        return {"ready_seconds": round(ready_seconds, 2), **_taken_by(worker.process.pid, seconds)}


def _taken_by(pid: int, seconds: float) -> dict[str, float]:
    """Of a process and all that it started, once they have settled; CPU for so long."""
    time.sleep(_SETTLING_SECONDS)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    cpu = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    return {
        "idle_cpu_percent": round(cpu * 100, 2),
        "resident_mb": round(resident_bytes(pid) / 1e6, 1),
        "proportional_mb": round(proportional_bytes(pid) / 1e6, 1),
    }
