"""Prefect: tasks of one flow, with a server of its own. Run by an interpreter of its own."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

_PORT = os.environ["PREFECT_SERVER_API_PORT"]
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{_PORT}/api"

import ordered  # noqa: E402
from prefect import flow, task  # noqa: E402

_STARTS_WITHIN_SECONDS = 120


@task
def stamp(file: str) -> None:
    ordered.stamp(file)


@flow
def one_after_the_other(file: str, edges: int) -> None:
    future = stamp.submit(file)
    for _ in range(edges):
        future = stamp.submit(file, wait_for=[future])
    future.result()


@flow
def all_at_once(file: str, width: int) -> None:
    first = stamp.submit(file)
    middle = [stamp.submit(file, wait_for=[first]) for _ in range(width)]
    stamp.submit(file, wait_for=middle).result()


def wait_for_server() -> None:
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/api/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError("the server does not answer")


if __name__ == "__main__":
    server = [sys.executable, "-m", "prefect", "server", "start", "--port", _PORT]
    with subprocess.Popen(server, stdout=sys.stderr) as running:
        wait_for_server()
        ordered.obey(one_after_the_other, all_at_once)
        running.terminate()
