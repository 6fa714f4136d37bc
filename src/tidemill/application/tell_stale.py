"""An old fence tried to write: nothing was changed by it, and the run's log says so."""

from collections.abc import Iterable

from tidemill.domain.events import EventType
from tidemill.domain.task_run import annotate
from tidemill.foundation.store import Transaction


def tell_stale(transaction: Transaction, stale: Iterable[tuple[int, int]]) -> None:
    """One event for each run of these, which come with the fences that were used."""
    fences: dict[int, list[int]] = {}
    for run_id, fence in stale:
        fences.setdefault(run_id, []).append(fence)
    runs = transaction.runs(fences) if fences else {}
    transaction.change_runs(
        [
            annotate(
                run,
                transaction.now,
                EventType.STALE_WRITE_REFUSED,
                {"fences": fences[run.id], "held": run.fence},
            )
            for run in runs.values()
        ]
    )
