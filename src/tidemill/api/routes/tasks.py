"""Tasks: defined, changed, triggered, paused, made up for, and accounted for."""

import asyncio
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request
from starlette.responses import Response

from tidemill.api.answers import (
    Answer,
    Cursor,
    IdempotencyKey,
    Limit,
    Text,
    Traceparent,
    answered,
    carry_out,
    documented,
    json_answer,
    keyed_call,
    page_answer,
    page_request,
)
from tidemill.api.context import Context
from tidemill.api.definitions import definition_of, patched
from tidemill.api.permissions import Permission, Visible, requires, within
from tidemill.api.problems import BadRequest
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import (
    BackfillBody,
    BackfillOut,
    ExplanationOut,
    FireOut,
    Instant,
    LedgerOut,
    Listed,
    NoBody,
    RunOut,
    StatsOut,
    TaskBody,
    TaskOut,
    TriggerBody,
    VersionOut,
)
from tidemill.api.views import (
    explanation_view,
    fire_view,
    instant,
    ledger_view,
    run_view,
    stats_view,
    task_view,
    version_view,
)
from tidemill.application.backfill_task import backfill_task
from tidemill.application.define_task import create_task, delete_task, replace_task
from tidemill.application.pause_task import pause_task, resume_task
from tidemill.application.queries.explain import explain_firing
from tidemill.application.queries.ledger import ledger_of
from tidemill.application.queries.preview import preview_schedule
from tidemill.application.trigger_runs import TriggerCall, TriggerRequest, find_task
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Task, TaskStatus
from tidemill.domain.task_run import TaskRun, Trigger
from tidemill.errors import NotFound, Problem
from tidemill.foundation.listing import RUN_SORTS, TASK_SORTS, RunFilter, TaskFilter
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(prefix="/tasks", tags=["tasks"], route_class=JsonRoute)

TaskKey = Annotated[
    str,
    Path(
        pattern=r"^([0-9]{1,18}|name:[^/\x00]{1,200})$",
        description="an id, or `name:NAME`",
    ),
]
IfMatch = Annotated[
    str | None,
    Header(max_length=100, description="the ETag that the change is based on, as last read"),
]

_DAY = timedelta(days=1)
_MERGE_PATCH = {
    "requestBody": {"content": {"application/merge-patch+json": {"schema": {"type": "object"}}}}
}


class TaskScope(NamedTuple):
    """Where a task is looked for: an id in all that the caller sees, a name in one namespace."""

    visible: str | None
    namespace: str


async def _scope(
    visible: Visible,
    namespace: Annotated[str, Query(max_length=100, description="where a name is looked up")] = (
        "default"
    ),
) -> TaskScope:
    return TaskScope(visible, namespace)


Where = Annotated[TaskScope, Depends(_scope)]


def _found(reads: Reads, key: str, where: TaskScope) -> Task:
    namespace = _namespace_of(key, where)
    task = find_task(reads, namespace, key)
    if task is None:
        raise NotFound("task", key)
    return task


def _namespace_of(key: str, where: TaskScope) -> str | None:
    """Where this task is looked for; None: anywhere."""
    if key.isdecimal():
        return where.visible
    if where.visible not in {None, where.namespace}:
        raise NotFound("task", key)
    return where.namespace


def _etag(task: Task) -> str:
    return f'"{task.edition}"'


def _expected_edition(if_match: str | None) -> str | None:
    if if_match is None or if_match.strip() == "*":
        return None
    return if_match.strip().strip('"')


def _answer(task: Task, status: int = 200) -> Answer:
    return Answer(status, task_view(task), {"ETag": _etag(task)})


@router.post(
    "",
    status_code=201,
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(201, TaskOut, 409, 413, 415, 422, headers=("ETag", "Location")),
)
async def create(
    request: Request,
    context: Context,
    visible: Visible,
    body: TaskBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Define a task."""
    within(visible, body.namespace)

    def act(transaction: Transaction) -> Answer:
        task = create_task(transaction, definition_of(body), context.check_task, body.status)
        answer = _answer(task, 201)
        answer.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return answer

    return await carry_out(request, context, idempotency_key, act)


@router.get(
    "",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[TaskOut]),
)
async def list_tasks(
    context: Context,
    visible: Visible,
    limit: Limit = 100,
    cursor: Cursor = None,
    sort: str = "id",
    namespace: Text = None,
    status: TaskStatus | None = None,
    task_type: Text = None,
    name: Text = None,
    tag: Text = None,
) -> Response:
    """The tasks that match every filter."""
    wanted = TaskFilter(
        namespace=within(visible, namespace),
        status=status,
        task_type=task_type,
        name=name,
        tag=tag,
    )
    page = page_request(limit, cursor, sort, TASK_SORTS)
    return page_answer(await context.store.read(lambda r: r.list_tasks(wanted, page)), task_view)


@router.get(
    "/{id}",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, TaskOut, 404, headers=("ETag",)),
)
async def get(context: Context, id: TaskKey, where: Where) -> Response:
    """One task."""
    task = await context.store.read(partial(_found, key=id, where=where))
    return json_answer(task_view(task), headers={"ETag": _etag(task)})


@router.put(
    "/{id}",
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(200, TaskOut, 404, 409, 412, 413, 415, 422, headers=("ETag",)),
)
async def replace(
    context: Context,
    id: TaskKey,
    where: Where,
    body: TaskBody,
    if_match: IfMatch = None,
) -> Response:
    """Put another definition in force; a version of its own where it differs."""

    def act(transaction: Transaction) -> Task:
        task = _found(transaction, id, where)
        within(where.visible, body.namespace)
        return _redefine(transaction, context, task, body, if_match)

    task = await context.store.transact(act)
    return json_answer(task_view(task), headers={"ETag": _etag(task)})


@router.patch(
    "/{id}",
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(200, TaskOut, 404, 409, 412, 413, 415, 422, headers=("ETag",)),
    openapi_extra=_MERGE_PATCH,
)
async def patch(
    context: Context,
    id: TaskKey,
    where: Where,
    body: Annotated[dict[str, Any], Body(description="an RFC 7396 merge patch of the task")],
    if_match: IfMatch = None,
) -> Response:
    """Change some fields; null gives a field its default back."""

    def act(transaction: Transaction) -> Task:
        task = _found(transaction, id, where)
        wanted = patched(task, body)
        within(where.visible, wanted.namespace)
        return _redefine(transaction, context, task, wanted, if_match)

    task = await context.store.transact(act)
    return json_answer(task_view(task), headers={"ETag": _etag(task)})


def _redefine(
    transaction: Transaction,
    context: Context,
    task: Task,
    body: TaskBody,
    if_match: str | None,
) -> Task:
    changed = replace_task(
        transaction,
        task.id,
        definition_of(body),
        context.check_task,
        expected_edition=_expected_edition(if_match),
    )
    if body.status is changed.status:
        return changed
    if body.status is TaskStatus.PAUSED:
        return pause_task(transaction, task.id)
    return resume_task(transaction, task.id)


@router.delete(
    "/{id}",
    status_code=204,
    dependencies=[requires(Permission.TASK_DELETE)],
    responses=documented(204, None, 404, 409, 412, 422),
)
async def delete(context: Context, id: TaskKey, where: Where, if_match: IfMatch = None) -> Response:
    """Delete a task: nothing of it starts any more, its history stays."""

    def act(transaction: Transaction) -> None:
        task = _found(transaction, id, where)
        delete_task(transaction, task.id, expected_edition=_expected_edition(if_match))

    await context.store.transact(act)
    return Response(status_code=204)


@router.post(
    "/{id}/trigger",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, RunOut, 404, 413, 415, 422, headers=("Location",)),
)
async def trigger(
    request: Request,
    context: Context,
    id: TaskKey,
    where: Where,
    body: TriggerBody | None = None,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    """Ask for a run, now or at `run_at`."""
    wish = body or TriggerBody()
    call = TriggerCall(
        namespace=_namespace_of(id, where),
        request=TriggerRequest(
            task=id,
            parameters=wish.parameters,
            priority=wish.priority,
            timeout_seconds=wish.timeout_seconds,
            run_at=wish.run_at,
            idempotency_key=wish.idempotency_key,
            traceparent=traceparent,
        ),
        told=_accepted,
        once=await keyed_call(request, idempotency_key),
    )
    return answered(msgspec.convert(await context.triggers.ask(call), Answer))


def _accepted(run: TaskRun) -> Any:
    headers = {"Location": f"/api/v1/runs/{run.id}"}
    return msgspec.to_builtins(Answer(202, run_view(run), headers))


@router.post(
    "/{id}/pause",
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(200, TaskOut, 404, 413, 415, 422, headers=("ETag",)),
)
async def pause(
    request: Request,
    context: Context,
    id: TaskKey,
    where: Where,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Fire nothing until it is resumed; it may still be triggered."""
    return await carry_out(
        request,
        context,
        idempotency_key,
        lambda t: _answer(pause_task(t, _found(t, id, where).id)),
    )


@router.post(
    "/{id}/resume",
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(200, TaskOut, 404, 413, 415, 422, headers=("ETag",)),
)
async def resume(
    request: Request,
    context: Context,
    id: TaskKey,
    where: Where,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Fire again from now on; what was missed meanwhile is skipped, reason `paused`."""
    return await carry_out(
        request,
        context,
        idempotency_key,
        lambda t: _answer(resume_task(t, _found(t, id, where).id)),
    )


@router.post(
    "/{id}/backfill",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, BackfillOut, 404, 413, 415, 422),
)
async def backfill(
    request: Request,
    context: Context,
    id: TaskKey,
    where: Where,
    body: BackfillBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make up for the fire times in [from, to)."""

    def act(transaction: Transaction) -> Answer:
        task = _found(transaction, id, where)
        made = backfill_task(
            transaction,
            task.id,
            body.from_,
            body.to,
            max_parallel=body.max_parallel,
            dry_run=body.dry_run,
        )
        return Answer(
            202,
            {
                "fire_times": [instant(at) for at in made.fire_times],
                "run_ids": [run.id for run in made.runs],
                "dry_run": body.dry_run,
            },
        )

    return await carry_out(request, context, idempotency_key, act)


@router.get(
    "/{id}/runs",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[RunOut], 404),
)
async def runs(
    context: Context,
    id: TaskKey,
    where: Where,
    limit: Limit = 100,
    cursor: Cursor = None,
    sort: str = "-id",
    status: RunStatus | None = None,
    trigger: Trigger | None = None,
) -> Response:
    """The runs of a task, the newest first."""
    page = page_request(limit, cursor, sort, RUN_SORTS)

    def look(reads: Reads) -> Any:
        task = _found(reads, id, where)
        wanted = RunFilter(task_id=task.id, status=(status,) if status else (), trigger=trigger)
        return reads.list_runs(wanted, page)

    return page_answer(await context.store.read(look), run_view)


@router.get(
    "/{id}/stats",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, StatsOut, 404),
)
async def stats(
    context: Context,
    id: TaskKey,
    where: Where,
    since: Instant | None = None,
) -> Response:
    """How the runs that ended since (by default within a day) went."""

    def look(reads: Reads) -> Any:
        begin = since or reads.now - _DAY
        return stats_view(reads.run_stats(begin, _found(reads, id, where).id), begin)

    return json_answer(await context.store.read(look))


@router.get(
    "/{id}/versions",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[VersionOut], 404),
)
async def versions(
    context: Context,
    id: TaskKey,
    where: Where,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Every definition that was ever in force, the newest first."""
    page = page_request(limit, cursor, "-version", ("-version",))
    found = await context.store.read(lambda r: r.list_versions(_found(r, id, where).id, page))
    return page_answer(found, version_view)


@router.get(
    "/{id}/preview",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[FireOut], 404),
)
async def preview(
    context: Context,
    id: TaskKey,
    where: Where,
    count: Annotated[int, Query(ge=1, le=1_000)] = 10,
) -> Response:
    """The next fire times."""
    task = await context.store.read(partial(_found, key=id, where=where))
    schedule, now = task.schedule, context.clock.now()
    if schedule is None:
        return json_answer({"items": [], "next_cursor": None})
    # The loop does not wait for what takes long to find.
    fires = await asyncio.to_thread(preview_schedule, schedule.spec, now, count)
    return json_answer({"items": [fire_view(fire) for fire in fires], "next_cursor": None})


@router.get(
    "/{id}/ledger",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, LedgerOut, 404),
)
async def ledger(
    context: Context,
    id: TaskKey,
    where: Where,
    from_: Annotated[Instant | None, Query(alias="from")] = None,
    to: Instant | None = None,
    limit: Limit = 1_000,
) -> Response:
    """What became of every due firing in [from, to); by default of the last day."""

    def look(reads: Reads) -> Any:
        until = to or reads.now
        since = from_ or _earlier(until)
        if until < since:
            raise BadRequest("`to` lies before `from`", [Problem("to", "must not lie before from")])
        return ledger_view(ledger_of(reads, _found(reads, id, where), since, until, limit))

    return json_answer(await context.store.read(look))


def _earlier(until: datetime) -> datetime:
    try:
        return until - _DAY
    except OverflowError:
        return until


@router.get(
    "/{id}/explain",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, ExplanationOut, 404),
)
async def explain(
    context: Context,
    id: TaskKey,
    where: Where,
    at: Instant | None = None,
) -> Response:
    """Would a firing at `at` (by default the next one) start?"""

    def look(reads: Reads) -> Any:
        task = _found(reads, id, where)
        when = at or task.next_run_at or reads.now
        return explanation_view(explain_firing(reads, task, when, context.strategies))

    return json_answer(await context.store.read(look))
