"""Somebody asks for runs now, or at an instant of their choosing."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec

from tidemill.domain.new_run import new_run
from tidemill.domain.task import Priority, Task
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import Conflict, InvalidInput, NotFound, Problem
from tidemill.foundation.store import Reads, StoredAnswer, Transaction
from tidemill.foundation.wakeups import Topic


class TriggerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One wish for a run. `task` is an id, or `name:NAME` within `namespace`."""

    task: int | str
    namespace: str = "default"
    parameters: dict[str, Any] = {}
    priority: Priority | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    idempotency_key: str | None = None
    trigger: Trigger = Trigger.MANUAL
    traceparent: str | None = None


def trigger_runs(transaction: Transaction, requests: Sequence[TriggerRequest]) -> list[TaskRun]:
    """Create a run for each request, all or none; the runs in the order of the requests.

    A request whose idempotency key was seen for this task within 24 hours gives the run of then;
    the same key with another request raises Conflict. Raises InvalidInput naming the item where
    a task does not exist.
    """
    tasks = _tasks_of(transaction, requests)
    answered: dict[int, int] = {}
    fresh: list[tuple[int, TaskRun]] = []
    seen_here: dict[tuple[int, str], int] = {}
    for index, (request, task) in enumerate(zip(requests, tasks, strict=True)):
        if request.idempotency_key is not None:
            twin = seen_here.setdefault((task.id, request.idempotency_key), index)
            earlier = _earlier_run(transaction, task, request)
            if earlier is not None:
                answered[index] = earlier
                continue
            if twin != index:
                raise InvalidInput(
                    "one idempotency key stands at two items",
                    [Problem(f"/items/{index}/idempotency_key", f"as at item {twin}")],
                )
        fresh.append((index, _run_of(transaction, task, request)))
    stored = transaction.insert_runs([run for _, run in fresh])
    created = {index: run for (index, _), run in zip(fresh, stored, strict=True)}
    for index, run in created.items():
        _remember(transaction, requests[index], run)
    transaction.announce(Topic.READY, Topic.EVENTS)
    earlier_runs = transaction.runs(set(answered.values())) if answered else {}
    return [
        created[index] if index in created else earlier_runs[answered[index]]
        for index in range(len(requests))
    ]


def _tasks_of(transaction: Transaction, requests: Sequence[TriggerRequest]) -> list[Task]:
    by_key: dict[tuple[str, int | str], Task | None] = {}
    tasks, problems = [], []
    for index, request in enumerate(requests):
        key = (request.namespace, request.task)
        if key not in by_key:
            by_key[key] = find_task(transaction, request.namespace, request.task)
        task = by_key[key]
        if task is None:
            problems.append(Problem(f"/items/{index}/task", f"no task {request.task}"))
        else:
            tasks.append(task)
    if problems and len(requests) == 1:
        raise NotFound("task", requests[0].task)
    if problems:
        raise InvalidInput("some items name tasks that do not exist", problems)
    return tasks


def find_task(reads: Reads, namespace: str, key: int | str) -> Task | None:
    """The task with this id, or with this `name:NAME`."""
    if isinstance(key, int):
        return reads.task(key, namespace)
    if key.startswith("name:"):
        return reads.task_named(namespace, key.removeprefix("name:"))
    return reads.task(int(key), namespace) if key.isdecimal() else None


def _run_of(transaction: Transaction, task: Task, request: TriggerRequest) -> TaskRun:
    now = transaction.now
    return new_run(
        task,
        request.trigger,
        f"{request.trigger}:{uuid4().hex}",
        now,
        now,
        not_before=max(request.run_at, now) if request.run_at else now,
        parameters=request.parameters,
        priority=request.priority,
        timeout_seconds=request.timeout_seconds,
        traceparent=request.traceparent,
    )


def _earlier_run(transaction: Transaction, task: Task, request: TriggerRequest) -> int | None:
    assert request.idempotency_key is not None
    answer = transaction.stored_answer(_scope(task.id), request.idempotency_key)
    if answer is None:
        return None
    if answer.request_hash != _hash_of(request):
        raise Conflict("this idempotency key was used for another request on the same task")
    run_id: int = answer.answer
    return run_id


def _remember(transaction: Transaction, request: TriggerRequest, run: TaskRun) -> None:
    if request.idempotency_key is not None:
        transaction.store_answer(
            StoredAnswer(
                _scope(run.task_id),
                request.idempotency_key,
                _hash_of(request),
                run.id,
                transaction.now,
            )
        )


def _scope(task_id: int) -> str:
    return f"trigger:{task_id}"


def _hash_of(request: TriggerRequest) -> str:
    meant = msgspec.structs.replace(request, traceparent=None, task=0)
    return hashlib.sha256(msgspec.json.encode(meant, order="deterministic")).hexdigest()
