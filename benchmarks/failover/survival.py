"""Everything is killed at one instant, servers and processes: is all there that was promised?"""

import random
import time
from collections.abc import Callable, Sequence
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

_CALLERS = 6
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
            with Callers(cluster.servers, ("asked",), callers=_CALLERS) as callers:
                time.sleep(chance.uniform(3, 6))
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
    members = cluster.cluster.members
    _at_once([each.process.kill for each in members] + [each.kill for each in cluster.engines])


def _start_all(cluster: Stage) -> None:
    _at_once([engine.start for engine in cluster.engines])
    _at_once([member.process.start for member in cluster.cluster.members])


def _at_once(actions: Sequence[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(actions)) as threads:
        for done in [threads.submit(action) for action in actions]:
            done.result()
