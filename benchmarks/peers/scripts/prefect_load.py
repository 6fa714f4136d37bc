"""Prefect: tasks in the background, with a server of its own. Run by an interpreter of its own."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_DATABASE = os.environ["POSTGRES_URL"]
_STARTS_WITHIN_SECONDS = 120


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


_PORT = os.environ.setdefault("PREFECT_SERVER_API_PORT", free_port())
os.environ |= {
    "PREFECT_HOME": str(Path.cwd() / "prefect"),
    "PREFECT_API_URL": f"http://127.0.0.1:{_PORT}/api",
    "PREFECT_API_DATABASE_CONNECTION_URL": _DATABASE.replace("://", "+asyncpg://"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
}

import asyncpg  # noqa: E402  Prefect reads its settings when it is imported
import loads  # noqa: E402
from prefect import task  # noqa: E402
from prefect.task_worker import serve  # noqa: E402


@task(task_run_name="nothing")
async def nothing() -> None:
    pass


@task(task_run_name="note")
async def note(number: int) -> None:
    loads.note(number)


class Prefect(loads.Load):
    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(_DATABASE))

    def enqueue(self) -> None:
        nothing.apply_async()

    def enqueue_note(self, number: int) -> None:
        note.apply_async((number,))

    def is_over(self) -> bool:
        ended = "SELECT count(*) FROM task_run WHERE state_type = 'COMPLETED' AND name = 'nothing'"
        return self._runner.run(self._connection.fetchval(ended)) >= self.asked


def wait_for_server() -> None:
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError("the server does not answer")


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        serve(nothing, note)
        sys.exit()
    server = [sys.executable, "-m", "prefect", "server", "start", "--port", _PORT]
    worker = [sys.executable, __file__, "work"]
    with subprocess.Popen(server, stdout=sys.stderr) as serving:
        wait_for_server()
        with subprocess.Popen(worker, stdout=sys.stderr) as running:
            loads.obey(Prefect().kinds())
            running.terminate()
        serving.terminate()
