"""SIGKILL at random moments under load: after each restart, is anything missing, doubled or left?

The tasks write down themselves that they started. That, the API's account and fire times that are
computed here are held against one another once everything has ended.
"""

import random
import select
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.account import (
    Run,
    against_fire_times,
    against_promises,
    against_starts,
    attempts_of,
    every_second,
    let_schedules_end,
    read_starts,
    seconds,
    settle,
    stale_writes,
)
from benchmarks.effects import percentile
from benchmarks.processes import contained, end_of, wait_until_gone
from tidemill.client.client import Client, ServerError, Unreachable
from tidemill.testing.server import Server

TASKS = Path(__file__).parent / "tasks"

_GRACE_SECONDS = 1.0
_POLICIES = ("skip", "run_once", "run_all")
_LONGEST_LIFE_SECONDS = 0.8  # of a server that is ready, before it is killed
_SETTLES_WITHIN_SECONDS = 120
_MILLISECOND = 0.002  # the API tells instants in milliseconds


def crashes(kills: int = 200, seed: int | None = None) -> dict[str, Any]:
    """Kill the server so often; every count of a defect has to be zero."""
    seed = random.randrange(2**32) if seed is None else seed
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = Server(
            directory / "data",
            environment={
                "TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]',
                "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
            },
        )
        load = _Load(directory / "effects")
        recoveries, survivors = _kill_often(server, load, kills, random.Random(seed))
        with server, server.client() as client:
            load.finish(client)
            until = let_schedules_end(client, load.schedules, _SETTLES_WITHIN_SECONDS)
            settle(client, _SETTLES_WITHIN_SECONDS)
            runs = list(client.items("/runs", sort="id"))
            attempts = attempts_of(client, runs)
            missed = sum(_missed(client, task_id) for task_id in load.schedules)
        survivors += len(contained(server.data_dir))
        starts = read_starts(load.effects_file)
    due = {
        task_id: every_second(each.start_at, until, since=each.created_at)
        for task_id, each in load.schedules.items()
    }
    return {
        "kills": kills,
        "seed": seed,
        "runs": len(runs),
        "firings_due": sum(map(len, due.values())),
        "promised": len(load.promised),
        "starts": len(starts),
        "attempts_lost": sum(a["outcome"] == "lost" for each in attempts.values() for a in each),
        "restart_p50_seconds": round(percentile(recoveries, 0.5), 2),
        "restart_max_seconds": round(max(recoveries), 2),
        "defects": {
            **against_fire_times(runs, due),
            "policies_broken": _policies_broken(runs, load.schedules),
            "ledger_missed": missed,
            **against_starts(runs, attempts, starts, noted={run["id"] for run in runs}),
            "unexpected_ends": sum(not _may_end_so(run) for run in runs),
            **against_promises(runs, load.promised),
            "stale_writes_accepted": stale_writes(runs, attempts),
            "one_shots_doubled": _doubled_one_shots(runs),
            "surviving_processes": survivors,
        },
    }


# the load


class _Schedule(NamedTuple):
    policy: str
    start_at: float
    created_at: float  # on a busy machine after its start: nothing is due before


class _Load:
    """Tasks with schedules, and a thread that goes on asking for runs while there is a server."""

    def __init__(self, effects_file: Path) -> None:
        self.effects_file = effects_file
        self.schedules: dict[int, _Schedule] = {}
        self.promised: dict[str, int] = {}  # idempotency key → run, of each 2xx answer
        self._open: dict[str, tuple[str, dict[str, Any]]] = {}  # asked for, and not answered
        self._asked = 0
        self._line = (
            'echo "$TIDEMILL_TASK_NAME $TIDEMILL_SCHEDULED_FOR $TIDEMILL_ATTEMPT '
            f'$TIDEMILL_RUN_ID $TIDEMILL_FENCE" >> {effects_file}'
        )
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def define(self, client: Client) -> None:
        """Once, before the first kill."""
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        for executor in ("python", "shell"):
            for number, policy in enumerate(_POLICIES):
                begin = start + timedelta(seconds=number / 7)
                begin = begin.replace(microsecond=begin.microsecond // 1000 * 1000)
                task = client.call(
                    "POST",
                    "/tasks",
                    body={
                        "name": f"{executor}-{policy}",
                        "overlap": "allow",
                        "schedule": "@every 1s",
                        "start_at": begin.isoformat(),
                        "misfire": {"policy": policy, "grace_seconds": _GRACE_SECONDS},
                        **self._what(executor),
                    },
                )
                self.schedules[task["id"]] = _Schedule(
                    policy, begin.timestamp(), seconds(task["created_at"])
                )
        # Its first attempt leaves processes that only containment ends.
        stay = (
            f"{self._line}; [ $TIDEMILL_ATTEMPT -gt 1 ] || {{ (setsid sleep 600 &); sleep 600; }}"
        )
        for name, what in (
            ("asked-shell", self._what("shell")),
            ("asked-python", self._what("python")),
            ("stays", {"executor": "shell", "command": stay, "timeout_seconds": 20}),
        ):
            client.call("POST", "/tasks", body={"name": name, **what})

    def _what(self, executor: str) -> dict[str, Any]:
        if executor == "shell":
            return {"executor": "shell", "command": self._line}
        arguments = {"file": str(self.effects_file)}
        return {"executor": "python", "command": "effects:note_attempt", "arguments": arguments}

    def go_on(self, server: Server) -> None:
        """Ask until the server is gone."""
        self._thread = threading.Thread(target=self._ask_for_ever, args=(server.url,))
        self._thread.start()

    def pause(self) -> None:
        """Return once the thread has noticed that the server is gone."""
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def finish(self, client: Client) -> None:
        """Ask again for what was not answered."""
        while self._open:
            self._ask_again(client)

    def _ask_for_ever(self, url: str) -> None:
        with Client(url) as client:
            try:
                self._ask_again(client)
                self._ask(client, "stays")
                for name in _alternating("asked-shell", "asked-python"):
                    self._ask(client, name)
                    if self._asked % 20 == 0:
                        self._define_one_shot(client)
            except Unreachable:
                return
            except Exception as error:
                self._failure = error

    def _ask_again(self, client: Client) -> None:
        for key in list(self._open):
            self._carry_out(client, key)

    def _ask(self, client: Client, name: str) -> None:
        self._post(client, f"/tasks/name:{name}/trigger", {})

    def _define_one_shot(self, client: Client) -> None:
        at = datetime.now(UTC) + timedelta(milliseconds=200)
        body = {"name": f"once-{self._asked}", "schedule": f"@at {at.isoformat()}"}
        # However late it is made up for: it has to run.
        misfire = {"misfire": {"policy": "run_once", "grace_seconds": 3_600}}
        self._post(client, "/tasks", body | misfire | self._what("shell"))

    def _post(self, client: Client, path: str, body: dict[str, Any]) -> None:
        self._asked += 1
        key = f"key-{self._asked}"
        self._open[key] = (path, body)
        self._carry_out(client, key)

    def _carry_out(self, client: Client, key: str) -> None:
        path, body = self._open[key]
        try:
            found = client.call("POST", path, body=body, headers={"Idempotency-Key": key})
        except ServerError as error:
            if error.status in {409, 503}:
                return  # under way, or the server drains: asked for again
            if error.status != 422 or path != "/tasks":
                raise
            found = None  # its moment passed before it was accepted, and it says so
        del self._open[key]
        if found is not None and path.endswith("/trigger"):
            self.promised[key] = found["id"]


def _alternating(*names: str) -> Iterator[str]:
    while True:
        yield from names


# the kills


def _kill_often(
    server: Server, load: _Load, kills: int, moments: random.Random
) -> tuple[list[float], int]:
    """Seconds from each start to ready, and how many processes outlived their server."""
    recoveries, survivors = [], 0
    for number in range(kills):
        began = time.monotonic()
        server.start()
        recoveries.append(time.monotonic() - began)
        if number == 0:
            with server.client() as client:
                load.define(client)
        load.go_on(server)
        with end_of(server.pid) as ended:
            # Its end is waited for, and must not come by itself.
            if select.select([ended], [], [], moments.uniform(0, _LONGEST_LIFE_SECONDS))[0]:
                raise RuntimeError(f"the server ended by itself: {server.log}")
        server.kill()
        load.pause()
        survivors += wait_until_gone(server.data_dir)
    return recoveries, survivors


# the account


def _missed(client: Client, task_id: int) -> int:
    missed: int = client.call("GET", f"/tasks/{task_id}/ledger")["missed"]
    return missed


def _policies_broken(runs: list[Run], schedules: dict[int, _Schedule]) -> int:
    """How many rows are not what the policy of their task demands."""
    rows = defaultdict(list)
    for run in runs:
        rows[run["task_id"]].append(run)
    return sum(_broken(each.policy, rows[task_id]) for task_id, each in schedules.items())


def _broken(policy: str, rows: list[Run]) -> int:
    """How many rows are not what the policy makes of a firing that was so late."""
    broken = 0
    fired_together = defaultdict(list)
    for row in rows:
        late = seconds(row["created_at"]) - seconds(row["scheduled_for"])
        if abs(late - _GRACE_SECONDS) < _MILLISECOND:
            continue
        is_skipped = row["status"] == "skipped"
        if late < _GRACE_SECONDS:
            broken += is_skipped
        elif policy == "run_once":
            fired_together[row["created_at"]].append(is_skipped)
        else:
            broken += is_skipped != (policy == "skip")
    return broken + sum(each.count(False) != 1 for each in fired_together.values())


def _may_end_so(run: Run) -> bool:
    """Nothing of this load fails by itself; three lost workers end a run, and the last lingerer."""
    if run["status"] in {"succeeded", "skipped"}:
        return True
    return run["reason"] == "poison" or run["task_name"] == "stays"


def _doubled_one_shots(runs: list[Run]) -> int:
    shots = Counter(run["task_name"] for run in runs if run["task_name"].startswith("once-"))
    return sum(count != 1 for count in shots.values())
