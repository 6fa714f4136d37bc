"""How many runs a second: no-op tasks, from the first call to the last record.

Three ways to ask for them: in bulk; one by one by many callers, each of whom awaits its call; one
by one by a single caller. What each process takes is told for each run.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.arena import QUEUES, Tidemill
from benchmarks.contest import Contender, Running, compete
from benchmarks.peers.loads import peers_named

_WARM_UP_SHARE = 10  # of a round
_LEAST_WARM_UP = 50
_WARM_UP_CALLS = 2  # of each caller, at least


def throughput(
    queue: str = "postgres",
    runs: int = 20_000,
    times: int = 3,
    workers: int = 1,
    peers: str = "",
    peer_runs: int = 10_000,
) -> dict[str, Any]:
    """Runs a second, triggered by the thousand.

    `queue` names one, several with semicolons between, or `all`; so does `peers`, each of which has
    as many runs as make a round of some seconds, but not more than `peer_runs`.
    """
    contenders = _contenders("bulk", queue, runs, workers, peers, peer_runs)
    return {"workers": workers} | compete(contenders, _round("bulk"), times)


def callers(
    queue: str = "postgres",
    runs: int = 10_000,
    times: int = 3,
    workers: int = 1,
    callers: int = 64,
    peers: str = "",
    peer_runs: int = 10_000,
) -> dict[str, Any]:
    """Runs a second, triggered one by one by so many callers at once."""
    contenders = _contenders("callers", queue, runs, workers, peers, peer_runs)
    carried_out = compete(contenders, _round("callers", callers=callers), times)
    return {"workers": workers, "callers": callers} | carried_out


def one_caller(
    queue: str = "postgres",
    runs: int = 3_000,
    times: int = 3,
    workers: int = 1,
    peers: str = "",
    peer_runs: int = 10_000,
) -> dict[str, Any]:
    """Runs a second, triggered one by one by one caller."""
    return callers(queue, runs, times, workers, 1, peers, peer_runs)


def queues_named(names: str) -> list[str]:
    """Of one, several with semicolons between, or all."""
    return list(QUEUES) if names == "all" else names.split(";")


def _contenders(
    kind: str, queue: str, runs: int, workers: int, peers: str, peer_runs: int
) -> list[Contender]:
    ours = [Tidemill(name, workers, runs) for name in queues_named(queue)]
    others = [
        peer._replace(most_runs=min(peer.most_runs, peer_runs)) for peer in peers_named(peers, kind)
    ]
    return [*ours, *others]


def _round(kind: str, **options: Any) -> Callable[[Contender, Running], dict[str, Any]]:
    least_warm_up = max(_LEAST_WARM_UP, _WARM_UP_CALLS * options.get("callers", 1))

    def carry_out(contender: Contender, running: Running) -> dict[str, Any]:
        runs = contender.most_runs
        running.carry_out(kind, runs=max(runs // _WARM_UP_SHARE, least_warm_up), **options)
        found = running.carry_out(kind, runs=runs, **options)
        each = {name: 1e6 * spent / runs for name, spent in found["cpu_seconds"].items()}
        return {
            "runs": runs,
            "runs_per_second": round(runs / found["seconds"]),
            "seconds": round(found["seconds"], 3),
            "asked_seconds": round(found["asked_seconds"], 3),
            "cpu_us_per_run": {
                "all": round(sum(each.values())),
                **{name: round(us) for name, us in each.items()},
            },
        }

    return carry_out
