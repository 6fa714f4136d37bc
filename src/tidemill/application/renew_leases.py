"""A worker says that it is there and that its runs go on."""

from collections.abc import Mapping
from datetime import timedelta

import msgspec

from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.store import Transaction


class Renewal(msgspec.Struct, frozen=True):
    """What a worker must know after a heartbeat."""

    is_known: bool  # False: it was given up as lost and must come back as a new incarnation
    statuses: dict[int, RunStatus]  # of the runs it still holds; the others it must stop


def renew_leases(
    transaction: Transaction, worker_id: str, fences: Mapping[int, int], lease: timedelta
) -> Renewal:
    """Extend the leases held with these fences (run id → fence) and note the heartbeat."""
    worker = transaction.worker(worker_id)
    is_known = worker is not None and worker.status in {WorkerStatus.ACTIVE, WorkerStatus.DRAINING}
    if worker is not None and is_known:
        transaction.save_worker(
            msgspec.structs.replace(
                worker, last_heartbeat=transaction.now, current_task_count=len(fences)
            )
        )
    statuses = (
        transaction.renew_leases(worker_id, fences, transaction.now + lease) if fences else {}
    )
    return Renewal(is_known, statuses)
