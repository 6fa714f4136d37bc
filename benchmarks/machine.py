"""The machine on which something was measured, and what was measured on it."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import PEERS
from benchmarks.peers.loads import PEERS as LOAD_PEERS


def facts() -> dict[str, Any]:
    """Processors, memory, system, and the versions of all that may have been measured."""
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tidemill": importlib.metadata.version("tidemill"),
        "peers": sorted({peer.packages[0] for peer in (*PEERS, *LOAD_PEERS)}),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
