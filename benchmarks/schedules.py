"""Many cron tasks that are due in the same second: how late does each start?"""

import math
import time
from typing import Any

from benchmarks.arena import Tidemill
from benchmarks.contest import Contender, Running, compete
from benchmarks.figures import percentile
from benchmarks.peers.loads import peers_named
from benchmarks.throughput import queues_named

_MINUTE = 60
_LEAD_SECONDS = 10.0
_DEFINE_SECONDS = 0.01  # for each task, at most: some peers wait for a commit of each


def schedules(
    queue: str = "postgres",
    tasks: int = 10_000,
    times: int = 1,
    workers: int = 2,
    patience_seconds: float = 60.0,
    peers: str = "",
    peer_tasks: int = 10_000,
) -> dict[str, Any]:
    """Seconds from the due time, which is a whole minute, to the start of each task.

    What has not started within `patience_seconds` is not waited for. `queue` and `peers` name one,
    several with semicolons between, or `all`; peers have so many tasks, but not more than
    `peer_tasks`.
    """

    def carry_out(contender: Contender, running: Running) -> dict[str, Any]:
        count = contender.most_runs
        due = _whole_minute_after(time.time() + _LEAD_SECONDS + count * _DEFINE_SECONDS)
        late = running.carry_out(
            "schedules", tasks=count, due=due, patience_seconds=patience_seconds
        )["late"]
        return {
            "tasks": count,
            "started": len(late),
            **({name: round(value, 4) for name, value in _told(late).items()} if late else {}),
        }

    ours = [Tidemill(name, workers, tasks) for name in queues_named(queue)]
    others = [
        peer._replace(most_runs=min(tasks, peer_tasks)) for peer in peers_named(peers, "schedules")
    ]
    return {"workers": workers} | compete([*ours, *others], carry_out, times)


def _whole_minute_after(instant: float) -> int:
    return math.ceil(instant / _MINUTE) * _MINUTE


def _told(late: list[float]) -> dict[str, float]:
    return {
        "first_seconds": min(late),
        "p50_seconds": percentile(late, 0.5),
        "p99_seconds": percentile(late, 0.99),
        "last_seconds": max(late),
    }
