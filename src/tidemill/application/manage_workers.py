"""Workers come, say what they can do, and go."""

import msgspec

from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict, NotFound
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def register_worker(transaction: Transaction, worker: Worker) -> Worker:
    """Let a new incarnation in; its times are the database's."""
    now = transaction.now
    stored = msgspec.structs.replace(
        worker, status=WorkerStatus.ACTIVE, registered_at=now, last_heartbeat=now
    )
    transaction.save_worker(stored)
    transaction.announce(Topic.READY)
    return stored


def drain_worker(transaction: Transaction, worker_id: str) -> Worker:
    """It is given nothing more; what it runs goes on."""
    return _to(transaction, worker_id, WorkerStatus.DRAINING)


def sign_off_worker(transaction: Transaction, worker_id: str) -> Worker:
    """It is gone and holds nothing; raises Conflict while it holds runs."""
    if transaction.runs_held_by([worker_id]):
        raise Conflict(f"worker {worker_id} still holds runs; drain it first")
    return _to(transaction, worker_id, WorkerStatus.OFFLINE)


def _to(transaction: Transaction, worker_id: str, status: WorkerStatus) -> Worker:
    worker = transaction.worker(worker_id)
    if worker is None:
        raise NotFound("worker", worker_id)
    changed = msgspec.structs.replace(worker, status=status, last_heartbeat=transaction.now)
    transaction.save_worker(changed)
    transaction.announce(Topic.LEASES, Topic.READY)
    return changed
