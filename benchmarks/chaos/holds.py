"""What runs held and for how long, as they wrote it down: more at once than may be?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.account import Attempt, Attempts
from benchmarks.chaos.faults import Done


class Hold(NamedTuple):
    """What one attempt held, in seconds since the epoch; `ended_at` is None where it was killed."""

    run_id: int
    attempt: int
    began_at: float
    ended_at: float | None


def read_holds(file: Path) -> list[Hold]:
    """All that was begun, in that order."""
    holds: dict[tuple[int, int], Hold] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        word, _, run_id, attempt, at = line.split()
        key = int(run_id), int(attempt)
        if word == "begin":
            holds[key] = Hold(*key, float(at), None)
        else:
            holds[key] = holds[key]._replace(ended_at=float(at))
    return list(holds.values())


def limits_broken(holds: Sequence[Hold], attempts: Attempts, limit: int) -> int:
    """How often one more began than may; what was lost counts until its successor began."""
    changes = []
    for hold in holds:
        if _attempt_of(hold, attempts)["outcome"] != "lost":
            changes.append((hold.began_at, 1))
            if hold.ended_at is not None:
                changes.append((hold.ended_at, -1))
    holders, broken = 0, 0
    for _, change in sorted(changes):
        holders += change
        broken += change > 0 and holders > limit
    return broken


def overlaps(holds: Sequence[Hold], attempts: Attempts, faults: Sequence[Done]) -> int:
    """How often an attempt began while the one before went on, whose worker was able to end it."""
    ends = {(hold.run_id, hold.attempt): hold for hold in holds}
    found = 0
    for hold in holds:
        before = ends.get((hold.run_id, hold.attempt - 1))
        if before is not None and before.ended_at is not None and before.ended_at > hold.began_at:
            found += not _worker_stood_still(before, attempts, faults)
    return found


def _worker_stood_still(hold: Hold, attempts: Attempts, faults: Sequence[Done]) -> bool:
    worker_id = _attempt_of(hold, attempts)["worker_id"]
    return any(
        fault.stood_still is not None
        and worker_id.startswith(f"{fault.stood_still}-")
        and fault.began_at < (hold.ended_at or fault.began_at)
        and fault.healed_at > hold.began_at
        for fault in faults
    )


def _attempt_of(hold: Hold, attempts: Attempts) -> Attempt:
    return attempts[hold.run_id][hold.attempt - 1]
