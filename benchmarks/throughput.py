"""How many runs a second: no-op tasks, asked for through the API, to the last record."""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.failover.stage import TASKS, stage
from benchmarks.processes import cpu_seconds
from tidemill.client.client import Client
from tidemill.testing.server import Server

_AT_ONCE = 1_000  # triggers in one call, at most
_LOOKS_EACH_SECONDS = 0.25
_PATIENCE_SECONDS = 300.0
_WARM_UP_RUNS = 2_000
_NOTHING = {"name": "nothing", "executor": "python", "command": "effects:nothing_async"}


class Arena:
    """A running Tidemill: a client of it for each caller, and the processes it is made of."""

    def __init__(self, server: Server, pids: Mapping[str, int]) -> None:
        self.client: Callable[[], Client] = server.client
        self.pids = pids

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time until now, by process."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}


def throughput(
    queue: str = "postgres", runs: int = 20_000, times: int = 3, workers: int = 1
) -> dict[str, Any]:
    """Runs a second, triggered by the thousand."""
    with _arena(queue, workers) as arena:
        rounds = [_round(arena, _by_the_thousand, runs) for _ in range(times)]
    return {"queue": queue, "runs": runs, "rounds": rounds}


def _round(arena: Arena, ask: Callable[[Arena, int], None], runs: int) -> dict[str, Any]:
    with arena.client() as client:
        before, begun = arena.cpu(), time.time()
        ask(arena, runs)
        asked = time.time()
        _wait_for_the_end(client)
        after = arena.cpu()
        done = list(itertools.islice(client.items("/runs"), runs))
    assert {run["status"] for run in done} == {"succeeded"}
    last = max(datetime.fromisoformat(run["completed_at"]) for run in done)
    seconds = last.timestamp() - begun
    return {
        "runs_per_second": round(runs / seconds),
        "seconds": round(seconds, 3),
        "asked_seconds": round(asked - begun, 3),
        "cpu_us_per_run": {
            name: round((after[name] - before[name]) / runs * 1e6) for name in before
        },
    }


def _by_the_thousand(arena: Arena, runs: int) -> None:
    items = [{"task": "name:nothing"}] * _AT_ONCE
    with arena.client() as client:
        for _ in range(runs // _AT_ONCE):
            client.call("POST", "/runs", body={"items": items})


def _wait_for_the_end(client: Client) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while client.call("GET", "/system/stats")["unfinished"]:
        if time.monotonic() > deadline:
            raise RuntimeError("runs stay unfinished")
        time.sleep(_LOOKS_EACH_SECONDS)


@contextmanager
def _arena(queue: str, workers: int) -> Iterator[Arena]:
    with contextlib.ExitStack() as stack:
        if queue == "sqlite":
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = {"TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]'}
            server = stack.enter_context(Server(directory / "data", environment=settings))
            arena = Arena(server, {"up": server.pid})
        else:
            cluster = stack.enter_context(stage(queue, dispatchers=1, workers=workers))
            members = {
                f"{member.role} {number}": member.process.pid
                for number, member in enumerate(cluster.cluster.members)
            }
            engines = {type(each).__name__.lower(): each.pids[0] for each in cluster.engines}
            arena = Arena(cluster.servers[0], members | engines)
        with arena.client() as client:
            client.call("POST", "/tasks", body=_NOTHING)
        _round(arena, _by_the_thousand, _WARM_UP_RUNS)
        yield arena
