"""A task that does all it can to outlive its run: when is it gone, and what did it cost?"""

import contextlib
import os
import select
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.processes import status_bytes
from tidemill.client.client import Client
from tidemill.testing.server import Server

_TIMEOUT_SECONDS = 20
_GIGABYTE = 1024**3
_MEGABYTE = 1024**2

# Ignores SIGTERM, leaves a daemon of another session behind, and writes without an end.
_TASK = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getpid()).encode())
        os.closerange(0, 256)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
os.wait()
print(os.getppid(), os.getpid(), os.read(read, 20).decode(), flush=True)
block = (b"x" * 99 + b"\\n") * 10_000
written = os.open(os.environ["WRITTEN"], os.O_WRONLY | os.O_CREAT)
total = 0
while True:
    total += os.write(1, block)
    os.pwrite(written, str(total).encode(), 0)
"""


def gigabyte() -> dict[str, Any]:
    """Let such a task write far more than a gigabyte until its timeout ends it."""
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "written"
        with Server(Path(directory) / "data") as server, server.client() as client:
            _warm_up(client)
            before = status_bytes(server.pid, "VmRSS")
            run = _trigger(client, written)
            slot, *tree = _processes_of(client, run["id"])
            slot_before = status_bytes(slot, "VmRSS")
            held = [os.pidfd_open(pid) for pid in tree]
            gone_at = _wait_until_gone(held)
            ended = client.wait(run["id"], timeout_seconds=30)
            survivors = len(held) - len(select.select(held, [], [], 0)[0])
            figures = {
                "status": ended["status"],
                "written_mb": int(written.read_text()) // _MEGABYTE,
                "seconds_from_timeout_to_gone": round(
                    gone_at - _seconds(ended["started_at"]) - _TIMEOUT_SECONDS, 2
                ),
                "worker_rss_growth_mb": _growth(server.pid, before),
                "slot_rss_growth_mb": _growth(slot, slot_before),
                "survivors": survivors,
            }
            for descriptor in held:
                os.close(descriptor)
    if int(figures["written_mb"]) * _MEGABYTE < _GIGABYTE:
        raise RuntimeError("the task did not write a gigabyte before its timeout")
    return figures


def _warm_up(client: Client) -> None:
    """One run, so that growth is that of the task and not of the first imports."""
    task = client.call("POST", "/tasks", body={"name": "warm", "executor": "shell", "command": ":"})
    client.wait(client.trigger(str(task["id"]))["id"], timeout_seconds=30)


def _trigger(client: Client, written: Path) -> dict[str, Any]:
    body = {
        "name": "gigabyte",
        "executor": "shell",
        "command": sys.executable,
        "arguments": {"argv": ["-c", _TASK], "environment": {"WRITTEN": str(written)}},
        "timeout_seconds": _TIMEOUT_SECONDS,
    }
    task = client.call("POST", "/tasks", body=body)
    return client.trigger(str(task["id"]))


def _processes_of(client: Client, run_id: int) -> list[int]:
    """The slot, the task and its daemon, as the task's first line names them."""
    with contextlib.closing(client.stream(f"/runs/{run_id}/logs?follow=1")) as events:
        for name, data in events:
            if name == "log":
                return [int(pid) for pid in data["text"].split()]
    raise RuntimeError("the task said nothing")


def _wait_until_gone(pidfds: list[int]) -> float:
    """When the last of these ended, or when that was given up."""
    left = set(pidfds)
    deadline = time.monotonic() + _TIMEOUT_SECONDS + 60
    while left and (patience := deadline - time.monotonic()) > 0:
        left -= set(select.select(left, [], [], patience)[0])
    return time.time()


def _growth(pid: int, before: int) -> float:
    return round((status_bytes(pid, "VmHWM") - before) / _MEGABYTE, 1)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
