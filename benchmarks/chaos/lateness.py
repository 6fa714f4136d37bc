"""How late firings start, and which fault they were due in."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.account import Run, lateness_of, seconds
from benchmarks.chaos.faults import Done
from benchmarks.effects import percentile

_ALL = "all"
_UNDISTURBED = "none"

_AFTER_SECONDS = 10.0  # of each fault, unless the next one begins before


class Lateness(NamedTuple):
    """Of all firings that were due in one kind of fault; in seconds."""

    fault: str
    times: int  # it was done
    longest: float  # from its begin until it was healed
    firings: int
    p50: float
    p99: float
    most: float


def lateness_by_fault(runs: Sequence[Run], faults: Sequence[Done]) -> list[Lateness]:
    """Of firings due during each kind of fault and in the seconds after it, until the next one.

    The first two are of all firings and of those that no fault was near.
    """
    begins = [fault.began_at for fault in faults[1:]] + [float("inf")]
    windows = [
        (fault.began_at, min(fault.healed_at + _AFTER_SECONDS, following), fault.kind)
        for fault, following in zip(faults, begins, strict=True)
    ]
    due_in = defaultdict(list)
    for run in runs:
        due_in[_kind_at(seconds(run["scheduled_for"]), windows)].append(run)
    done = defaultdict(list)
    for fault in faults:
        done[fault.kind].append(fault)
    return [
        _lateness(_ALL, faults, runs),
        _lateness(_UNDISTURBED, [], due_in.pop(_UNDISTURBED, [])),
        *(_lateness(kind, done[kind], due) for kind, due in sorted(due_in.items())),
    ]


def _lateness(kind: str, faults: Sequence[Done], due: Sequence[Run]) -> Lateness:
    longest = max((fault.healed_at - fault.began_at for fault in faults), default=0.0)
    late = lateness_of(due) or [0.0]
    spread = percentile(late, 0.5), percentile(late, 0.99), max(late)
    return Lateness(kind, len(faults), longest, len(due), *spread)


def _kind_at(instant: float, windows: Sequence[tuple[float, float, str]]) -> str:
    for begin, end, kind in windows:
        if begin <= instant < end:
            return kind
    return _UNDISTURBED


def told(late: Sequence[Lateness]) -> list[dict[str, Any]]:
    """As JSON tells it."""
    return [
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in each._asdict().items()
        }
        for each in late
    ]
