"""Many measured values, told by a few."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def ends(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """The middle, and both ends."""
    return {
        "median": round(median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def spread(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """The middle, both ends, and all of them."""
    return ends(values, digits) | {"all": [round(value, digits) for value in values]}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
