"""Graphs of tasks that fail by a coin, while processes are killed: did each run when it had to?

The tasks write down themselves when they began and ended, outside of the product. What should have
come of each flow run is told from its graph and the coins (`oracle.py`), and held against that
(`judge.py`): invariants 34 to 37.
"""

import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.account import against_fire_times
from benchmarks.flow_graphs.graphs import Graph, random_graph
from benchmarks.flow_graphs.judge import DEFECTS, judge, read_effects
from benchmarks.flow_graphs.kills import kill_one_every
from benchmarks.flow_graphs.knots import Knots, in_cycles, upstream_of
from benchmarks.flow_graphs.load import Load
from benchmarks.processes import cpu_of_machine
from benchmarks.tasks.coins import fails
from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster
from tidemill.testing.services import Postgres

_TASKS = Path(__file__).parent.parent / "tasks"
_FEW = 6  # tasks of the smallest graph
_SETTLES_WITHIN_SECONDS = 600.0
_SETTINGS = {
    "TIDEMILL_WORKER__PYTHON_PATHS": f'["{_TASKS}"]',
    "TIDEMILL_WORKER__LEASE_SECONDS": "5",
    "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
    "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
}


def flow_graphs(
    seconds: float = 300,
    seed: int | None = None,
    *,
    graphs: int = 4,
    size: int = 50,
    failing: float = 0.3,
    kill_every_seconds: float = 10,
    fire_every_seconds: float = 10,
    apis: int = 2,
    dispatchers: int = 2,
    workers: int = 3,
) -> dict[str, Any]:
    """Random graphs of so many tasks, a share of them `failing`; every defect has to be 0.

    One graph of a few tasks is beside them, so that there are flow runs that succeed.
    """
    seed = random.randrange(2**32) if seed is None else seed
    chance = random.Random(seed)
    sizes = [size] * graphs + [_FEW]
    shapes = [random_graph(chance, f"graph{number}", each) for number, each in enumerate(sizes)]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres())
        cluster = stack.enter_context(Cluster(directory, postgres.url, _SETTINGS))
        servers = [cluster.api() for _ in range(apis)]
        for _ in range(dispatchers):
            cluster.dispatcher()
        for _ in range(workers):
            cluster.worker()
        effects_file = directory / "effects"
        told = {"file": str(effects_file), "seed": seed, "share": failing}
        load = Load(servers, shapes, told, fire_every_seconds, chance)
        knots = Knots(servers, random.Random(chance.random()))
        load.begin(seconds)
        knots.begin()
        busy_percent = cpu_of_machine()
        killed = kill_one_every(kill_every_seconds, cluster, seconds, chance)
        cpu_percent = busy_percent()
        knots.finish()
        load.finish()
        with servers[0].client() as client:
            _settle(client, _SETTLES_WITHIN_SECONDS)
            flow_runs = [
                client.call("GET", f"/flow-runs/{each['id']}")
                for each in client.items("/flow-runs", sort="id")
            ]
            losses = _losses(client, flow_runs)
            tasks = list(client.items("/tasks"))
            roots = [
                run
                for task_id in load.due
                for run in client.items(f"/tasks/{task_id}/runs", trigger="schedule")
            ]
        effects = read_effects(effects_file)
    known = {each["id"] for each in flow_runs}
    defects: Counter[str] = Counter(dict.fromkeys(DEFECTS, 0))
    by_root = {graph.root: graph for graph in shapes}
    for flow_run in flow_runs:
        root = flow_run["runs"][0]["task_name"]
        coin = _coin_of(seed, failing, flow_run["id"])
        defects.update(
            judge(by_root[root], flow_run, losses, effects.get(flow_run["id"], ()), coin)
        )
    return {
        "seconds": seconds,
        "seed": seed,
        "cpus": os.cpu_count(),
        "cpu_percent": cpu_percent,
        "graphs": [_told(graph) for graph in shapes],
        "killed": dict(sorted(killed.items())),
        "flow_runs": dict(sorted(Counter(each["status"] for each in flow_runs).items())),
        "runs": dict(
            sorted(Counter(run["status"] for each in flow_runs for run in each["runs"]).items())
        ),
        "effects": sum(map(len, effects.values())),
        "attempts_lost": sum(losses.values()),
        "edits": dict(knots.count),
        "defects": {
            **defects,
            **against_fire_times(roots, load.due),
            "flow_runs_broken": len(set(load.promised.values()) - known),
            "flow_runs_strange": len(flow_runs)
            - len(set(load.promised.values()))
            - sum(map(len, load.due.values())),
            "effects_of_no_flow_run": len(effects.keys() - known),
            "cycles_seen": knots.count["cycles"],
            "cycles_stored": len(in_cycles(upstream_of(tasks))),
        },
    }


def _coin_of(seed: int, share: float, flow_run_id: str) -> Any:
    return lambda task, item: fails(seed, share, flow_run_id, task, item)


def _settle(client: Client, within_seconds: float) -> None:
    """Return once every flow run has ended, or so much time has passed."""
    until = time.monotonic() + within_seconds
    for each in client.items("/flow-runs", sort="id"):
        path = f"/flow-runs/{each['id']}"
        with contextlib.suppress(TimeoutError):
            while unfinished := [
                run for run in client.call("GET", path)["runs"] if run["completed_at"] is None
            ]:  # a mapped run becomes several meanwhile
                client.wait(unfinished[-1]["id"], timeout_seconds=until - time.monotonic())


def _losses(client: Client, flow_runs: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """How many attempts of each run were lost with their worker, or handed back by it."""
    return {
        run["id"]: sum(
            each["outcome"] in {"lost", "handed_back"}
            for each in client.call("GET", f"/runs/{run['id']}/attempts")["items"]
        )
        for flow_run in flow_runs
        for run in flow_run["runs"]
        if run["attempt"] > 1
    }


def _told(graph: Graph) -> dict[str, int]:
    """What a graph is like."""
    return {
        "tasks": len(graph.nodes),
        "edges": sum(len(node.upstream) for node in graph.nodes),
        "mapped": sum(node.map_over is not None for node in graph.nodes),
        "expressions": sum(not isinstance(node.rule, str) for node in graph.nodes),
    }
