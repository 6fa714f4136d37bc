"""Tasks that depend on tasks: what an edge costs, on PostgreSQL with everything durable."""

import time
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


def big_graph(queue: str = "postgres", tasks: int = 10_000) -> dict[str, Any]:
    """Layers of a hundred tasks, each with three upstream tasks; seconds of each call."""
    graph = [_task("root", [])]
    for number in range(tasks):
        above = (number // 100 - 1) * 100
        upstream = [f"g-{above + (number * 7 + each * 13) % 100}" for each in range(3)]
        graph.append(_task(f"g-{number}", upstream if number >= 100 else ["root"]))
    with stage(queue, dispatchers=0, workers=0) as cluster, cluster.client() as client:
        return {"queue": queue, "tasks": len(graph), **_seconds_of_calls(client, graph, "root")}


def long_chain(queue: str = "postgres", length: int = 100_000) -> dict[str, Any]:
    """One task after the other; seconds of each call."""
    chained = [_task("l-0", [])]
    chained += [_task(f"l-{number}", [f"l-{number - 1}"]) for number in range(1, length)]
    with stage(queue, dispatchers=0, workers=0) as cluster, cluster.client() as client:
        return {"queue": queue, "tasks": length, **_seconds_of_calls(client, chained, "l-0")}


def _seconds_of_calls(client: Client, tasks: list[dict[str, Any]], root: str) -> dict[str, float]:
    """Of accepting the tasks, accepting them again, opening a flow run, and cancelling it."""
    wish = {"tasks": tasks}
    begun = time.monotonic()
    client.call("POST", "/apply", body=wish)
    accepted = time.monotonic()
    client.call("POST", "/apply", body=wish)
    again = time.monotonic()
    run = client.trigger(root)
    opened = time.monotonic()
    shown = client.call("GET", f"/flow-runs/{run['flow_run_id']}")
    seen = time.monotonic()
    assert shown["total"] == len(tasks)
    client.call("POST", f"/flow-runs/{run['flow_run_id']}/cancel")
    return {
        "accepted_seconds": round(accepted - begun, 2),
        "again_seconds": round(again - accepted, 2),
        "opened_seconds": round(opened - again, 2),
        "shown_seconds": round(seen - opened, 2),
        "cancelled_seconds": round(time.monotonic() - seen, 2),
    }


def _task(name: str, upstream: list[str]) -> dict[str, Any]:
    dependencies = [{"task": f"name:{each}"} for each in upstream]
    return {"name": name, "dependencies": dependencies, **_QUICK}


def _create(client: Client, name: str, upstream: list[str]) -> None:
    client.call("POST", "/tasks", body=_task(name, upstream))


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
