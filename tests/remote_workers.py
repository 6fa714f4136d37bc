"""A worker that reaches nothing but the API, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tidemill.client.client import Client
from tidemill.testing.server import StartFailed

TASKS = Path(__file__).parent / "tasks"
LEASE_SECONDS = 4.0
LEASES = {  # short, so that nobody waits long for the end of one
    "TIDEMILL_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
    "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "0.5",
}
PROGRAM = """
import asyncio, os, signal, sys
from tidemill.config.load import load_settings
from tidemill.errors import SchedulerError
from tidemill.observability.logging import configure_logging
from tidemill.container.roles.remote_worker import run_remote_worker

async def work():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with run_remote_worker(load_settings(os.environ), sys.argv[1], "a-key"):
        print("ready", *sorted({each.partition(".")[0] for each in sys.modules}), flush=True)
        await stop.wait()

configure_logging("info", "text")
try:
    asyncio.run(work())
except SchedulerError as error:
    sys.exit(f"tidemill: {error}")
"""


class RemoteWorker:
    """One worker of the server at `url`; `labels` are what tasks may ask for."""

    def __init__(
        self,
        url: str,
        directory: Path,
        name: str,
        leases: dict[str, str] = LEASES,
        **labels: str,
    ) -> None:
        self.name = name
        self._url = url
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TIDEMILL_DATA_DIR": str(directory / name),
            "TIDEMILL_WORKER__NAME": name,
            "TIDEMILL_WORKER__LABELS": json.dumps(labels),
            "TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]',
            "TIDEMILL_WORKER__DRAIN_SECONDS": "0.2",
            "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
            **leases,
        }
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    def start(self) -> list[str]:
        """Return once it claims; the packages that it imported."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self._url],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        if said[:1] != ["ready"]:
            raise StartFailed(f"exit code {self.stop()}: {self.log}")
        return said[1:]

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code once it has drained."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait()
        assert process.stdout is not None
        process.stdout.close()
        return code

    def __enter__(self) -> "RemoteWorker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(client: Client, place: str, **fields: Any) -> dict[str, Any]:
    """A run of a new task that only the worker at `place` takes."""
    count = len(client.call("GET", "/tasks", params={"limit": 1_000})["items"])
    body = {
        "name": f"task-{count}", "executor": "shell", "worker_selector": {"place": place},
        **fields,
    }  # fmt: skip
    task = client.call("POST", "/tasks", body=body)
    return client.trigger(str(task["id"]))


def first_line(client: Client, run: dict[str, Any]) -> str:
    """The first line that a run writes, as soon as it has."""
    stream = client.stream(f"/runs/{run['id']}/logs?follow=1", timeout_seconds=60)
    return next(str(data["text"]) for name, data in stream if name == "log")


def outcomes(client: Client, run: dict[str, Any]) -> list[str]:
    """How each attempt of a run ended."""
    found = client.call("GET", f"/runs/{run['id']}/attempts")["items"]
    return [attempt["outcome"] for attempt in found]
