"""What the cluster has to do meanwhile: schedules, and clients that go on asking for runs."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.account import Run
from benchmarks.patient_client import PatientClient
from tidemill.testing.server import Server

LIMIT = 2  # runs at once under the shared key

_HELD_SECONDS = 0.3  # what runs under the key
_LONG_SECONDS = 3.0
_BETWEEN_ASKING_SECONDS = 0.2
_HOLDING = {"limited", "long"}


class Load:
    """Tasks that fire every second, and threads that ask for runs through all APIs."""

    def __init__(self, directory: Path, servers: list[Server], scheduled: int) -> None:
        self.schedules: dict[int, float] = {}  # task → its first fire time
        self.promised: dict[str, int] = {}  # idempotency key → run, of each 2xx answer
        self.starts_file = directory / "starts"
        self.holds_file = directory / "holds"
        self.longs_file = directory / "longs"
        self._servers = servers
        self._scheduled = scheduled
        self._is_over = threading.Event()
        self._failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(len(servers))
        ]

    def begin(self) -> None:
        """Define the tasks, spread over a second."""
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
        notes = {"file": str(self.starts_file)}
        with self._servers[0].client() as client:
            for number in range(self._scheduled):
                begin = start + timedelta(milliseconds=50 * number)
                task = client.call("POST", "/tasks", body={
                    "name": f"every-{number}", "executor": "python",
                    "command": "effects:note_attempt", "arguments": notes,
                    "schedule": "@every 1s", "start_at": begin.isoformat(), "overlap": "allow",
                    "misfire": {"policy": "run_all", "max_runs": 10_000},
                })  # fmt: skip
                self.schedules[task["id"]] = begin.timestamp()
            holds = {"file": str(self.holds_file), "seconds": _HELD_SECONDS}
            longs = {"file": str(self.longs_file), "seconds": _LONG_SECONDS}
            key = {"key": "shared", "limit": LIMIT}
            for name, body in (
                ("asked", {"command": "effects:note_attempt", "arguments": notes}),
                ("limited", {"command": "effects:hold", "arguments": holds, "concurrency": key}),
                ("long", {"command": "effects:hold", "arguments": longs}),
            ):
                client.call("POST", "/tasks", body={"name": name, "executor": "python", **body})
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Return once everything that was asked for has its answer."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def notes(self, run: Run) -> bool:
        """Whether the task of this run writes its starts to `starts_file`."""
        return run["task_name"] not in _HOLDING

    def _ask(self, number: int) -> None:
        asked = 0
        with PatientClient(self._servers[number]) as client:
            try:
                while not self._is_over.wait(_BETWEEN_ASKING_SECONDS):
                    asked += 1
                    name = ("asked", "limited", "long")[asked % 3]
                    key = f"{number}-{asked}"
                    run = client.call(
                        "POST", f"/tasks/name:{name}/trigger", body={},
                        headers={"Idempotency-Key": key},
                    )  # fmt: skip
                    self.promised[key] = run["id"]
            except Exception as error:
                self._failures.append(error)
