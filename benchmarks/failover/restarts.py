"""Every role is restarted in turn under load: who notices?"""

from collections import Counter
from typing import Any

from benchmarks.account import attempts_of, lateness_of, let_schedules_end, settle
from benchmarks.failover.callers import Callers
from benchmarks.failover.stage import on_each, stage

_LONG_SECONDS = 3.0  # runs that are under way when their worker is told to end
_SETTLES_WITHIN_SECONDS = 120.0
_ROLES = ("api", "dispatcher", "worker")


def rolling_restart(queue: str | None = None, rounds: int = 2) -> dict[str, Any]:
    """SIGTERM to every process in turn, two of each role; wanted: no failed call, no lost attempt.

    A call has failed when one API and then the other did not answer it.
    """
    return on_each(_rolling_restart, queue, rounds=rounds)


def _rolling_restart(queue: str, rounds: int) -> dict[str, Any]:
    with stage(queue, apis=2, dispatchers=2) as cluster:
        schedules = cluster.fire()
        with cluster.client() as client:
            for name, seconds in (("quick", 0.0), ("long", _LONG_SECONDS)):
                file = str(cluster.directory / name)
                client.call("POST", "/tasks", body={
                    "name": name, "executor": "python", "command": "effects:hold",
                    "arguments": {"file": file, "seconds": seconds},
                })  # fmt: skip
        with Callers(cluster.servers, ("quick", "long")) as callers:
            for _ in range(rounds):
                for role in _ROLES:
                    for member in cluster.members(role):
                        member.process.stop()
                        member.process.start()
        with cluster.client() as client:
            let_schedules_end(client, schedules, _SETTLES_WITHIN_SECONDS)
            settle(client, _SETTLES_WITHIN_SECONDS)
            runs = list(client.items("/runs", sort="id"))
            again = attempts_of(client, [run for run in runs if run["attempt"] > 1])
    outcomes = Counter(each["outcome"] for found in again.values() for each in found)
    return {
        "restarts": rounds * len(cluster.cluster.members),
        **callers.count,
        "failures": callers.failures,
        "runs": len(runs),
        "attempts": sum(run["attempt"] for run in runs),
        "attempts_lost": outcomes["lost"],
        "attempts_handed_back": outcomes["handed_back"],
        "promises_broken": len(set(callers.promised.values()) - {run["id"] for run in runs}),
        "late_max_seconds": round(max(lateness_of(runs)), 2),
    }
