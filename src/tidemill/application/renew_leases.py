"""A worker says that it is there and that its runs go on."""

from collections.abc import Mapping
from datetime import timedelta

import msgspec

from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.control_plane import Renewal
from tidemill.foundation.store import Transaction


def renew_leases(
    transaction: Transaction, worker_id: str, fences: Mapping[int, int], lease: timedelta
) -> Renewal:
    """Extend the leases held with these fences (run id → fence) and note the heartbeat."""
    worker = transaction.worker(worker_id)
    is_known = worker is not None and worker.is_here
    if worker is not None and is_known:
        transaction.save_worker(
            msgspec.structs.replace(
                worker, last_heartbeat=transaction.now, current_task_count=len(fences)
            )
        )
    statuses = (
        transaction.renew_leases(worker_id, fences, transaction.now + lease) if fences else {}
    )
    may_claim = worker is not None and worker.status is WorkerStatus.ACTIVE
    return Renewal(is_known, statuses, may_claim)
