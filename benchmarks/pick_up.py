"""How soon a run starts where little is to do: from the call to the first line of its task."""

from typing import Any

from benchmarks.arena import Tidemill
from benchmarks.contest import Contender, Running, compete
from benchmarks.figures import percentile
from benchmarks.peers.loads import peers_named
from benchmarks.throughput import queues_named

_WARM_UP_CALLS = 20


def pick_up(
    queue: str = "postgres;sqlite",
    calls: int = 200,
    every_seconds: float = 0.05,
    times: int = 1,
    peers: str = "",
) -> dict[str, Any]:
    """Milliseconds to the start of the task, of so many calls one after the other.

    Each is made so long after the answer to the one before. `queue` and `peers` name one, several
    with semicolons between, or `all`.
    """

    def carry_out(_: Contender, running: Running) -> dict[str, Any]:
        running.carry_out("pick_up", calls=_WARM_UP_CALLS, every_seconds=every_seconds)
        found = running.carry_out("pick_up", calls=calls, every_seconds=every_seconds)
        took = [1_000 * seconds for seconds in found["seconds"]]
        return {
            "p50_ms": round(percentile(took, 0.5), 2),
            "p99_ms": round(percentile(took, 0.99), 2),
            "lowest_ms": round(min(took), 2),
            "highest_ms": round(max(took), 2),
        }

    ours = [Tidemill(name, workers=1, most_runs=calls) for name in queues_named(queue)]
    told = {"calls": calls, "every_seconds": every_seconds}
    return told | compete([*ours, *peers_named(peers, "pick_up")], carry_out, times)
