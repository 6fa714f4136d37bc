"""Two clients that keep trying edits which would together make a cycle, at the same moment."""

import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from benchmarks.patient_client import PatientClient
from tidemill.client.client import ServerError, Unreachable
from tidemill.testing.server import Server

_NAMES = ("knot-0", "knot-1", "knot-2", "knot-3")
_REFUSED = 422


class Knots:
    """Tasks in a ring that lacks two edges, which two clients add at once; again and again.

    `count` tells of the edits: `accepted`, `refused` for the cycle, `unanswered`; and after how
    many of the `rounds` there were `cycles`.
    """

    def __init__(self, servers: list[Server], chance: random.Random) -> None:
        self.count = Counter(rounds=0, accepted=0, refused=0, unanswered=0, cycles=0)
        self._servers = servers
        self._chance = chance
        self._is_over = threading.Event()
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._go_on)

    def begin(self) -> None:
        """Define the tasks, and start to edit them."""
        with PatientClient(self._servers[0]) as client:
            for name in _NAMES:
                client.call("POST", "/tasks", body={
                    "name": name, "executor": "shell", "command": "true",
                })  # fmt: skip
        self._thread.start()

    def finish(self) -> None:
        """Return once nobody edits any more."""
        self._is_over.set()
        self._thread.join()
        if self._failures:
            raise self._failures[0]

    def _go_on(self) -> None:
        try:
            with PatientClient(self._servers[0]) as client, ThreadPoolExecutor(2) as editors:
                while not self._is_over.is_set():
                    self._round(client, editors)
        except Exception as error:
            self._failures.append(error)

    def _round(self, client: PatientClient, editors: ThreadPoolExecutor) -> None:
        ring = self._chance.sample(_NAMES, self._chance.randint(2, len(_NAMES)))
        for name in _NAMES:
            client.call("PATCH", f"/tasks/name:{name}", body={"dependencies": []})
        for upstream, name in pairwise(ring[:-1]):
            client.call("PATCH", f"/tasks/name:{name}", body=_depending_on(upstream))
        start = threading.Barrier(2)
        edits = [(ring[-2], ring[-1]), (ring[-1], ring[0])]
        tried = [
            editors.submit(self._edit, self._servers[number % len(self._servers)], *edit, start)
            for number, edit in enumerate(edits)
        ]
        self.count.update(each.result() for each in tried)
        self.count["rounds"] += 1
        tasks = [client.call("GET", f"/tasks/name:{name}") for name in _NAMES]
        self.count["cycles"] += bool(in_cycles(upstream_of(tasks)))

    def _edit(self, server: Server, upstream: str, name: str, start: threading.Barrier) -> str:
        with server.client() as client:
            start.wait()
            try:
                client.call("PATCH", f"/tasks/name:{name}", body=_depending_on(upstream))
            except Unreachable:
                return "unanswered"
            except ServerError as error:
                if error.status == _REFUSED:
                    return "refused"
                if error.status not in {409, 503}:
                    raise
                return "unanswered"
        return "accepted"


def _depending_on(upstream: str) -> dict[str, Any]:
    return {"dependencies": [{"task": f"name:{upstream}"}]}


def upstream_of(tasks: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """What each task depends on, by name, as the API tells of tasks."""
    return {
        task["name"]: {each["task"].removeprefix("name:") for each in task["dependencies"]}
        for task in tasks
    }


def in_cycles(upstream: Mapping[str, set[str]]) -> set[str]:
    """The tasks that wait for one another, and those that wait for them."""
    left = dict(upstream)
    while free := [name for name, those in left.items() if not those & left.keys()]:
        for name in free:
            del left[name]
    return set(left)
