"""Values for tests: everything that is not said is what a user would get by saying nothing."""

from datetime import datetime
from typing import Any

from tidemill.domain.task import Task, TaskDefinition, TaskStatus
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.foundation.executor import Execution
from tidemill.testing.clock import START


def definition(name: str = "a-task", **fields: Any) -> TaskDefinition:
    """A definition of a shell task."""
    given: dict[str, Any] = {"executor": "shell", "command": "true", **fields}
    given.setdefault("task_type", given["executor"])
    return TaskDefinition(name=name, **given)


def task(
    id: int = 1,
    *,
    at: datetime = START,
    status: TaskStatus = TaskStatus.ACTIVE,
    next_run_at: datetime | None = None,
    **fields: Any,
) -> Task:
    """A stored task, defined at `at`."""
    return Task(
        id=id,
        version=1,
        status=status,
        definition=definition(**fields),
        anchor_at=at,
        next_run_at=next_run_at,
        created_at=at,
        updated_at=at,
    )


def worker(id: str = "worker-1", *, at: datetime = START, **fields: Any) -> Worker:
    """A worker that serves the default queue."""
    given: dict[str, Any] = {
        "name": id,
        "hostname": "host",
        "task_types": ["http", "python", "shell"],
        "queues": ["default"],
        "max_concurrent_tasks": 4,
        "status": WorkerStatus.ACTIVE,
        "last_heartbeat": at,
        "registered_at": at,
        **fields,
    }
    return Worker(id=id, **given)


def execution(command: str, arguments: Any = None, **fields: Any) -> Execution:
    """The first attempt of a run, as its executor sees it."""
    given: dict[str, Any] = {
        "run_id": 11,
        "task_id": 7,
        "task_name": "a-task",
        "namespace": "default",
        "attempt": 1,
        "fence": 1,
        "parameters": {},
        "scheduled_for": START,
        **fields,
    }
    return Execution(command=command, arguments={} if arguments is None else arguments, **given)
