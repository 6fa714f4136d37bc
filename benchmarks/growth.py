"""What the same work costs where little is stored, and where much is."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.arena import Arena, arena
from benchmarks.calls import call_again_and_again, request
from benchmarks.servers import Servers
from benchmarks.stored import fill_history, fill_tasks
from tidemill.client.client import Client

_FAR_AWAY = "0 0 1 1 *"  # a time that stored tasks do not reach meanwhile
_LEAD_SECONDS = 8.0  # from the first definition to the first fire time
_PREFETCH_SECONDS = 2.0


def growth_tasks(
    sizes: str = "1000;10000;100000", due_each_second: int = 100, seconds: float = 15
) -> dict[str, Any]:
    """CPU for each firing, of so many each second, beside so many stored tasks.

    The stored ones are active and have a schedule, but are not due. `sizes` has semicolons between.
    """
    counts = [int(each) for each in sizes.split(";")]
    return _grown("tasks", counts, lambda count: _beside_tasks(count, due_each_second, seconds))


def growth_history(
    sizes: str = "10000;100000;1000000", runs: int = 2_000, calls: int = 300
) -> dict[str, Any]:
    """CPU and wall time of a run, and of reads, beside so many runs that have ended."""
    counts = [int(each) for each in sizes.split(";")]
    return _grown("runs", counts, lambda count: _beside_history(count, runs, calls))


def _grown(
    what: str, counts: list[int], measure: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    found = {count: measure(count) for count in counts}
    first, last = found[counts[0]], found[counts[-1]]
    return {
        f"stored_{what}": {str(count): each for count, each in found.items()},
        "growth": _ratios(first, last),
    }


def _ratios(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """How many times the first the last is, wherever there is a cost."""
    ratios: dict[str, Any] = {}
    for key, value in first.items():
        if isinstance(value, Mapping):
            ratios[key] = _ratios(value, last[key])
        elif value and key != "fill_seconds":
            ratios[key] = round(last[key] / value, 2)
    return ratios


def _beside_tasks(count: int, due_each_second: int, seconds: float) -> dict[str, Any]:
    with _arena() as found, found.client() as client:
        far_away = {
            "name": "far-away", "executor": "python", "command": "effects:nothing_async",
            "schedule": _FAR_AWAY,
        }  # fmt: skip
        client.call("POST", "/tasks", body=far_away)
        began = time.monotonic()
        assert found.database_url is not None
        fill_tasks(found.database_url, "far-away", count - 1)
        filled = time.monotonic() - began
        begin = _fire(client, due_each_second, seconds)
        time.sleep(max(begin.timestamp() - _PREFETCH_SECONDS - time.time(), 0))
        before = found.cpu()
        time.sleep(max(begin.timestamp() + seconds + 1 - time.time(), 0))
        after = found.cpu()
        runs = list(client.items("/runs"))
    late = [_seconds(run["started_at"]) - _seconds(run["scheduled_for"]) for run in runs]
    spent = {
        name: 1e6 * (after[name] - before[name]) / len(runs) for name in before if name != "caller"
    }
    return {
        "fill_seconds": round(filled, 1),
        "cpu_us_per_firing": {"all": round(sum(spent.values())), **_rounded(spent)},
        "late_ms": round(1e3 * sum(late) / len(late), 1),
    }


def _fire(client: Client, due_each_second: int, seconds: float) -> datetime:
    """Define tasks that fire each second, spread over it; when the first does."""
    begin = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_SECONDS)
    end = begin + timedelta(seconds=seconds)
    tasks = []
    for number in range(due_each_second):
        start = begin + timedelta(milliseconds=1_000 * number // due_each_second)
        tasks.append({
            "name": f"due-{number}", "executor": "python", "command": "effects:nothing_async",
            "schedule": "@every 1s", "start_at": start.isoformat(), "end_at": end.isoformat(),
            "overlap": "allow",
        })  # fmt: skip
    client.call("POST", "/apply", body={"tasks": tasks})
    return begin


def _beside_history(count: int, runs: int, calls: int) -> dict[str, Any]:
    with _arena() as found:
        with found.client() as client:
            example = client.trigger("nothing")
            client.wait(example["id"], timeout_seconds=60)
            task_id = example["task_id"]
        began = time.monotonic()
        assert found.database_url is not None
        fill_history(found.database_url, example["id"], count - 1)
        filled = time.monotonic() - began
        found.bulk(runs // 4)  # warms up
        load = found.bulk(runs)
        spent = {name: 1e6 * each / runs for name, each in load["cpu_seconds"].items()}
        reads = {
            "get": f"/runs/{example['id'] + count // 2}",
            "list": "/runs?limit=100",
            "list_of_a_task": f"/runs?limit=100&task_id={task_id}",
            "list_of_a_status": "/runs?limit=100&status=succeeded",
            "list_deep": f"/runs?limit=100&cursor={_deep_cursor(found)}",
        }
        return {
            "fill_seconds": round(filled, 1),
            "us_per_run": round(1e6 * load["seconds"] / runs),
            "cpu_us_per_run": {"all": round(sum(spent.values())), **_rounded(spent)},
            **{name: _read(found, path, calls) for name, path in reads.items()},
        }


def _deep_cursor(found: Arena) -> str:
    """Of a page behind five thousand others, as a caller has it who went there."""
    with found.client() as client:
        page = client.call("GET", "/runs", params={"limit": 1_000})
        for _ in range(4):
            page = client.call(
                "GET", "/runs", params={"limit": 1_000, "cursor": page["next_cursor"]}
            )
    return str(page["next_cursor"])


def _read(found: Arena, path: str, calls: int) -> dict[str, float]:
    asked = request("GET", f"/api/v1{path}")
    call_again_and_again(found.server.url, asked, 1, calls // 10, 200)
    before, began = found.cpu(), time.monotonic()
    call_again_and_again(found.server.url, asked, 1, calls, 200)
    seconds, after = time.monotonic() - began, found.cpu()
    return {
        "us": round(1e6 * seconds / calls),
        "postgres_cpu_us": round(1e6 * (after["postgres"] - before["postgres"]) / calls),
    }


@contextmanager
def _arena() -> Iterator[Arena]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Servers() as servers,
        arena("postgres", servers, Path(directory)) as found,
    ):
        yield found


def _rounded(values: Mapping[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in values.items()}


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
