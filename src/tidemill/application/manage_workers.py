"""Workers come, say what they can do, and go."""

from collections.abc import Collection
from typing import Any

import msgspec

from tidemill.application.recover_lost_runs import recover_stranded_runs
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict, NotFound
from tidemill.foundation.store import Reads, Transaction
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
    """It is given nothing more, and what was meant for it goes to others; what it runs goes on."""
    return _leave(transaction, worker_id, WorkerStatus.DRAINING)


def sign_off_worker(transaction: Transaction, worker_id: str) -> Worker:
    """It is gone and holds nothing; raises Conflict while it holds runs."""
    if transaction.runs_held_by([worker_id]):
        raise Conflict(f"worker {worker_id} still holds runs; drain it first")
    return _leave(transaction, worker_id, WorkerStatus.OFFLINE)


def _leave(transaction: Transaction, worker_id: str, status: WorkerStatus) -> Worker:
    worker = _known(transaction, worker_id)
    changed = msgspec.structs.replace(worker, status=status, last_heartbeat=transaction.now)
    transaction.save_worker(changed)
    recover_stranded_runs(transaction)
    transaction.announce(Topic.LEASES, Topic.READY)
    return changed


def note_heartbeat(transaction: Transaction, worker_id: str, current_task_count: int) -> Worker:
    """It is there; raises Conflict where it was given up and must register again."""
    worker = _known(transaction, worker_id)
    if not worker.is_here:
        raise Conflict(f"worker {worker_id} is {worker.status}; register again")
    changed = msgspec.structs.replace(
        worker, last_heartbeat=transaction.now, current_task_count=current_task_count
    )
    transaction.save_worker(changed)
    return changed


def change_worker(transaction: Transaction, worker_id: str, changes: dict[str, Any]) -> Worker:
    """Change what it offers: labels, max_concurrent_tasks, metadata."""
    changed = msgspec.structs.replace(_known(transaction, worker_id), **changes)
    transaction.save_worker(changed)
    recover_stranded_runs(transaction)
    transaction.announce(Topic.READY)
    return changed


def remove_worker(transaction: Transaction, worker_id: str) -> None:
    """Forget one that is gone; raises Conflict while it is there or holds runs."""
    worker = _known(transaction, worker_id)
    is_gone = worker.status in {WorkerStatus.OFFLINE, WorkerStatus.LOST}
    if not is_gone or transaction.runs_held_by([worker_id]):
        raise Conflict(f"worker {worker_id} is {worker.status}; drain and stop it first")
    transaction.delete_worker(worker_id)


def workers_gone(reads: Reads, worker_ids: Collection[str]) -> set[str]:
    """Those of these that are gone for good: whoever comes back does so under another id."""
    return set(worker_ids) - {worker.id for worker in reads.workers_alive()}


def _known(transaction: Transaction, worker_id: str) -> Worker:
    worker = transaction.worker(worker_id)
    if worker is None:
        raise NotFound("worker", worker_id)
    return worker
