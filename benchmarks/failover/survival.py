"""Everything is killed at one instant, servers and processes: is all there that was promised?"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.account import (
    against_fire_times,
    against_promises,
    every_second,
    let_schedules_end,
    settle,
)
from benchmarks.failover.callers import Callers
from benchmarks.failover.stage import Stage, on_each, stage

_SETTLES_WITHIN_SECONDS = 120.0


def everything_killed(queue: str | None = None, times: int = 4, seed: int = 1) -> dict[str, Any]:
    """SIGKILL of all processes, PostgreSQL and the broker; wanted: every 2xx survives."""
    return on_each(_everything_killed, queue, times=times, seed=seed)


def _everything_killed(queue: str, times: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    with stage(queue, apis=2, dispatchers=2) as cluster:
        schedules = cluster.fire()
        with cluster.client() as client:
            arguments = {"file": str(cluster.directory / "asked")}
            client.call("POST", "/tasks", body={
                "name": "asked", "executor": "python", "command": "effects:note",
                "arguments": arguments,
            })  # fmt: skip
        promised: dict[str, int] = {}
        for number in range(times):
            with Callers(cluster.servers, ("asked",)) as callers:
                time.sleep(chance.uniform(2, 5))
                _kill_all(cluster)
            promised |= {f"{number}-{key}": run for key, run in callers.promised.items()}
            _start_all(cluster)
        with cluster.client() as client:
            until = let_schedules_end(client, schedules, _SETTLES_WITHIN_SECONDS)
            settle(client, _SETTLES_WITHIN_SECONDS)
            runs = list(client.items("/runs", sort="id"))
    due = {task: every_second(start, until) for task, start in schedules.items()}
    return {
        "times": times,
        "promised": len(promised),
        "firings_due": sum(map(len, due.values())),
        "defects": {
            "promises_broken": against_promises(runs, promised)["promises_broken"],
            **against_fire_times([run for run in runs if run["trigger"] == "schedule"], due),
            "unfinished": sum(run["completed_at"] is None for run in runs),
        },
    }


def _kill_all(cluster: Stage) -> None:
    kills = [member.process.kill for member in cluster.cluster.members]
    kills += [server.kill for server in cluster.engines]
    with ThreadPoolExecutor(len(kills)) as threads:
        for killed in [threads.submit(kill) for kill in kills]:
            killed.result()


def _start_all(cluster: Stage) -> None:
    for server in cluster.engines:
        server.start()
    for member in cluster.cluster.members:
        member.process.start()
