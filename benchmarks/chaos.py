"""A cluster whose parts die, stand still and lose the network, and an account of what came of it.

The tasks write down themselves that they started; fire times are computed here. Both are held
against what the API tells once everything has ended.
"""

import contextlib
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.processes import contained
from tidemill.client.client import Client, ServerError, Unreachable
from tidemill.testing.cluster import Cluster, Member
from tidemill.testing.faults import Fault
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres, RabbitMq, Redis

TASKS = Path(__file__).parent / "tasks"

_LEASE_SECONDS = 5.0
_LIMIT = 2  # runs at once under the shared key
_SETTLES_WITHIN_SECONDS = 180.0
_BROKERS = {"redis": Redis, "rabbitmq": RabbitMq}
_LINK_FAULTS = (Fault.BLACK_HOLE, Fault.DROP_REPLIES, Fault.DROP_REQUESTS, Fault.DELAY)

Run = dict[str, Any]


def chaos(
    seconds: float = 600,
    seed: int | None = None,
    *,
    queue: str = "postgres",
    scheduled: int = 18,
    workers: int = 4,
) -> dict[str, Any]:
    """Two APIs, three dispatchers and workers under mixed faults for so long.

    The database is PostgreSQL; `queue` is what carries the messages: it, redis or rabbitmq.
    """
    seed = random.randrange(2**32) if seed is None else seed
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres())
        broker = stack.enter_context(_BROKERS[queue]()) if queue in _BROKERS else None
        environment = {
            "TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]',
            "TIDEMILL_WORKER__LEASE_SECONDS": str(_LEASE_SECONDS),
            "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
            "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
            "TIDEMILL_WORKER__MAX_CONCURRENT_TASKS": "16",
            "TIDEMILL_MESSAGE_QUEUE__URL": broker.url if broker else "",
        }
        with Cluster(directory, postgres.url, environment) as cluster:
            servers = [cluster.api() for _ in range(2)]
            for _ in range(3):
                cluster.dispatcher()
            for _ in range(workers):
                cluster.worker()
            load = _Load(directory, servers, scheduled)
            load.begin()
            faults = _Faults(cluster, postgres, broker, random.Random(seed))
            faults.go_on(seconds)
            load.finish()
            with servers[0].client() as client:
                until = _let_schedules_end(client, load.schedules)
                _settle(client)
                runs = list(client.items("/runs", sort="id"))
                attempts = {
                    run["id"]: client.call("GET", f"/runs/{run['id']}/attempts")["items"]
                    for run in runs
                    if run["status"] != "skipped"
                }
            homes = [member.data_dir for member in cluster.members]
        return {
            "queue": queue,
            "seconds": seconds,
            "seed": seed,
            "faults": dict(sorted(faults.done.items())),
            "runs": len(runs),
            "attempts": sum(map(len, attempts.values())),
            "attempts_lost": sum(
                a["outcome"] == "lost" for each in attempts.values() for a in each
            ),
            **_lateness(runs),
            **_against_the_oracle(runs, load.schedules, until),
            **_against_effects(runs, attempts, directory / "effects"),
            **_limits(directory / "holds", attempts),
            "promised": len(load.promised),
            "promises_broken": len(set(load.promised.values()) - {run["id"] for run in runs}),
            "runs_beyond_promises": len(
                {run["id"] for run in runs if run["trigger"] == "manual"}
                - set(load.promised.values())
            ),
            "orphans": sum(len(contained(home)) for home in homes),
        }


# the load


class _Load:
    """Tasks with schedules, and threads that go on asking for runs through all APIs."""

    def __init__(self, directory: Path, servers: list[Server], scheduled: int) -> None:
        self.schedules: dict[int, float] = {}  # task → its first fire time
        self.promised: dict[str, int] = {}  # idempotency key → run, of each 2xx answer
        self._directory = directory
        self._servers = servers
        self._scheduled = scheduled
        self._is_over = threading.Event()
        self._failures: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(len(servers))
        ]

    def begin(self) -> None:
        """Define the tasks, and let all begin at the same second."""
        effects = {"file": str(self._directory / "effects")}
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
        with self._servers[0].client() as client:
            for number in range(self._scheduled):
                begin = start + timedelta(milliseconds=50 * number)
                task = client.call("POST", "/tasks", body={
                    "name": f"every-{number}", "executor": "python",
                    "command": "effects:note_attempt", "arguments": effects,
                    "schedule": "@every 1s", "start_at": begin.isoformat(), "overlap": "allow",
                    "misfire": {"policy": "run_all", "max_runs": 10_000},
                })  # fmt: skip
                self.schedules[task["id"]] = begin.timestamp()
            holds = {"file": str(self._directory / "holds"), "seconds": 0.3}
            long = {"file": str(self._directory / "longs"), "seconds": 3.0}
            key = {"key": "shared", "limit": _LIMIT}
            for name, body in (
                ("asked", {"command": "effects:note_attempt", "arguments": effects}),
                ("limited", {"command": "effects:hold", "arguments": holds, "concurrency": key}),
                ("long", {"command": "effects:hold", "arguments": long}),
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

    def _ask(self, number: int) -> None:
        asked = 0
        try:
            while not self._is_over.wait(0.2):
                asked += 1
                name = ("asked", "limited", "long")[asked % 3]
                self._trigger(self._servers[number], name, f"{number}-{asked}")
        except Exception as error:
            self._failures.append(error)

    def _trigger(self, server: Server, name: str, key: str) -> None:
        """Ask until there is an answer: by the key it is one run, however often."""
        while key not in self.promised:
            with server.client() as client:  # a new one each time: it may have another port by now
                try:
                    run = client.call(
                        "POST", f"/tasks/name:{name}/trigger", body={},
                        headers={"Idempotency-Key": key},
                    )  # fmt: skip
                except Unreachable:
                    time.sleep(0.2)
                except ServerError as error:
                    if error.status not in {409, 503}:
                        raise
                    time.sleep(0.2)
                else:
                    self.promised[key] = run["id"]


def _let_schedules_end(client: Client, schedules: dict[int, float]) -> float:
    """Give all schedules the same end, and return it once all have come to it."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    for task_id in schedules:
        client.call("PATCH", f"/tasks/{task_id}", body={"end_at": end.isoformat()})
    for _ in client.stream("/events", timeout_seconds=_SETTLES_WITHIN_SECONDS):
        tasks = [client.call("GET", f"/tasks/{task_id}") for task_id in schedules]
        if all(task["next_run_at"] is None for task in tasks):
            break
    return end.timestamp()


def _settle(client: Client) -> None:
    for run in client.items("/runs", sort="id"):
        if run["completed_at"] is None:
            client.wait(run["id"], timeout_seconds=_SETTLES_WITHIN_SECONDS)


# the faults


class _Faults:
    """One fault after the other, each healed before the next begins."""

    def __init__(
        self,
        cluster: Cluster,
        postgres: Postgres,
        broker: Redis | RabbitMq | None,
        chance: random.Random,
    ) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._postgres = postgres
        self._broker = broker
        self._chance = chance
        # How often each is chosen among them.
        self._kinds: list[tuple[int, Callable[[], str]]] = [
            (5, self._kill), (3, self._pause_past_the_lease), (2, self._pause_briefly),
            (5, self._break_the_network), (2, self._reset_connections), (2, self._restart),
            (1, self._kill_the_database), (1, self._pause_the_database),
        ]  # fmt: skip
        if broker is not None:
            self._kinds += [(2, self._kill_the_broker), (2, self._wipe_the_broker)]

    def go_on(self, seconds: float) -> None:
        """Return when so many seconds have passed and all is healed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            weights = [weight for weight, _ in self._kinds]
            [(_, fault)] = self._chance.choices(self._kinds, weights)
            self.done[fault()] += 1
            time.sleep(self._chance.uniform(0, 2))

    def _kill(self) -> str:
        member = self._anyone()
        member.process.kill()
        time.sleep(self._chance.uniform(0, 1))
        member.process.start()
        return f"{member.role} killed"

    def _restart(self) -> str:
        member = self._anyone()
        member.process.stop()
        member.process.start()
        return f"{member.role} restarted"

    def _pause_past_the_lease(self) -> str:
        worker = self._chance.choice(self._of_role("worker"))
        self._pause(worker, _LEASE_SECONDS + self._chance.uniform(1, 4))
        return "worker paused past its lease"

    def _pause_briefly(self) -> str:
        member = self._chance.choice(self._of_role("dispatcher", "worker"))
        self._pause(member, self._chance.uniform(0.5, 3.5))
        return f"{member.role} paused"

    def _pause(self, member: Member, seconds: float) -> None:
        member.process.pause()
        time.sleep(seconds)
        member.process.resume()

    def _break_the_network(self) -> str:
        member, fault = self._anyone(), self._chance.choice(_LINK_FAULTS)
        member.link.fault = fault
        time.sleep(self._chance.uniform(0.5, _LEASE_SECONDS + 3))
        member.link.fault = None
        if not member.process.is_running:
            member.process.stop()
            member.process.start()
            raise RuntimeError(f"{member.role} ended by itself: {member.process.log[-2_000:]}")
        return f"{member.role}: {fault}"

    def _reset_connections(self) -> str:
        member = self._anyone()
        member.link.reset_connections()
        return f"{member.role}: reset"

    def _kill_the_database(self) -> str:
        self._postgres.kill()
        time.sleep(self._chance.uniform(0, 2))
        self._postgres.start()
        return "postgres killed"

    def _pause_the_database(self) -> str:
        self._postgres.pause()
        time.sleep(self._chance.uniform(0.5, 3))
        self._postgres.resume()
        return "postgres paused"

    def _kill_the_broker(self) -> str:
        assert self._broker is not None
        self._broker.kill()
        time.sleep(self._chance.uniform(0, 2))
        self._broker.start()
        return f"{self._broker.name} killed"

    def _wipe_the_broker(self) -> str:
        assert self._broker is not None
        self._broker.wipe()
        return f"{self._broker.name} wiped"

    def _anyone(self) -> Member:
        return self._chance.choice(self._cluster.members)

    def _of_role(self, *roles: str) -> list[Member]:
        return [member for member in self._cluster.members if member.role in roles]


# the account


def _against_the_oracle(
    runs: list[Run], schedules: dict[int, float], until: float
) -> dict[str, int]:
    """Every fire time has one row, and `run_all` makes a run of each."""
    rows = defaultdict(list)
    for run in runs:
        if run["task_id"] in schedules:
            rows[run["task_id"]].append(run)
    found: Counter[str] = Counter()
    for task_id, start_at in schedules.items():
        due = {round(start_at + second, 3) for second in range(int(until - start_at) + 2)}
        due = {at for at in due if at < until}
        seen = Counter(round(_seconds(row["scheduled_for"]), 3) for row in rows[task_id])
        found["firings_due"] += len(due)
        found["firings_missed"] += len(due - seen.keys())
        found["firings_doubled"] += sum(count - 1 for count in seen.values())
        found["firings_strange"] += len(seen.keys() - due)
        found["firings_skipped"] += sum(row["status"] == "skipped" for row in rows[task_id])
    names = "due", "missed", "doubled", "strange", "skipped"
    return {f"firings_{name}": found[f"firings_{name}"] for name in names}


def _against_effects(
    runs: list[Run], attempts: dict[int, list[dict[str, Any]]], file: Path
) -> dict[str, int]:
    """Each attempt starts once, and another follows only where the one before was lost."""
    starts: Counter[tuple[int, int]] = Counter()
    for line in file.read_text().splitlines():
        _, _, attempt, run_id = line.split()
        starts[int(run_id), int(attempt)] += 1
    known = {(run_id, a["attempt"]): a for run_id, found in attempts.items() for a in found}
    noted = {run["id"] for run in runs if run["task_name"] not in {"limited", "long"}}
    return {
        "unfinished": sum(run["completed_at"] is None for run in runs),
        "unexpected_ends": sum(
            run["status"] != "succeeded" and run["reason"] != "poison" for run in runs
        ),
        "poison": sum(run["reason"] == "poison" for run in runs),
        "attempts_not_counted_up": sum(
            [a["attempt"] for a in found] != list(range(1, len(found) + 1))
            for found in attempts.values()
        ),
        "attempts_not_closed": sum(a["outcome"] is None for a in known.values()),
        "extra_attempts": sum(
            a["outcome"] not in {"lost", "handed_back"}
            for found in attempts.values()
            for a in found[:-1]
        ),
        "starts_without_attempt": sum(key not in known for key in starts),
        "attempts_started_twice": sum(count > 1 for count in starts.values()),
        "successes_without_start": sum(
            a["outcome"] == "succeeded" and key not in starts
            for key, a in known.items()
            if key[0] in noted
        ),
    }


def _limits(file: Path, attempts: dict[int, list[dict[str, Any]]]) -> dict[str, int]:
    """How often more held the key than may; what was lost counts until its successor began."""
    lost = {
        (run_id, a["attempt"])
        for run_id, found in attempts.items()
        for a in found
        if a["outcome"] == "lost"
    }
    changes: list[tuple[float, int]] = []
    for line in file.read_text().splitlines() if file.exists() else []:
        word, _, run_id, attempt, at = line.split()
        if (int(run_id), int(attempt)) not in lost:
            changes.append((float(at), 1 if word == "begin" else -1))
    holders, broken = 0, 0
    for _, change in sorted(changes):
        holders += change
        broken += change > 0 and holders > _LIMIT
    return {"held": sum(change > 0 for _, change in changes), "limits_broken": broken}


def _lateness(runs: list[Run]) -> dict[str, float]:
    late = sorted(
        _seconds(run["started_at"]) - _seconds(run["scheduled_for"])
        for run in runs
        if run["trigger"] == "schedule" and run["started_at"] is not None
    )
    shares = {"p50": 0.5, "p99": 0.99}
    return {
        **{
            f"late_{name}_seconds": round(late[int(len(late) * s)], 3) for name, s in shares.items()
        },
        "late_max_seconds": round(late[-1], 3),
    }


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
