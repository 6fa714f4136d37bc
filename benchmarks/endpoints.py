"""Reads and writes of the API, beside a bare endpoint of the same framework on the same rows."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.calls import call_again_and_again, request
from benchmarks.contest import summary
from benchmarks.processes import cpu_seconds
from benchmarks.servers import Servers
from tidemill.testing.cluster import Cluster

_AT_ONCE = 1_000  # triggers in one call, at most
_WARM_UP_CALLS = 200
_TASK = {"name": "nothing", "executor": "python", "command": "effects:nothing_async"}


class Call(NamedTuple):
    """The same call of both, and how the answer begins."""

    method: str
    path: str
    expected: int
    body: bytes = b""


_CALLS = {
    "get_a_run": Call("GET", "/runs/1", 200),
    "list_100_runs": Call("GET", "/runs?limit=100", 200),
    "trigger": Call("POST", "/tasks/{task}/trigger", 202, b'{"parameters":{}}'),
}


class Side(NamedTuple):
    """One of the two that are compared."""

    url: str
    base: str
    task: str
    pid: int


def endpoints(
    calls: int = 3_000, callers: int = 16, times: int = 3, runs: int = 5_000
) -> dict[str, Any]:
    """Calls a second of both, in turn, and the share that the API reaches; CPU for each call.

    Nothing dispatches or works meanwhile; so many runs are there before.
    """
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in _CALLS}
    with _sides(runs) as sides:
        for number in range(times + 1):
            for name, call in _CALLS.items():
                count = calls if number else _WARM_UP_CALLS
                found = {side: _one(where, call, callers, count) for side, where in sides.items()}
                if number:
                    rounds[name].append(_compared(found))
    return {
        "calls": calls,
        "callers": callers,
        "runs": runs,
        **{name: summary(found) | {"rounds": found} for name, found in rounds.items()},
    }


def _compared(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    ours, bare = found["tidemill"], found["bare"]
    return {
        "share": round(ours["calls_per_second"] / bare["calls_per_second"], 3),
        **{
            side: {name: round(value) for name, value in told.items()}
            for side, told in found.items()
        },
    }


def _one(side: Side, call: Call, callers: int, count: int) -> dict[str, float]:
    asked = request(call.method, side.base + call.path.format(task=side.task), call.body)
    cpu, began = cpu_seconds(side.pid), time.monotonic()
    call_again_and_again(side.url, asked, callers, count, call.expected)
    seconds = time.monotonic() - began
    return {
        "calls_per_second": count / seconds,
        "cpu_us_per_call": 1e6 * (cpu_seconds(side.pid) - cpu) / count,
    }


@contextmanager
def _sides(runs: int) -> Iterator[dict[str, Side]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers() as servers,
        servers.fresh("postgres") as database_url,
        Cluster(Path(directory), database_url) as cluster,
    ):
        api = cluster.api()
        with api.client() as client:
            client.call("POST", "/tasks", body=_TASK)
            for begin in range(0, runs, _AT_ONCE):
                items = [{"task": "name:nothing"}] * min(_AT_ONCE, runs - begin)
                client.call("POST", "/runs", body={"items": items})
        with _bare(database_url) as bare:
            yield {
                "tidemill": Side(api.url, "/api/v1", "name:nothing", api.pid),
                "bare": Side(bare.url, "", "nothing", bare.pid),
            }


class _Bare(NamedTuple):
    url: str
    pid: int


@contextmanager
def _bare(database_url: str) -> Iterator[_Bare]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_endpoint", database_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield _Bare(process.stdout.readline().strip(), process.pid)
        process.stdin.close()
