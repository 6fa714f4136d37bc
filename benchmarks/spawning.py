"""Shell tasks that do nothing, beside what the machine itself can spawn."""

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.arena import Arena, Tidemill
from benchmarks.contest import Contender, Running, compete
from benchmarks.throughput import queues_named
from tidemill.client.client import Client

_PROGRAM = "/bin/true"
_THREADS = 8
_AT_ONCE = 1_000  # triggers in one call, at most
_WARM_UP_RUNS = 100
_TASK = {"name": "true", "executor": "shell", "command": "true"}


def spawning(
    queue: str = "sqlite", runs: int = 2_000, times: int = 3, workers: int = 1
) -> dict[str, Any]:
    """Runs a second of a shell task, and the share of the machine's own limit that this is.

    The limit is the best of what is measured beside each round: as many processes, spawned and
    waited for by `xargs`, by one loop, and by threads. `queue` names one, several with semicolons
    between, or `all`.
    """

    def carry_out(_: Contender, running: Running) -> dict[str, Any]:
        assert isinstance(running, Arena)
        limits = {f"{name}_per_second": measure(runs) for name, measure in _LIMITS.items()}
        with running.client() as client:
            client.call("POST", "/tasks", body=_TASK)
            running.load(lambda: _ask(client, _WARM_UP_RUNS), _WARM_UP_RUNS)
            found = running.load(lambda: _ask(client, runs), runs)
        rate = runs / found["seconds"]
        return {
            "runs_per_second": round(rate),
            **{name: round(limit) for name, limit in limits.items()},
            "share_of_best": round(rate / max(limits.values()), 3),
            "cpu_us_per_run": {
                name: round(1e6 * seconds / runs) for name, seconds in found["cpu_seconds"].items()
            },
        }

    ours = [Tidemill(name, workers, runs) for name in queues_named(queue)]
    return {"runs": runs, "workers": workers} | compete(ours, carry_out, times)


def _ask(client: Client, runs: int) -> None:
    for begin in range(0, runs, _AT_ONCE):
        items = [{"task": "name:true"}] * min(_AT_ONCE, runs - begin)
        client.call("POST", "/runs", body={"items": items})


def _by_one_loop(count: int) -> float:
    """Processes a second: one is spawned and waited for after the other, with nothing between."""

    def spawn() -> None:
        for _ in range(count):
            _spawn_bare()

    return count / _seconds(spawn)


def _by_threads(spawn: Callable[[], object], count: int) -> float:
    """Processes a second: so many threads spawn and wait at once."""

    def spawn_all() -> None:
        with ThreadPoolExecutor(_THREADS) as threads:
            for done in [threads.submit(spawn) for _ in range(count)]:
                done.result()

    return count / _seconds(spawn_all)


def _by_xargs(count: int) -> float:
    """Processes a second that a program in C keeps going, as many at once as there are threads."""
    command = ["xargs", f"--max-procs={_THREADS}", "--max-args=1", _PROGRAM]
    lines = "one\n" * count
    return count / _seconds(lambda: subprocess.run(command, input=lines, text=True, check=True))


def _spawn_bare() -> None:
    os.waitpid(os.posix_spawn(_PROGRAM, ["true"], os.environ), 0)


def _spawn_by_subprocess() -> None:
    subprocess.run([_PROGRAM], check=True)


def _seconds(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


_LIMITS: dict[str, Callable[[int], float]] = {
    "xargs": _by_xargs,
    "posix_spawn_in_one_loop": _by_one_loop,
    "posix_spawn_in_threads": lambda count: _by_threads(_spawn_bare, count),
    "subprocess_in_threads": lambda count: _by_threads(_spawn_by_subprocess, count),
}
