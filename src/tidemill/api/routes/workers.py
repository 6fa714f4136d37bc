"""Workers and queues."""

from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from tidemill.api.answers import (
    Answer,
    Cursor,
    IdempotencyKey,
    Limit,
    carry_out,
    documented,
    json_answer,
    page_answer,
    page_request,
)
from tidemill.api.context import Context
from tidemill.api.permissions import Permission, requires
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import (
    HeartbeatBody,
    HeartbeatOut,
    Listed,
    NoBody,
    QueueOut,
    StatsOut,
    WorkerBody,
    WorkerChange,
    WorkerOut,
)
from tidemill.api.views import queue_views, stats_view, worker_view
from tidemill.application.manage_workers import (
    change_worker,
    drain_worker,
    note_heartbeat,
    register_worker,
    remove_worker,
)
from tidemill.application.queries.levels import levels_of
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import NotFound
from tidemill.foundation.listing import WorkerFilter
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(tags=["workers"], route_class=JsonRoute)

WorkerId = Annotated[str, Path(max_length=300)]

_DAY = timedelta(days=1)


def _address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def found(reads: Reads, worker_id: str) -> Worker:
    """The worker of this id; raises NotFound."""
    worker = reads.worker(worker_id)
    if worker is None:
        raise NotFound("worker", worker_id)
    return worker


@router.get(
    "/workers",
    dependencies=[requires(Permission.WORKER_READ)],
    responses=documented(200, Listed[WorkerOut]),
)
async def list_workers(
    context: Context,
    limit: Limit = 100,
    cursor: Cursor = None,
    status: WorkerStatus | None = None,
) -> Response:
    """Workers, those that left included."""
    page = page_request(limit, cursor, "id", ("id",), ids=str)
    wanted = WorkerFilter(status=status)
    found = await context.store.read(lambda r: r.list_workers(wanted, page))
    return page_answer(found, worker_view)


@router.post(
    "/workers",
    status_code=201,
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(201, WorkerOut, 413, 415, 422, headers=("Location",)),
)
async def register(
    request: Request, context: Context, body: WorkerBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Let a worker in; each registration is an incarnation with an id of its own."""

    def act(transaction: Transaction) -> Answer:
        worker = Worker(
            id=f"{body.name}-{uuid4().hex[:12]}",
            last_heartbeat=transaction.now,
            registered_at=transaction.now,
            **body.model_dump() | {"ip_address": body.ip_address or _address_of(request)},
        )
        stored = register_worker(transaction, worker)
        return Answer(201, worker_view(stored), {"Location": f"/api/v1/workers/{quote(stored.id)}"})

    return await carry_out(request, context, idempotency_key, act)


@router.get(
    "/workers/{id}",
    dependencies=[requires(Permission.WORKER_READ)],
    responses=documented(200, WorkerOut, 404),
)
async def get(context: Context, id: WorkerId) -> Response:
    """One worker."""
    return json_answer(worker_view(await context.store.read(lambda r: found(r, id))))


@router.put(
    "/workers/{id}",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, WorkerOut, 404, 413, 415, 422),
)
async def change(context: Context, id: WorkerId, body: WorkerChange) -> Response:
    """Change what a worker offers."""
    changes = body.model_dump(exclude_none=True)
    changed = await context.store.transact(lambda t: change_worker(t, id, changes))
    return json_answer(worker_view(changed))


@router.delete(
    "/workers/{id}",
    status_code=204,
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(204, None, 404, 409),
)
async def remove(context: Context, id: WorkerId) -> Response:
    """Forget a worker that is gone."""
    await context.store.transact(lambda t: remove_worker(t, id))
    return Response(status_code=204)


@router.post(
    "/workers/{id}/heartbeat",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, HeartbeatOut, 404, 409, 413, 415, 422),
)
async def heartbeat(
    request: Request,
    context: Context,
    id: WorkerId,
    body: HeartbeatBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A worker says that it is there, and that its runs go on."""
    said = body or HeartbeatBody()
    fences = {each.run_id: each.fence for each in said.runs}

    def act(transaction: Transaction) -> Answer:
        worker = note_heartbeat(transaction, id, said.current_task_count)
        until = transaction.now + timedelta(seconds=said.lease_seconds)
        held = transaction.renew_leases(id, fences, until) if fences else {}
        runs = [{"run_id": run_id, "status": status.value} for run_id, status in held.items()]
        return Answer(200, worker_view(worker) | {"runs": runs})

    return await carry_out(request, context, idempotency_key, act)


@router.post(
    "/workers/{id}/drain",
    status_code=202,
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(202, WorkerOut, 404, 409, 413, 415, 422),
)
async def drain(
    request: Request,
    context: Context,
    id: WorkerId,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Give a worker nothing more; what it runs goes on."""
    answer = await carry_out(
        request, context, idempotency_key, lambda t: Answer(202, worker_view(drain_worker(t, id)))
    )
    await context.remote_workers.leave(id)
    return answer


@router.get(
    "/workers/{id}/stats",
    dependencies=[requires(Permission.WORKER_READ)],
    responses=documented(200, StatsOut, 404),
)
async def stats(context: Context, id: WorkerId) -> Response:
    """How the runs of this worker that ended within a day went."""

    def look(reads: Reads) -> Any:
        since = reads.now - _DAY
        return stats_view(reads.run_stats(since, worker_id=found(reads, id).id), since)

    return json_answer(await context.store.read(look))


@router.get(
    "/queues",
    dependencies=[requires(Permission.WORKER_READ)],
    responses=documented(200, Listed[QueueOut]),
)
async def queues(context: Context) -> Response:
    """What waits and what runs, by queue."""
    levels = await context.store.read(levels_of)
    views = queue_views(levels.lanes, levels.workers, levels.at)
    return json_answer({"items": views, "next_cursor": None})
