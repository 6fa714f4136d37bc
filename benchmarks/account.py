"""What the API tells of runs and attempts, held against fire times and against what tasks did.

The tasks write down themselves that they started (`tasks/effects.py`); fire times are computed by
whoever calls this. Every count that comes out of here is of a defect, and has to be zero.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tidemill.client.client import Client

_CLOSE_SECONDS = 0.002  # the API tells instants in milliseconds

Run = dict[str, Any]
Attempt = dict[str, Any]
Attempts = Mapping[int, Sequence[Attempt]]  # of each run that was not skipped

_LEAD_SECONDS = 20  # within which every task is told of the end, on a machine that is busy


class Start(NamedTuple):
    """One start of an attempt, as the task was told and wrote down."""

    run_id: int
    attempt: int
    fence: int


def let_schedules_end(client: Client, task_ids: Collection[int], within_seconds: float) -> float:
    """Give all schedules the same end, and return it once all have come to it."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_SECONDS)
    for task_id in task_ids:
        client.call("PATCH", f"/tasks/{task_id}", body={"end_at": end.isoformat()})
    # An event follows every firing, the last one included.
    for _ in client.stream("/events", timeout_seconds=within_seconds):
        if datetime.now(UTC) < end - timedelta(seconds=1):  # all fire every second
            continue
        tasks = [client.call("GET", f"/tasks/{task_id}") for task_id in task_ids]
        if all(task["next_run_at"] is None for task in tasks):
            break
    return end.timestamp()


def settle(client: Client, within_seconds: float) -> None:
    """Return once every run has ended; raises TimeoutError."""
    for run in client.items("/runs", sort="id"):
        if run["completed_at"] is None:
            client.wait(run["id"], timeout_seconds=within_seconds)


def attempts_of(client: Client, runs: Sequence[Run]) -> dict[int, list[Attempt]]:
    """The attempts of each run that was not skipped."""
    return {
        run["id"]: client.call("GET", f"/runs/{run['id']}/attempts")["items"]
        for run in runs
        if run["status"] != "skipped"
    }


def read_starts(file: Path) -> Counter[Start]:
    """How often each attempt wrote that it started."""
    starts: Counter[Start] = Counter()
    for line in file.read_text().splitlines():
        _, _, attempt, run_id, fence = line.split()
        starts[Start(int(run_id), int(attempt), int(fence))] += 1
    return starts


def every_second(start_at: float, until: float, since: float = 0) -> set[float]:
    """The fire times of `@every 1s` from its start on, but none before `since`; in seconds."""
    due = {round(start_at + second, 3) for second in range(int(until - start_at) + 2)}
    return {at for at in due if since <= at < until}


def against_fire_times(runs: Sequence[Run], due: Mapping[int, set[float]]) -> dict[str, int]:
    """Each fire time of these tasks has exactly one row, which starts no earlier."""
    rows = defaultdict(list)
    for run in runs:
        if run["task_id"] in due:
            rows[run["task_id"]].append(run)
    found: Counter[str] = Counter(missed=0, doubled=0, strange=0, early=0)
    for task_id, times in due.items():
        seen = Counter(round(seconds(row["scheduled_for"]), 3) for row in rows[task_id])
        found["missed"] += len(times - seen.keys())
        found["doubled"] += sum(count - 1 for count in seen.values())
        found["strange"] += len(seen.keys() - times)
        found["early"] += sum(late < -_CLOSE_SECONDS for late in lateness_of(rows[task_id]))
    return {f"firings_{name}": count for name, count in found.items()}


def against_starts(
    runs: Sequence[Run], attempts: Attempts, starts: Mapping[Start, int], noted: Collection[int]
) -> dict[str, int]:
    """Each attempt starts once, and another follows only where the one before was lost.

    `noted` are the runs whose tasks write down that they start.
    """
    known = {
        Start(run_id, each["attempt"], each["fence"]): each
        for run_id, found in attempts.items()
        for each in found
    }
    status = {run["id"]: run["status"] for run in runs}
    return {
        "unfinished": sum(run["completed_at"] is None for run in runs),
        "attempts_not_counted_up": sum(
            [each["attempt"] for each in found] != list(range(1, len(found) + 1))
            for found in attempts.values()
        ),
        "attempts_not_closed": sum(each["outcome"] is None for each in known.values()),
        "attempts_without_a_loss_before": sum(
            each["outcome"] not in {"lost", "handed_back"}
            for found in attempts.values()
            for each in found[:-1]
        ),
        "starts_without_attempt": sum(start not in known for start in starts),
        "attempts_started_twice": sum(count > 1 for count in starts.values()),
        "successes_without_start": sum(
            each["outcome"] == "succeeded" and start not in starts
            for start, each in known.items()
            if start.run_id in noted
        ),
        "starts_of_skipped": sum(status.get(start.run_id) == "skipped" for start in starts),
    }


def stale_writes(runs: Sequence[Run], attempts: Attempts) -> int:
    """How many runs have the result of an attempt that did not hold them any more.

    The tasks return the fence that they were told: the result has to be that of the last attempt,
    which succeeded.
    """
    accepted = 0
    for run in runs:
        if run["status"] == "succeeded":
            last = attempts[run["id"]][-1]
            accepted += last["outcome"] != "succeeded"
            accepted += run["result"] is not None and run["result"] != last["fence"]
    return accepted


def against_promises(runs: Sequence[Run], promised: Mapping[str, int]) -> dict[str, int]:
    """Every run that a 2xx named is there, and none was made by hand beside them."""
    asked = {run["id"] for run in runs if run["trigger"] == "manual"}
    return {
        "promises_broken": len(set(promised.values()) - asked),
        "runs_beyond_promises": len(asked - set(promised.values())),
    }


def lateness_of(runs: Sequence[Run]) -> list[float]:
    """Seconds from each fire time to the start of the last attempt, where there was one."""
    return [
        seconds(run["started_at"]) - seconds(run["scheduled_for"])
        for run in runs
        if run["started_at"] is not None
    ]


def seconds(instant: str) -> float:
    """An instant of the API since the epoch."""
    return datetime.fromisoformat(instant).timestamp()
