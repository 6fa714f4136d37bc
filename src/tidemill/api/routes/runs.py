"""Runs: asked for, looked at, followed, explained, ended."""

from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from tidemill.api import streams
from tidemill.api.answers import (
    Answer,
    Cursor,
    IdempotencyKey,
    Limit,
    Text,
    Traceparent,
    carry_out,
    documented,
    json_answer,
    page_answer,
    page_request,
)
from tidemill.api.context import Context
from tidemill.api.permissions import Permission, Visible, requires, within
from tidemill.api.results import result_answer
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import (
    AttemptOut,
    BulkBody,
    BulkOut,
    EventOut,
    ExplanationOut,
    IdsOut,
    Instant,
    Listed,
    LogOut,
    NoBody,
    RunDetailOut,
    RunFilterBody,
    RunOut,
    RunsBody,
)
from tidemill.api.streams import LastEventId
from tidemill.api.views import (
    attempt_view,
    event_view,
    explanation_view,
    log_views,
    run_detail_view,
    run_view,
)
from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.queries.explain import explain as explain_run
from tidemill.application.retry_runs import retry_runs
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.task_run import CALLER, TaskRun, Trigger
from tidemill.errors import Conflict, NotFound
from tidemill.foundation.listing import RUN_SORTS, FlowRunFilter, PageRequest, RunFilter
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(prefix="/runs", tags=["runs"], route_class=JsonRoute)

RunId = Annotated[int, Path(ge=1, lt=2**62)]
After = Annotated[int, Query(ge=0, lt=2**62, description="the number of the last one known")]
SeqCursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")]
Accept = Annotated[str, Header(include_in_schema=False)]

_MOST_IN_BULK = 1_000


class SeqPart(NamedTuple):
    """Which of numbered things are asked for: those after `begin`, as a page or as they come."""

    begin: int
    limit: int
    is_followed: bool


async def _part(
    after: After = 0,
    cursor: SeqCursor = None,
    limit: Limit = 1_000,
    follow: bool = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> SeqPart:
    is_followed = follow or "text/event-stream" in accept
    return SeqPart(int(last_event_id or cursor or after), limit, is_followed)


Part = Annotated[SeqPart, Depends(_part)]


def _found(reads: Reads, run_id: int, visible: str | None) -> TaskRun:
    run = reads.run(run_id, visible)
    if run is None:
        raise NotFound("run", run_id)
    return run


def _locked(transaction: Transaction, run_id: int, visible: str | None) -> TaskRun:
    run = transaction.runs([run_id], visible).get(run_id)
    if run is None:
        raise NotFound("run", run_id)
    return run


@router.post(
    "",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, IdsOut, 413, 415, 422),
)
async def trigger_many(
    request: Request,
    context: Context,
    visible: Visible,
    body: RunsBody,
    namespace: Annotated[str, Query(max_length=100)] = "default",
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    """Ask for many runs, all or none; their ids in the order of the items."""
    within(visible, namespace)

    def act(transaction: Transaction) -> Answer:
        homes = _homes(transaction, body, visible)
        wishes = [
            TriggerRequest(
                task=item.task,
                namespace=homes.get(str(item.task), namespace),
                parameters=item.parameters,
                priority=item.priority,
                timeout_seconds=item.timeout_seconds,
                run_at=item.run_at,
                idempotency_key=item.idempotency_key,
                trigger=Trigger.API,
                traceparent=traceparent,
                pointer=f"/items/{index}",
            )
            for index, item in enumerate(body.items)
        ]
        return Answer(202, {"ids": [run.id for run in trigger_runs(transaction, wishes)]})

    return await carry_out(request, context, idempotency_key, act)


def _homes(transaction: Transaction, body: RunsBody, visible: str | None) -> dict[str, str]:
    """The namespace of each task that an item names by its id, by what the item says."""
    ids = {str(item.task): int(item.task) for item in body.items if str(item.task).isdecimal()}
    found = transaction.tasks(set(ids.values())) if ids else {}
    homes = {
        said: found[task_id].definition.namespace
        for said, task_id in ids.items()
        if task_id in found
    }
    return {said: home for said, home in homes.items() if visible in {None, home}}


@router.get(
    "",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[RunOut]),
)
async def list_runs(
    context: Context,
    visible: Visible,
    limit: Limit = 100,
    cursor: Cursor = None,
    sort: str = "-id",
    namespace: Text = None,
    task_id: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    status: RunStatus | None = None,
    worker_id: Text = None,
    trigger: Trigger | None = None,
    scheduled_after: Instant | None = None,
    scheduled_before: Instant | None = None,
    flow_run_id: Text = None,
    part_of: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
) -> Response:
    """The runs that match every filter, the newest first."""
    wanted = RunFilter(
        namespace=within(visible, namespace),
        task_id=task_id,
        status=(status,) if status else (),
        worker_id=worker_id,
        trigger=trigger,
        scheduled_after=scheduled_after,
        scheduled_before=scheduled_before,
        flow_run_id=flow_run_id,
        part_of=part_of,
    )
    page = page_request(limit, cursor, sort, RUN_SORTS)
    return page_answer(await context.store.read(lambda r: r.list_runs(wanted, page)), run_view)


@router.post(
    "/bulk",
    status_code=207,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(207, BulkOut, 413, 415, 422),
)
async def bulk(
    request: Request,
    context: Context,
    visible: Visible,
    body: BulkBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Cancel or retry many runs, by ids or by a filter; what became of each."""

    def act(transaction: Transaction) -> Answer:
        ids, has_more = body.ids, False
        if ids is None:
            ids, has_more = _matching(transaction, body, visible)
        ids = list(dict.fromkeys(ids))
        runs = transaction.runs(ids, visible)
        chosen = [runs[run_id] for run_id in ids if run_id in runs and _suits(body, runs[run_id])]
        new: dict[int, TaskRun] = {}
        if not body.dry_run and body.action == "cancel":
            cancel_runs(transaction, chosen, "cancelled_by_user")
        elif not body.dry_run:
            new = retry_runs(transaction, chosen)
        items = [_bulk_item(body, run_id, runs.get(run_id), new) for run_id in ids]
        return Answer(207, {"items": items, "dry_run": body.dry_run, "has_more": has_more})

    return await carry_out(request, context, idempotency_key, act)


def _matching(
    transaction: Transaction, body: BulkBody, visible: str | None
) -> tuple[list[int], bool]:
    """The newest runs of the filter, as many as one call takes, and whether there are more."""
    said = body.filter or RunFilterBody()
    suited = [status for status in RunStatus if (status in FINAL) is (body.action == "retry")]
    wanted = RunFilter(
        namespace=within(visible, said.namespace),
        task_id=said.task_id,
        status=(said.status,) if said.status else tuple(suited),
        worker_id=said.worker_id,
        trigger=said.trigger,
        scheduled_after=said.scheduled_after,
        scheduled_before=said.scheduled_before,
        flow_run_id=said.flow_run_id,
        part_of=said.part_of,
    )
    page = transaction.list_runs(wanted, PageRequest("-id", _MOST_IN_BULK))
    return [run.id for run in page.items], page.next is not None


def _suits(body: BulkBody, run: TaskRun) -> bool:
    return (run.status in FINAL) is (body.action == "retry")


def _bulk_item(
    body: BulkBody, run_id: int, run: TaskRun | None, new: dict[int, TaskRun]
) -> dict[str, Any]:
    status, code = 202, "ok"
    if run is None:
        status, code = 404, "not_found"
    elif not _suits(body, run):
        status, code = 409, "conflict"
    elif body.action == "retry" and not body.dry_run and run_id not in new:
        status, code = 409, "conflict"  # its task was deleted
    made = new[run_id].id if run_id in new else None
    return {"id": run_id, "status": status, "code": code, "new_run_id": made}


@router.get(
    "/{id}",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, RunDetailOut, 404),
)
async def get(context: Context, visible: Visible, id: RunId) -> Response:
    """One run, whoever called it, and what it called."""

    def look(reads: Reads) -> dict[str, Any]:
        run = _found(reads, id, visible)
        flow_run = reads.flow_run(run.flow_run_id) if run.flow_run_id else None
        wanted = FlowRunFilter(called_by=id)
        has_called = run.worker_id == CALLER
        calls = reads.list_flow_runs(wanted, PageRequest("-id")).items if has_called else []
        return run_detail_view(run, flow_run, calls)

    return json_answer(await context.store.read(look))


@router.get(
    "/{id}/result",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Any, 404, 409),
)
async def result(context: Context, visible: Visible, id: RunId) -> Response:
    """What a run that has ended returned, also where its `result` only refers to it."""
    return await result_answer(context, visible, id)


@router.post(
    "/{id}/cancel",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, RunOut, 404, 409, 413, 415, 422),
)
async def cancel(
    request: Request,
    context: Context,
    visible: Visible,
    id: RunId,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """End a run: at once where it has not started, else by its worker."""

    def act(transaction: Transaction) -> Answer:
        run = _locked(transaction, id, visible)
        if run.status in FINAL:
            raise Conflict(f"run {id} has ended already: {run.status}")
        cancel_runs(transaction, [run], "cancelled_by_user")
        return Answer(202, run_view(_locked(transaction, id, visible)))

    return await carry_out(request, context, idempotency_key, act)


@router.post(
    "/{id}/retry",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, RunOut, 404, 409, 413, 415, 422, headers=("Location",)),
)
async def retry(
    request: Request,
    context: Context,
    visible: Visible,
    id: RunId,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    """Try a finished run again, as a new run that is linked to it."""

    def act(transaction: Transaction) -> Answer:
        run = _locked(transaction, id, visible)
        if run.status not in FINAL:
            raise Conflict(f"run {id} has not ended: {run.status}")
        new = retry_runs(transaction, [run], traceparent)
        if id not in new:
            raise Conflict(f"the task of run {id} was deleted")
        return Answer(202, run_view(new[id]), {"Location": f"/api/v1/runs/{new[id].id}"})

    return await carry_out(request, context, idempotency_key, act)


@router.get(
    "/{id}/attempts",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[AttemptOut], 404),
)
async def attempts(context: Context, visible: Visible, id: RunId) -> Response:
    """Every try of a run, in order."""

    def look(reads: Reads) -> list[Any]:
        return [attempt_view(each) for each in reads.attempts(_found(reads, id, visible).id)]

    return json_answer({"items": await context.store.read(look), "next_cursor": None})


@router.get(
    "/{id}/events",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[EventOut], 404, streams=True),
)
async def events(
    context: Context,
    visible: Visible,
    id: RunId,
    part: Part,
) -> Response:
    """The facts of a run's life, in order; with `follow` (or `Accept: text/event-stream`) live."""
    await context.store.read(lambda r: _found(r, id, visible))
    if part.is_followed:
        return streams.stream(streams.follow_run_events(context, visible, id, part.begin))
    found = await context.store.read(lambda r: r.run_events(id, part.begin, part.limit + 1))
    return _seq_page([event_view(each) for each in found], part.limit)


@router.get(
    "/{id}/logs",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[LogOut], 404, streams=True),
)
async def logs(
    context: Context,
    visible: Visible,
    id: RunId,
    part: Part,
) -> Response:
    """The output of a run from any line on; with `follow` live, closed by `end`."""
    await context.store.read(lambda r: _found(r, id, visible))
    if part.is_followed:
        return streams.stream(streams.follow_logs(context, visible, id, part.begin))
    rows = await context.store.read(lambda r: r.run_logs(id, part.begin, part.limit + 1))
    return _seq_page(log_views(rows, part.begin), part.limit)


def _seq_page(found: list[dict[str, Any]], limit: int) -> Response:
    """The first `limit` of numbered things; the cursor is the number of the last one."""
    items = found[:limit]
    further = str(items[-1]["seq"]) if len(found) > limit else None
    return json_answer({"items": items, "next_cursor": further})


@router.get(
    "/{id}/explain",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, ExplanationOut, 404),
)
async def explain(context: Context, visible: Visible, id: RunId) -> Response:
    """Why it has started, or has not: every gate and what it found."""
    found = await context.store.read(
        lambda r: explain_run(r, _found(r, id, visible), context.strategies)
    )
    return json_answer(explanation_view(found))
