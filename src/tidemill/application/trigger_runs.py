"""Somebody asks for runs now, or at an instant of their choosing."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec

from tidemill.application.answer_once import KeyedCall, answer_each_once
from tidemill.application.note_ready import note_made
from tidemill.application.open_flow_runs import insert_roots
from tidemill.domain.new_run import new_run
from tidemill.domain.task import Priority, Task, parse_task_key
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import Conflict, InvalidInput, KeyReused, NotFound, Problem
from tidemill.foundation.store import AnswerKey, Reads, StoredAnswer, Transaction

_SCOPE = "trigger"  # of the idempotency keys


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
    pointer: str = ""  # to where it stands in what was sent


def trigger_runs(transaction: Transaction, requests: Sequence[TriggerRequest]) -> list[TaskRun]:
    """Create a run for each request, all or none; the runs in the order of the requests.

    A request whose idempotency key was seen for this task within 24 hours, or stands at an earlier
    item, gives the run of then. Raises KeyReused where the key came with another request, and
    InvalidInput naming each request whose task does not exist.
    """
    return _trigger(transaction, requests, _tasks_of(transaction, requests))


class TriggerCall(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's request. Its task is an id in all that the caller sees (`namespace`, or any
    where that is None), or `name:NAME` in `namespace`.

    `told` makes the answer (JSON-compatible) of the run; `once` is the call's idempotency key,
    where it has one.
    """

    namespace: str | None
    request: TriggerRequest
    told: Callable[[TaskRun], Any]
    once: KeyedCall | None = None


def trigger_for_each(transaction: Transaction, calls: Sequence[TriggerCall]) -> list[Any]:
    """Carry out the calls of several callers, all or none; the answer to each of them.

    Raises NotFound where a task does not exist, and what `trigger_runs` and `answer_once` raise.
    """

    def act(places: Sequence[int]) -> list[Any]:
        asked = [calls[place] for place in places]
        tasks = _each_task_of(transaction, asked)
        requests = [_about(each.request, task) for each, task in zip(asked, tasks, strict=True)]
        runs = _trigger(transaction, requests, tasks)
        return [each.told(run) for each, run in zip(asked, runs, strict=True)]

    return answer_each_once(transaction, [call.once for call in calls], act)


def _each_task_of(transaction: Transaction, calls: Sequence[TriggerCall]) -> list[Task]:
    names = [(call.namespace, call.request.task) for call in calls]
    found = find_tasks(transaction, names)
    for name in names:
        if name not in found:
            raise NotFound("task", name[1])
    return [found[name] for name in names]


def _about(request: TriggerRequest, task: Task) -> TriggerRequest:
    namespace = task.definition.namespace
    return msgspec.structs.replace(request, task=task.id, namespace=namespace)


def _trigger(
    transaction: Transaction, requests: Sequence[TriggerRequest], tasks: Sequence[Task]
) -> list[TaskRun]:
    """Create the runs of tasks that the caller has found and locked."""
    keys = [_key_of(request, task) for request, task in zip(requests, tasks, strict=True)]
    given = {AnswerKey(_SCOPE, key) for key in keys if key is not None}
    stored = transaction.stored_answers(given) if given else {}
    known = {name.key: answer for name, answer in stored.items()}
    hashes = {key: answer.request_hash for key, answer in known.items()}
    first_with: dict[str, int] = {}
    fresh: dict[int, TaskRun] = {}
    for index, (request, task, key) in enumerate(zip(requests, tasks, keys, strict=True)):
        if key is not None:
            if hashes.setdefault(key, _hash_of(request)) != _hash_of(request):
                raise _reused(request)
            if key in known or first_with.setdefault(key, index) != index:
                continue
        fresh[index] = _run_of(transaction, task, request)
    by_id = {task.id: task for task in tasks}
    made = insert_roots(transaction, by_id, list(fresh.values()))
    created = dict(zip(fresh, made, strict=True))
    transaction.note_last_run({run.task_id for run in created.values()})
    _remember(transaction, {key: (requests[n], created[n]) for key, n in first_with.items()})
    note_made(transaction, made)
    of_then = _runs_of_then(transaction, known)
    of_key = {key: created[index] for key, index in first_with.items()} | of_then
    return [
        created[index] if key is None or index in created else of_key[key]
        for index, key in enumerate(keys)
    ]


def _tasks_of(transaction: Transaction, requests: Sequence[TriggerRequest]) -> list[Task]:
    found = find_tasks(transaction, [(each.namespace, each.task) for each in requests])
    tasks = [found.get((each.namespace, each.task)) for each in requests]
    problems = [
        Problem(f"{request.pointer}/task", f"no task {request.task}")
        for request, task in zip(requests, tasks, strict=True)
        if task is None
    ]
    if problems:
        raise InvalidInput("some of the tasks named do not exist", problems)
    return [task for task in tasks if task is not None]


# A namespace, or None for an id in any of them, and an id or `name:NAME` in it.
TaskName = tuple[str | None, int | str]


def find_tasks(transaction: Transaction, names: Collection[TaskName]) -> Mapping[TaskName, Task]:
    """Those of the tasks named that there are, locked."""
    keys = {(namespace, said): parse_task_key(said) for namespace, said in names}
    ids: set[int] = set()
    in_namespace: dict[str, set[str]] = {}
    for (namespace, _), key in keys.items():
        if isinstance(key, int):
            ids.add(key)
        elif key is not None and namespace is not None:
            in_namespace.setdefault(namespace, set()).add(key)
    found: dict[tuple[str | None, int | str | None], Task] = {}
    for task in transaction.tasks(ids).values() if ids else ():
        found[task.definition.namespace, task.id] = found[None, task.id] = task
    for namespace, wanted in in_namespace.items():
        for name, task in transaction.tasks_named(namespace, wanted).items():
            found[namespace, name] = task
    return {name: found[name[0], key] for name, key in keys.items() if (name[0], key) in found}


def find_task(reads: Reads, namespace: str | None, key: int | str) -> Task | None:
    """The task with this id in the namespace (None: in any), or with this `name:NAME` there."""
    wanted = parse_task_key(key)
    if wanted is None:
        return None
    if isinstance(wanted, int):
        return reads.task(wanted, namespace)
    return None if namespace is None else reads.task_named(namespace, wanted)


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


def _key_of(request: TriggerRequest, task: Task) -> str | None:
    """A key belongs to its task."""
    if request.idempotency_key is None:
        return None
    return f"{task.id}:{request.idempotency_key}"


def _reused(request: TriggerRequest) -> KeyReused:
    pointer = f"{request.pointer}/idempotency_key"
    message = "this idempotency key was used for another request on the same task"
    return KeyReused(message, [Problem(pointer, "each request needs a key of its own")])


def _remember(transaction: Transaction, made: Mapping[str, tuple[TriggerRequest, TaskRun]]) -> None:
    if made:
        transaction.store_answers(
            [
                StoredAnswer(_SCOPE, key, _hash_of(request), run.id, transaction.now)
                for key, (request, run) in made.items()
            ]
        )


def _runs_of_then(
    transaction: Transaction, known: Mapping[str, StoredAnswer]
) -> dict[str, TaskRun]:
    if not known:
        return {}
    runs = transaction.runs({answer.answer for answer in known.values()})
    if any(answer.answer not in runs for answer in known.values()):
        raise Conflict("the run that this idempotency key made is pruned by now; use another key")
    return {key: runs[answer.answer] for key, answer in known.items()}


def _hash_of(request: TriggerRequest) -> str:
    meant = msgspec.structs.replace(request, traceparent=None, task=0, pointer="")
    return hashlib.sha256(msgspec.json.encode(meant, order="deterministic")).hexdigest()
