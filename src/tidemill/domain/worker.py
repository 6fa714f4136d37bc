"""A worker: what it can run and whether it is there."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from tidemill.domain.task import CALL, Lane


class WorkerStatus(StrEnum):
    """Whether a worker may be given runs."""

    REGISTERING = "registering"
    ACTIVE = "active"
    DRAINING = "draining"  # claims no more, finishes what runs
    OFFLINE = "offline"  # said goodbye
    LOST = "lost"  # stopped answering


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of a worker; one that returns under the same name gets a new id."""

    id: str
    name: str
    hostname: str
    ip_address: str | None = None
    port: int | None = None
    task_types: list[str] = []
    queues: list[str]
    labels: dict[str, str] = {}
    max_concurrent_tasks: int = 1
    current_task_count: int = 0
    status: WorkerStatus = WorkerStatus.ACTIVE
    last_heartbeat: datetime
    registered_at: datetime
    version: str = ""
    metadata: dict[str, Any] = {}

    @property
    def is_here(self) -> bool:
        """Whether it may still hold runs; one that is not must come back as a new incarnation."""
        return self.status in {WorkerStatus.ACTIVE, WorkerStatus.DRAINING}

    @property
    def works_on_database(self) -> bool:
        """Whether it reaches the database itself; one that goes through the API has an address."""
        return self.ip_address is None

    def serves(self, lane: Lane) -> bool:
        """Whether runs of `lane` can be taken by this worker."""
        return (
            lane.queue in self.queues
            and lane.task_type in self.task_types
            and lane.task_type != CALL  # whatever it says of itself: that is nobody's
            and lane.worker_id in (None, self.id)
            and all(self.labels.get(key) == value for key, value in lane.selector.items())
        )
