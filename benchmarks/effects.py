"""What tasks did, as they wrote it down themselves, held against what was due."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Effect(NamedTuple):
    """One start of one task: for which fire time, and when by the machine's clock; in seconds."""

    task: str
    scheduled_for: float
    started_at: float


class Account(NamedTuple):
    """Due firings against effects."""

    due: int
    missing: int
    doubled: int
    strange: int  # starts for a time that was not due


def read_effects(file: Path) -> list[Effect]:
    """Every start that was written down."""
    if not file.exists():
        return []
    effects = []
    for line in file.read_text().splitlines():
        task, scheduled_for, started_at = line.split()
        effects.append(Effect(task, float(scheduled_for), float(started_at)))
    return effects


def account(effects: list[Effect], due: set[tuple[str, float]]) -> Account:
    """Hold effects against the (task, fire time) pairs that were due."""
    starts = Counter((effect.task, effect.scheduled_for) for effect in effects)
    return Account(
        due=len(due),
        missing=len(due - starts.keys()),
        doubled=sum(count - 1 for key, count in starts.items() if key in due),
        strange=sum(count for key, count in starts.items() if key not in due),
    )


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
