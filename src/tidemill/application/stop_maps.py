"""An item failed for good: where its task wants it so, those that have not started never do."""

from collections.abc import Sequence

import msgspec

from tidemill.domain.run_status import FAILURES, RunStatus
from tidemill.domain.task_run import RunHead, TaskRun, cancelled
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic

_REASON = "map_stopped"


def stop_maps(transaction: Transaction, ended: Sequence[RunHead]) -> list[TaskRun]:
    """Cancel what has not started beside those of these runs that failed as items of a map with
    `on_failure: stop`; those that were cancelled, as they are then."""
    failed = [run for run in ended if run.flow_run_id is not None and run.status in FAILURES]
    if not failed:
        return []
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in failed})
    stopping = []
    for run in failed:
        said = definitions[run.task_id, run.task_version].map_over
        if said is not None and said.on_failure == "stop":
            stopping.append(run.id)
    idle = transaction.items_not_started(stopping) if stopping else []
    if not idle:
        return []
    transaction.change_runs([cancelled(run, transaction.now, _REASON) for run in idle])
    transaction.announce(Topic.EVENTS)
    if any(run.status is RunStatus.DISPATCHED for run in idle):
        transaction.announce(Topic.READY)  # there is room for others in their place
    return [msgspec.structs.replace(run, status=RunStatus.CANCELLED) for run in idle]
