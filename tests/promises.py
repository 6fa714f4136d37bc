"""A load that is promised something, and the account of what became of it."""

from collections import Counter
from pathlib import Path
from typing import Any

from tidemill.client.client import Client, ServerError, Unreachable

SETTLES_WITHIN_SECONDS = 120

Run = dict[str, Any]


class Promises:
    """Runs asked for by key, and a schedule; tasks note in `effects` that they start."""

    def __init__(self, effects: Path) -> None:
        self.kept: dict[str, int] = {}  # key → run, of each answer 2xx
        self._open: list[str] = []  # asked for, and not answered
        self._effects = effects
        self.note = f'echo "$TIDEMILL_RUN_ID $TIDEMILL_ATTEMPT" >> {effects}'  # a task's first line
        self._asked = 0
        self._ticks: dict[str, Any] = {}

    def define(self, client: Client) -> None:
        """Once, before any fault."""
        note = {"executor": "shell", "command": self.note}
        client.call("POST", "/tasks", body={"name": "asked", **note})
        self._ticks = client.call("POST", "/tasks", body={
            "name": "ticks", **note, "schedule": "@every 2s", "overlap": "allow",
            "misfire": {"policy": "run_all", "max_runs": 10_000},
        })  # fmt: skip

    def ask(self, client: Client) -> bool:
        """For one more run; whether there was an answer."""
        self._asked += 1
        self._open.append(f"key-{self._asked}")
        return self.ask_again(client)

    def ask_again(self, client: Client) -> bool:
        """For all that was not answered; whether it was now."""
        for key in list(self._open):
            try:
                run = client.call(
                    "POST", "/tasks/name:asked/trigger", body={}, headers={"Idempotency-Key": key}
                )
            except Unreachable:
                return False
            except ServerError as error:
                if error.status not in {409, 503}:
                    raise
                return False
            self._open.remove(key)
            self.kept[key] = run["id"]
        return True

    def check(self, client: Client) -> None:
        """Everything works again: let all end, and hold it against what was promised."""
        while not self.ask_again(client):
            pass
        for _ in client.stream("/events", timeout_seconds=SETTLES_WITHIN_SECONDS):
            if any(client.items("/tasks/name:ticks/runs")):
                break  # it has fired, however little time all of this took
        client.call("POST", "/tasks/name:ticks/pause")
        for run in client.items("/runs", sort="id"):
            if run["completed_at"] is None:
                client.wait(run["id"], timeout_seconds=SETTLES_WITHIN_SECONDS)
        runs = list(client.items("/runs", sort="id"))
        asked = [run["id"] for run in runs if run["task_name"] == "asked"]
        assert sorted(asked) == sorted(self.kept.values())  # each once, whatever was answered
        self._check_firings(client, [run for run in runs if run["task_name"] == "ticks"])
        starts = Counter(self._effects.read_text().splitlines())
        assert [start for start, count in starts.items() if count > 1] == []
        for run in runs:
            attempts = client.call("GET", f"/runs/{run['id']}/attempts")["items"]
            _check_attempts(run, attempts)
            assert f"{run['id']} {run['attempt']}" in starts or run["reason"] == "poison"
        attempts_of = {run["id"]: run["attempt"] for run in runs}
        for start in starts:
            run_id, attempt = map(int, start.split())
            assert attempt <= attempts_of[run_id]

    def _check_firings(self, client: Client, ticks: list[Run]) -> None:
        paused_at = client.call("GET", "/tasks/name:ticks")["updated_at"]
        span = {"from": self._ticks["created_at"], "to": paused_at}
        path = f"/tasks/{self._ticks['id']}/ledger"
        ledger = client.call("GET", path, params=span)
        assert (ledger["missed"], ledger["skipped"], ledger["coalesced"]) == (0, 0, 0)
        assert ledger["due"] == ledger["ran"] > 0
        rows = Counter(run["scheduled_for"] for run in ticks)
        assert set(rows.values()) == {1}


def _check_attempts(run: Run, attempts: list[dict[str, Any]]) -> None:
    told = (run, attempts)
    assert [each["attempt"] for each in attempts] == list(range(1, len(attempts) + 1)), told
    assert all(each["outcome"] in {"lost", "handed_back"} for each in attempts[:-1]), told
    assert run["status"] == "succeeded" or run["reason"] == "poison", told
    assert attempts[-1]["outcome"] == ("lost" if run["reason"] == "poison" else "succeeded"), told
