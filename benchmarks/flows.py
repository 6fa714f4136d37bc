"""Tasks that depend on tasks: what an edge costs, on PostgreSQL with everything durable."""

from datetime import datetime
from statistics import median
from typing import Any

from benchmarks.failover.stage import stage
from tidemill.client.client import Client

_WAIT_SECONDS = 120.0
_QUICK = {"executor": "python", "command": "effects:nothing"}


def chain(queue: str = "postgres", length: int = 100, times: int = 5) -> dict[str, Any]:
    """One task after the other; milliseconds from the end of one to the end of the next."""
    with stage(queue, dispatchers=1, workers=1) as cluster, cluster.client() as client:
        _create(client, "chain-0", [])
        for number in range(1, length + 1):
            _create(client, f"chain-{number}", [f"chain-{number - 1}"])
        took = [_seconds_of_one(client, "chain-0") for _ in range(times + 1)][1:]
    each = [seconds / length * 1_000 for seconds in took]
    return {
        "queue": queue,
        "edges": length,
        "median_ms_per_edge": round(median(each), 2),
        "ms_per_edge": [round(ms, 2) for ms in each],
    }


def fan(queue: str = "postgres", width: int = 200, times: int = 5) -> dict[str, Any]:
    """One task, many that wait for it, and one that waits for all of them; seconds in all."""
    with stage(queue, dispatchers=1, workers=1) as cluster, cluster.client() as client:
        _create(client, "split", [])
        middle = [f"part-{number}" for number in range(width)]
        for name in middle:
            _create(client, name, ["split"])
        _create(client, "join", middle)
        took = [_seconds_of_one(client, "split") for _ in range(times + 1)][1:]
    return {
        "queue": queue,
        "width": width,
        "median_seconds": round(median(took), 3),
        "seconds": [round(seconds, 3) for seconds in took],
    }


def _create(client: Client, name: str, upstream: list[str]) -> None:
    dependencies = [{"task": f"name:{each}"} for each in upstream]
    client.call("POST", "/tasks", body={"name": name, "dependencies": dependencies, **_QUICK})


def _seconds_of_one(client: Client, root: str) -> float:
    """From the end of the first run to the end of the last."""
    run = client.trigger(root)
    path = f"/flow-runs/{run['flow_run_id']}"
    last = client.call("GET", path)["runs"][-1]
    client.wait(last["id"], timeout_seconds=_WAIT_SECONDS)
    ends = [
        datetime.fromisoformat(each["completed_at"]) for each in client.call("GET", path)["runs"]
    ]
    return (max(ends) - min(ends)).total_seconds()
