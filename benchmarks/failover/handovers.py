"""What somebody had taken, or a broker had, and lost: when does it start elsewhere?"""

import random
import time
from pathlib import Path
from typing import Any

import redis

from benchmarks.account import settle
from benchmarks.failover.stage import Stage, on_each, stage
from tidemill.client.client import Client
from tidemill.testing.services import Redis

_RUNS = 100  # at once
_HELD_SECONDS = 120.0  # longer than it takes to be found elsewhere
_SETTLES_WITHIN_SECONDS = 120.0
_SLOTS = 8
_WAITING = 60  # runs, of which so many are dispatched as the slots have use for


def worker_killed(
    queue: str | None = None, kills: int = 4, lease_seconds: float | None = None, seed: int = 1
) -> dict[str, Any]:
    """SIGKILL of one of two workers that run much; wanted: all elsewhere within lease + 3 s."""
    leases = [10.0, 5.0] if lease_seconds is None else [lease_seconds]
    return {
        f"lease_{lease:g}_seconds": on_each(
            _worker_killed, queue, kills=kills, lease_seconds=lease, seed=seed
        )
        for lease in leases
    }


def broker_wiped(queue: str | None = None, times: int = 4) -> dict[str, Any]:
    """The broker loses all it had; wanted: what was dispatched is claimed within 30 s."""
    return on_each(_broker_wiped, queue, ("redis", "rabbitmq"), times=times)


def _worker_killed(queue: str, kills: int, lease_seconds: float, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    lease = {"TIDEMILL_WORKER__LEASE_SECONDS": str(lease_seconds)}
    elsewhere, taken = [], 0
    with stage(queue, environment=lease) as cluster, cluster.client() as client:
        starts = cluster.directory / "starts"
        _define(client, "held", starts, _HELD_SECONDS)
        for number in range(kills):
            member = cluster.members("worker")[number % 2]
            run_ids = _ask(client, "held", _RUNS)
            _wait_until_begun(starts, {(run_id, 1) for run_id in run_ids})
            time.sleep(chance.uniform(0, 2))  # anywhere between two heartbeats
            held = _held_by(client, member.data_dir.name, run_ids)
            died_at = time.time()
            member.process.kill()
            begun = _wait_until_begun(starts, {(run_id, 2) for run_id in held})
            elsewhere += [begun[run_id, 2] - died_at for run_id in held]
            taken += len(held)
            client.call("POST", "/runs/bulk", body={"action": "cancel", "ids": run_ids})
            settle(client, _SETTLES_WITHIN_SECONDS)
            member.process.start()
    return {
        "kills": kills,
        "runs_taken_over": taken,
        "first_seconds": round(min(elsewhere), 2),
        "last_seconds": round(max(elsewhere), 2),
        "wanted_seconds": lease_seconds + 3,
    }


def _broker_wiped(queue: str, times: int) -> dict[str, Any]:
    slots = {"TIDEMILL_WORKER__MAX_CONCURRENT_TASKS": str(_SLOTS)}
    took, lost = [], 0
    with stage(queue, workers=1, environment=slots) as cluster, cluster.client() as client:
        starts = cluster.directory / "starts"
        _define(client, "short", starts, 1.0)
        for number in range(times):
            run_ids = _ask(client, "short", _WAITING)
            _wait_until_begun(starts, {(run_id, 1) for run_id in run_ids}, _SLOTS)
            dispatched = [run["id"] for run in client.items("/runs", status="dispatched")]
            gone_at = time.time()
            _wipe(cluster, quickly=number % 2 == 1)
            back_at = time.time()
            settle(client, _SETTLES_WITHIN_SECONDS)
            begun = _begun(starts)
            late = [begun[run_id, 1] for run_id in dispatched if begun[run_id, 1] > gone_at]
            lost += len(late)
            took += [at - back_at for at in late]
    return {
        "times": times,
        "dispatched_then": lost,
        "last_started_after_seconds": round(max(took), 2),
    }


def _wipe(cluster: Stage, *, quickly: bool) -> None:
    """Empty it: every second time Redis goes on meanwhile, which connections survive."""
    assert cluster.broker is not None
    if quickly and isinstance(cluster.broker, Redis):
        with redis.Redis.from_url(cluster.broker.url) as server:
            server.flushall()
    else:
        cluster.broker.wipe()


def _define(client: Client, name: str, file: Path, seconds: float) -> None:
    arguments = {"file": str(file), "seconds": seconds}
    client.call("POST", "/tasks", body={
        "name": name, "executor": "python", "command": "effects:hold_first", "arguments": arguments,
    })  # fmt: skip


def _ask(client: Client, task: str, count: int) -> list[int]:
    items = [{"task": f"name:{task}"}] * count
    asked = client.call("POST", "/runs", body={"items": items})
    run_ids: list[int] = asked["ids"]
    return run_ids


def _held_by(client: Client, worker: str, run_ids: list[int]) -> list[int]:
    return [
        run["id"]
        for run in client.items("/runs", status="running")
        if run["id"] in run_ids and run["worker_id"].startswith(f"{worker}-")
    ]


def _wait_until_begun(
    file: Path, attempts: set[tuple[int, int]], count: int | None = None
) -> dict[tuple[int, int], float]:
    """Return what has begun once these attempts have, or so many of them."""
    wanted = len(attempts) if count is None else count
    while len(attempts & (begun := _begun(file)).keys()) < wanted:
        time.sleep(0.05)
    return begun


def _begun(file: Path) -> dict[tuple[int, int], float]:
    """When each attempt of each run wrote that it began."""
    found = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        run_id, attempt, at = line.split()
        found[int(run_id), int(attempt)] = float(at)
    return found
