"""Wall clocks that are an hour off, and that jump while everything works."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.remote_workers import first_line

from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster
from tidemill.testing.prerequisites import not_run
from tidemill.testing.server import Process, Server
from tidemill.testing.services import ServiceMissing
from tidemill.testing.wall_clock import WallClock

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
LEASES = {
    "TIDEMILL_WORKER__LEASE_SECONDS": "8",
    "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
    "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
    "TIDEMILL_WORKER__DRAIN_SECONDS": "1",
}
Run = dict[str, Any]


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    try:
        return WallClock(tmp_path / "clock")
    except ServiceMissing as missing:
        not_run(str(missing))


def hours_off(instant: datetime) -> int:
    """By how much a clock is wrong that shows this now."""
    return round((instant - datetime.now(UTC)) / HOUR)


def goes_by_another_clock(process: Process) -> bool:
    return "libfaketime" in Path(f"/proc/{process.pid}/maps").read_text()


def clock_of_tasks(client: Client) -> int:
    """How many hours a task is off that runs now."""
    run = client.trigger("looks")
    instant = datetime.fromtimestamp(float(first_line(client, run)), UTC)
    client.wait(run["id"], timeout_seconds=60)
    return hours_off(instant)


def define(client: Client, name: str, **fields: Any) -> Run:
    body = {"name": name, "executor": "shell", "command": "true", **fields}
    return client.call("POST", "/tasks", body=body)


def wait_for_runs(client: Client, task: str, count: int) -> list[Run]:
    """So many more runs of a task, each as it has just ended."""
    ended: list[Run] = []
    for name, event in client.stream("/events", timeout_seconds=60):
        if name == "RunFinished":
            run = client.run(event["run_id"])
            if run["task_name"] == task and run["status"] == "succeeded":
                ended.append(run)
                if len(ended) == count:
                    break
    return ended


@contextlib.contextmanager
def cluster_with(url: str, directory: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    with Cluster(directory, url, LEASES | environment) as cluster:
        yield cluster


def test_dispatchers_and_workers_whose_clocks_are_wrong_fire_and_lease_by_the_database(
    migrated_postgres_url: str, tmp_path: Path, clock: WallClock
) -> None:
    ahead, behind = clock, WallClock(tmp_path / "behind", hours=-1)
    ahead.set(hours=1)
    gate = tmp_path / "gate"
    gate.touch()
    with (
        cluster_with(migrated_postgres_url, tmp_path / "1", {}) as right,
        cluster_with(migrated_postgres_url, tmp_path / "2", ahead.environment()) as wrong,
        cluster_with(migrated_postgres_url, tmp_path / "3", behind.environment()) as late,
    ):
        server = right.api()
        dispatchers = [wrong.dispatcher().process, late.dispatcher().process]
        wrong.worker()
        with server.client() as client:
            in_half_an_hour = datetime.now(UTC) + HOUR / 2
            later = define(client, "later", schedule=f"@at {in_half_an_hour.isoformat()}")
            planned = client.call(
                "POST",
                f"/tasks/{later['id']}/trigger",
                body={"run_at": in_half_an_hour.isoformat()},
            )
            define(client, "looks", command="date +%s")
            waits = f"echo up; while [ -e {gate} ]; do sleep 0.1; done"
            define(client, "stays", command=waits)
            ticks = define(
                client, "ticks", schedule="@every 1s", overlap="allow",
                misfire={"policy": "run_all", "grace_seconds": 60},
            )  # fmt: skip
            stays = client.trigger("stays")
            first_line(client, stays)
            seen = [clock_of_tasks(client)]
            fired = wait_for_runs(client, "ticks", 4)
            ahead.set(hours=-1)  # it jumps back by two
            behind.set(hours=1)
            seen.append(clock_of_tasks(client))
            fired += wait_for_runs(client, "ticks", 4)
            gate.unlink()
            final = client.wait(stays["id"], timeout_seconds=60)
            client.call("POST", "/tasks/name:ticks/pause")
            span = {
                "from": ticks["created_at"],
                "to": client.call("GET", "/tasks/name:ticks")["updated_at"],
            }
            ledger = client.call("GET", f"/tasks/{ticks['id']}/ledger", params=span)
            still = client.run(planned["id"])
            why = client.call("GET", f"/runs/{planned['id']}/explain")
            of_later = list(client.items(f"/tasks/{later['id']}/runs"))
            workers = list(client.items("/workers"))
        goes_by_another = [goes_by_another_clock(each) for each in [*dispatchers, server]]

    assert goes_by_another == [True, True, False]
    assert seen == [1, -1]
    assert (final["status"], final["attempt"]) == ("succeeded", 1)
    assert (still["status"], why["may_start"], why["blocking"]) == ("pending", False, "not_before")
    assert [run["id"] for run in of_later] == [planned["id"]]
    assert (ledger["skipped"], ledger["missed"]) == (0, 0)
    assert ledger["due"] == ledger["ran"] >= 8
    for run in fired:
        assert run["scheduled_for"] <= run["started_at"] <= run["completed_at"]
        assert hours_off(datetime.fromisoformat(run["started_at"])) == 0
    assert [worker["status"] for worker in workers] == ["active"]


def test_nothing_fires_twice_and_what_runs_goes_on_when_the_machines_clock_jumps_back(
    tmp_path: Path, clock: WallClock
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    environment = LEASES | clock.environment()
    with Server(tmp_path / "data", environment=environment) as server, server.client() as client:
        define(client, "looks", command="date +%s")
        define(client, "stays", command=f"echo up; while [ -e {gate} ]; do sleep 0.1; done")
        soon = {"grace_seconds": 1}  # else all of the last minute would run
        define(client, "ticks", schedule="@every 1s", overlap="allow", misfire=soon)
        stays = client.trigger("stays")
        first_line(client, stays)
        wait_for_runs(client, "ticks", 3)
        next_run_at = client.call("GET", "/tasks/name:ticks")["next_run_at"]
        clock.set(hours=-1)
        seen = [clock_of_tasks(client) for _ in range(3)]
        meanwhile = define(client, "anew", schedule="@every 1s", overlap="allow")
        fired = wait_for_runs(client, "anew", 4)
        gate.unlink()
        final = client.wait(stays["id"], timeout_seconds=60)
        times = [run["scheduled_for"] for run in client.items("/tasks/name:ticks/runs")]
        is_next = client.call("GET", "/tasks/name:ticks")["next_run_at"]

    assert seen == [-1] * 3
    assert (final["status"], final["attempt"]) == ("succeeded", 1)
    assert len(times) == len(set(times))
    assert next_run_at <= is_next  # it only grows
    assert all(meanwhile["created_at"] <= run["scheduled_for"] for run in fired)
    assert all(hours_off(datetime.fromisoformat(run["scheduled_for"])) == -1 for run in fired)


def test_what_is_due_fires_by_its_policy_and_no_two_trees_live_when_the_machines_clock_jumps_ahead(
    tmp_path: Path, clock: WallClock
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    gate.touch()
    environment = LEASES | clock.environment()
    stays = (
        f'echo "begins $TIDEMILL_ATTEMPT" >> {notes}; echo up; '
        f'while [ -e {gate} ]; do sleep 0.1; done; echo "ends $TIDEMILL_ATTEMPT" >> {notes}'
    )
    with Server(tmp_path / "data", environment=environment) as server, server.client() as client:
        define(client, "looks", command="date +%s")
        define(client, "stays", command=stays)
        for policy in ("run_once", "skip"):
            misfire = {"policy": policy, "grace_seconds": 30}
            define(client, policy, schedule="@every 700s", misfire=misfire)
        long = client.trigger("stays")
        first_line(client, long)
        soon = {"grace_seconds": 1}  # else all of the last minute would run
        define(client, "ticks", schedule="@every 1s", overlap="allow", misfire=soon)
        wait_for_runs(client, "ticks", 2)
        clock.set(hours=1)
        seen = clock_of_tasks(client)
        wait_for_runs(client, "ticks", 4)
        gate.unlink()
        final = client.wait(long["id"], timeout_seconds=60)
        rows = {
            policy: [
                (run["status"], run["missed_count"])
                for run in client.items(f"/tasks/name:{policy}/runs", sort="id")
            ]
            for policy in ("run_once", "skip")
        }
        attempts = client.call("GET", f"/runs/{long['id']}/attempts")["items"]

    assert seen == 1
    assert [final["status"], *(each["outcome"] for each in attempts)] == ["succeeded"] * 2
    assert notes.read_text().splitlines() == ["begins 1", "ends 1"]
    # Five fire times of each lie within the hour, the latest of them a minute ago and more.
    assert sorted(rows["run_once"]) == [("skipped", 0)] * 4 + [("succeeded", 4)]
    assert rows["skip"] == [("skipped", 0)] * 5
