"""Clients of two APIs that try each request at one, and once more at the other."""

import threading
import time
from collections import Counter
from typing import Any, Self
from uuid import uuid4

import httpx2

from tidemill.testing.server import Server

_PAUSE_SECONDS = 0.1
_TIMEOUT_SECONDS = 10.0


class Callers:
    """Threads that ask for runs of `tasks` and look at them, as behind a load balancer.

    `promised` has the run that each 2xx named. `count` tells of calls, of those that were tried
    once more, and of those that failed then as well.
    """

    def __init__(self, servers: list[Server], tasks: tuple[str, ...], callers: int = 2) -> None:
        self.promised: dict[str, int] = {}
        self.count: Counter[str] = Counter(calls=0, retried=0, failed=0)
        self.failures: list[str] = []
        self._servers = servers
        self._tasks = tasks
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(number,)) for number in range(callers)
        ]

    def _go_on(self, number: int) -> None:
        with httpx2.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as http:
            asked = 0
            while not self._is_over.wait(_PAUSE_SECONDS):
                asked += 1
                task = self._tasks[asked % len(self._tasks)]
                run = self._call(http, number + asked, "POST", f"/tasks/name:{task}/trigger")
                if run is not None:
                    self.promised[f"{number}-{asked}"] = run["id"]
                    self._call(http, number + asked + 1, "GET", f"/runs/{run['id']}")

    def _call(self, http: httpx2.Client, turn: int, method: str, path: str) -> Any:
        """The answer of one API or the other; None where neither gives one."""
        self.count["calls"] += 1
        headers = {"Idempotency-Key": uuid4().hex}
        said = []
        for which in (turn, turn + 1):
            server = self._servers[which % len(self._servers)]
            try:
                response = http.request(
                    method, f"{server.url}/api/v1{path}", headers=headers,
                    json={} if method == "POST" else None,
                )  # fmt: skip
                if response.is_success:
                    return response.json()
                said.append(f"{time.time():.2f} {method} {path}: {response.status_code}")
            except httpx2.TransportError as error:
                said.append(f"{time.time():.2f} {method} {path}: {error!r}")
            self.count["retried"] += 1
        self.count["retried"] -= 1
        self.count["failed"] += 1
        self.failures.append("; ".join(said))
        return None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
