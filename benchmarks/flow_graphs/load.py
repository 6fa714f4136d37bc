"""Graphs that fire by themselves, and clients that trigger them besides."""

import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.flow_graphs.graphs import Graph, definition_of
from benchmarks.patient_client import PatientClient
from tidemill.testing.server import Server

_BETWEEN_ASKING_SECONDS = 4.0
_LEAD_SECONDS = 3.0  # from the last definition to the first fire time


class Load:
    """Each graph fires every so many seconds, and each API is asked for flow runs by hand."""

    def __init__(
        self,
        servers: Sequence[Server],
        graphs: Sequence[Graph],
        arguments: dict[str, Any],
        fire_every_seconds: float,
        chance: random.Random,
    ) -> None:
        self.due: dict[int, set[float]] = {}  # root task → its fire times
        self.promised: dict[str, str] = {}  # idempotency key → flow run, of each 2xx answer
        self._servers = servers
        self._graphs = graphs
        self._arguments = arguments
        self._every = fire_every_seconds
        self._chance = chance
        self._is_over = threading.Event()
        self._failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number, random.Random(chance.random())))
            for number in range(len(servers))
        ]

    def begin(self, seconds: float) -> None:
        """Define the tasks, the first of which fire for so long."""
        with PatientClient(self._servers[0]) as client:
            for graph in self._graphs:
                for node in graph.nodes:
                    took = {"seconds": round(self._chance.uniform(0, 0.3), 3)}
                    body = definition_of(node, self._arguments | took)
                    body["overlap"] = self._chance.choice(("allow", "skip"))
                    client.call("POST", "/tasks", body=body)
            start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_SECONDS)
            for graph in self._graphs:
                self._fire(client, graph.root, start, seconds)
        for thread in self._threads:
            thread.start()

    def _fire(self, client: PatientClient, root: str, start: datetime, seconds: float) -> None:
        count = int(seconds / self._every)
        times = [start + timedelta(seconds=self._every) * number for number in range(count)]
        task = client.call("PATCH", f"/tasks/name:{root}", body={
            "schedule": f"@every {self._every:g}s", "overlap": "allow",
            "misfire": {"policy": "run_all", "max_runs": 10_000},
            "start_at": start.isoformat(),
            "end_at": (times[-1] + timedelta(milliseconds=1)).isoformat(),
        })  # fmt: skip
        self.due[task["id"]] = {at.timestamp() for at in times}

    def finish(self) -> None:
        """Return once everything that was asked for has its answer."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _ask(self, number: int, chance: random.Random) -> None:
        asked = 0
        with PatientClient(self._servers[number]) as client:
            try:
                while not self._is_over.wait(_BETWEEN_ASKING_SECONDS):
                    asked += 1
                    key = f"{number}-{asked}"
                    run = client.call(
                        "POST", f"/tasks/name:{chance.choice(self._graphs).root}/trigger", body={},
                        headers={"Idempotency-Key": key},
                    )  # fmt: skip
                    self.promised[key] = run["flow_run_id"]
            except Exception as error:
                self._failures.append(error)
