"""Many schedules at once: is every firing accounted for, and how late does it start?"""

import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.effects import account, percentile, read_effects
from benchmarks.processes import cpu_seconds
from tidemill.client.client import Client
from tidemill.testing.server import Server

TASKS = Path(__file__).parent / "tasks"

_LEAD_SECONDS = 5.0  # from the last definition to the first fire time
_DEFINE_SECONDS = 0.008  # for each task, at most


def python_firings(seconds: float = 120, tasks: int = 1_000) -> dict[str, Any]:
    """So many trivial Python tasks, each every second."""
    return _steady(
        "python", lambda file: ("effects:note", {"file": str(file)}), seconds, tasks, period=1
    )


def shell_firings(seconds: float = 120, tasks: int = 200) -> dict[str, Any]:
    """So many trivial shell tasks, each every second."""
    line = 'echo "$TIDEMILL_TASK_NAME $TIDEMILL_SCHEDULED_FOR" >> '
    return _steady("shell", lambda file: (f"{line}{file}", {}), seconds, tasks, period=1)


def one_shots(tasks: int = 10_000) -> dict[str, Any]:
    """So many tasks at the same second: sync functions, and in another run async ones."""
    return {
        f"{kind}_{name}": figure
        for kind, function in (("sync", "note"), ("async", "note_async"))
        for name, figure in _at_one_second(f"effects:{function}", tasks).items()
    }


def _at_one_second(function: str, tasks: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        effects_file = Path(directory) / "effects"
        with _server(Path(directory)) as server, server.client() as client:
            at = datetime.now(UTC).replace(microsecond=0) + timedelta(
                seconds=5 + tasks * _DEFINE_SECONDS
            )
            for number in range(tasks):
                _define(
                    client, number, "python", function, {"file": str(effects_file)},
                    f"@at {at.isoformat()}", None,
                )  # fmt: skip
            if datetime.now(UTC) > at:
                raise RuntimeError("defining the tasks took longer than was planned for")
            _wait_until(at.timestamp() + 1)
            _wait_for(effects_file, tasks)
            _settle(client)
        effects = read_effects(effects_file)
    due = {(_name(number), at.timestamp()) for number in range(tasks)}
    late = [effect.started_at - effect.scheduled_for for effect in effects]
    return {
        **account(effects, due)._asdict(),
        "first_seconds": round(min(late), 3),
        "p50_seconds": round(percentile(late, 0.5), 3),
        "p99_seconds": round(percentile(late, 0.99), 3),
        "last_seconds": round(max(late), 3),
    }


def _steady(
    executor: str, command_of: Any, seconds: float, tasks: int, *, period: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        effects_file = Path(directory) / "effects"
        command, arguments = command_of(effects_file)
        with _server(Path(directory)) as server, server.client() as client:
            begin = datetime.now(UTC) + timedelta(seconds=_LEAD_SECONDS + tasks * _DEFINE_SECONDS)
            begin = begin.replace(microsecond=0)
            end = begin + timedelta(seconds=seconds)
            for number in range(tasks):
                # Spread over the period, as schedules made at different times are.
                start = begin + timedelta(seconds=period) * (number / tasks)
                start = start.replace(microsecond=start.microsecond // 1000 * 1000)
                _define(
                    client, number, executor, command, arguments, f"@every {period}s",
                    (start, end),
                )  # fmt: skip
            _wait_until(begin.timestamp())
            cpu = cpu_seconds(server.pid)
            _wait_until(end.timestamp())
            cpu = cpu_seconds(server.pid) - cpu
            _settle(client)
            runs = list(client.items("/runs", sort="id"))
        due = _due(begin, seconds, tasks, period)
        told = account_of_runs(runs, due)
        effects = effects_file.read_text().splitlines() if effects_file.exists() else []
    late = [
        _seconds(run["started_at"]) - _seconds(run["scheduled_for"])
        for run in runs
        if run["started_at"]
    ]
    return {
        **told,
        "effects": len(effects),
        "doubled_effects": len(effects) - len({" ".join(e.split()[:2]) for e in effects}),
        "statuses": sorted({run["status"] for run in runs}),
        "p50_ms": round(percentile(late, 0.5) * 1000, 1),
        "p99_ms": round(percentile(late, 0.99) * 1000, 1),
        "max_ms": round(max(late) * 1000, 1),
        "cpu_per_run_us": round(cpu / len(runs) * 1e6),
    }


def account_of_runs(runs: list[dict[str, Any]], due: set[tuple[str, float]]) -> dict[str, int]:
    """Due firings against the runs that the API tells of."""
    seen = [(run["task_name"], _seconds(run["scheduled_for"])) for run in runs]
    return {
        "due": len(due),
        "runs": len(runs),
        "missing": len(due - set(seen)),
        "doubled": len(seen) - len(set(seen)),
        "strange": len(set(seen) - due),
    }


def _due(begin: datetime, seconds: float, tasks: int, period: int) -> set[tuple[str, float]]:
    due = set()
    for number in range(tasks):
        start = begin + timedelta(seconds=period) * (number / tasks)
        start = start.replace(microsecond=start.microsecond // 1000 * 1000)
        at = start
        while at < begin + timedelta(seconds=seconds):
            due.add((_name(number), at.timestamp()))
            at += timedelta(seconds=period)
    return due


def _server(directory: Path) -> Server:
    return Server(directory / "data", environment={"TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]'})


def _define(
    client: Client,
    number: int,
    executor: str,
    command: str,
    arguments: Any,
    schedule: str,
    window: tuple[datetime, datetime] | None,
) -> None:
    body = {
        "name": _name(number),
        "executor": executor,
        "command": command,
        "arguments": arguments,
        "schedule": schedule,
        "overlap": "allow",
    }
    if window is not None:
        body |= {"start_at": window[0].isoformat(), "end_at": window[1].isoformat()}
    client.call("POST", "/tasks", body=body)


def _name(number: int) -> str:
    return f"task-{number}"


def _wait_until(timestamp: float) -> None:
    time.sleep(max(timestamp - time.time(), 0))


def _wait_for(effects_file: Path, lines: int) -> None:
    """Return once so many effects are there, without asking the server, which has enough to do."""
    deadline = time.monotonic() + 60
    while _lines_in(effects_file) < lines and time.monotonic() < deadline:
        time.sleep(0.2)


def _lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _settle(client: Client) -> None:
    """Return once nothing is unfinished."""
    deadline = time.monotonic() + 60
    while client.call("GET", "/system/stats")["unfinished"]:
        if time.monotonic() > deadline:
            raise RuntimeError("runs stay unfinished")
        time.sleep(0.2)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
