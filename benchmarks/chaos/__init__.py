"""A cluster whose parts die, stand still and lose the network, and an account of what came of it.

The tasks write down themselves that they started; fire times are computed here. Both are held
against what the API tells once everything has ended.
"""

import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.account import (
    Attempts,
    Run,
    against_fire_times,
    against_promises,
    against_starts,
    attempts_of,
    every_second,
    let_schedules_end,
    read_starts,
    settle,
    stale_writes,
)
from benchmarks.chaos.faults import LEASE_SECONDS, Faults
from benchmarks.chaos.holds import limits_broken, overlaps, read_holds
from benchmarks.chaos.lateness import lateness_by_fault, told
from benchmarks.chaos.load import LIMIT, Load
from benchmarks.chaos.report import write_section
from benchmarks.processes import contained, cpu_of_machine
from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster
from tidemill.testing.services import Postgres, RabbitMq, Redis

_TASKS = Path(__file__).parent.parent / "tasks"

_SETTLES_WITHIN_SECONDS = 180.0
_CALM_SECONDS = 20.0  # before the first fault: what lateness is compared with
_BROKERS = {"redis": Redis, "rabbitmq": RabbitMq}


def chaos_postgres(**options: Any) -> dict[str, Any]:
    """The messages go through the database."""
    return chaos("postgres", **options)


def chaos_redis(**options: Any) -> dict[str, Any]:
    """The messages go through Redis Streams."""
    return chaos("redis", **options)


def chaos_rabbitmq(**options: Any) -> dict[str, Any]:
    """The messages go through RabbitMQ."""
    return chaos("rabbitmq", **options)


def chaos(
    queue: str = "postgres",
    *,
    seconds: float = 600,
    seed: int | None = None,
    scheduled: int = 18,
    dispatchers: int = 3,
    workers: int = 4,
    report: str | None = None,
) -> dict[str, Any]:
    """Two APIs, dispatchers and workers under mixed faults for so long; every defect has to be 0.

    The database is PostgreSQL; `queue` is what carries the messages: it, redis or rabbitmq.
    `report` is a Markdown file whose section of this queue is written anew.
    """
    seed = random.randrange(2**32) if seed is None else seed
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres())
        broker = stack.enter_context(_BROKERS[queue]()) if queue in _BROKERS else None
        environment = {
            "TIDEMILL_WORKER__PYTHON_PATHS": f'["{_TASKS}"]',
            "TIDEMILL_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
            "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
            "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
            "TIDEMILL_WORKER__MAX_CONCURRENT_TASKS": "16",
        }
        queue_url = broker.url if broker else None
        with Cluster(
            directory, postgres.url, environment, queue_url=queue_url, linked=True
        ) as cluster:
            servers = [cluster.api() for _ in range(2)]
            for _ in range(dispatchers):
                cluster.dispatcher()
            for _ in range(workers):
                cluster.worker()
            load = Load(directory, servers, scheduled)
            load.begin()
            busy_percent = cpu_of_machine()
            faults = Faults(cluster, postgres, broker, random.Random(seed))
            calm = min(_CALM_SECONDS, seconds / 5)
            time.sleep(calm)
            faults.go_on(seconds - calm)
            cpu_percent = busy_percent()
            load.finish()
            with servers[0].client() as client:
                until = let_schedules_end(client, load.schedules, _SETTLES_WITHIN_SECONDS)
                settle(client, _SETTLES_WITHIN_SECONDS)
                runs = list(client.items("/runs", sort="id"))
                attempts = attempts_of(client, runs)
                refused = _stale_writes_refused(client, attempts)
            homes = [member.data_dir for member in cluster.members]
        orphans = sum(len(contained(home)) for home in homes)
        starts = read_starts(load.starts_file)
        holds, longs = read_holds(load.holds_file), read_holds(load.longs_file)
    due = {task: every_second(start, until) for task, start in load.schedules.items()}
    fired = [run for run in runs if run["trigger"] == "schedule"]
    late = lateness_by_fault(fired, faults.done)
    found = {
        "queue": queue,
        "seconds": seconds,
        "seed": seed,
        "cpus": os.cpu_count(),
        "cpu_percent": cpu_percent,
        "firings_due": sum(map(len, due.values())),
        "runs": len(runs),
        "promised": len(load.promised),
        "attempts": sum(map(len, attempts.values())),
        **_outcomes(attempts),
        "poison": sum(run["reason"] == "poison" for run in runs),
        "stale_writes_refused": refused,
        "held": len(holds),
        "faults": dict(sorted(Counter(fault.kind for fault in faults.done).items())),
        "defects": {
            **against_fire_times(fired, due),
            "firings_skipped": sum(run["status"] == "skipped" for run in fired),
            **against_starts(
                runs, attempts, starts, noted={run["id"] for run in runs if load.notes(run)}
            ),
            "unexpected_ends": sum(not _may_end_so(run) for run in runs),
            "stale_writes_accepted": stale_writes(runs, attempts),
            "limits_broken": limits_broken(holds, attempts, LIMIT),
            "attempts_overlapping": overlaps([*holds, *longs], attempts, faults.done),
            **against_promises(runs, load.promised),
            "orphans": orphans,
        },
        "late": told(late),
    }
    if report is not None:
        write_section(Path(report), found)
    return found


def _outcomes(attempts: Attempts) -> dict[str, int]:
    """Attempts that were not the last, by how they closed."""
    outcomes = Counter(each["outcome"] for found in attempts.values() for each in found)
    return {f"attempts_{outcome}": outcomes[outcome] for outcome in ("lost", "handed_back")}


def _stale_writes_refused(client: Client, attempts: Attempts) -> int:
    """Whether those who were not to write tried at all; only what was lost can be written late."""
    return sum(
        event["type"] == "StaleWriteRefused"
        for run_id, found in attempts.items()
        if any(each["outcome"] == "lost" for each in found)
        for event in client.items(f"/runs/{run_id}/events")
    )


def _may_end_so(run: Run) -> bool:
    """Nothing of this load fails by itself; three lost workers end a run."""
    is_well: bool = run["status"] == "succeeded" or run["reason"] == "poison"
    return is_well
