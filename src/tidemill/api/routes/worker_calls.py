"""What a worker itself calls, one that reaches neither the database nor the queue."""

import asyncio
from datetime import timedelta
from functools import partial

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.answers import (
    Answer,
    IdempotencyKey,
    JsonRoute,
    carry_out,
    documented,
)
from tidemill.api.context import ApiContext, Context
from tidemill.api.permissions import Permission, requires
from tidemill.api.routes.workers import WorkerId, found
from tidemill.api.schemas import (
    ClaimBody,
    ClaimsOut,
    NoBody,
    ReportBody,
    ReportedOut,
    WorkerOut,
)
from tidemill.api.views import claimed_view, worker_view
from tidemill.application.claim_once import claim_once
from tidemill.application.manage_workers import sign_off_worker
from tidemill.application.take_reports import take_reports
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict
from tidemill.foundation.control_plane import AttemptReport, OutputReport
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(tags=["workers"], route_class=JsonRoute)


@router.post(
    "/workers/{id}/claim",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, ClaimsOut, 404, 409, 413, 415, 422),
)
async def claim(
    request: Request,
    context: Context,
    id: WorkerId,
    body: ClaimBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Wait for runs and take them; each carries the fence that everything said of it must carry."""
    worker = await context.store.read(lambda r: _that_may_ask(r, id, body.limit))
    lease = timedelta(seconds=body.lease_seconds)

    async def take(run_ids: list[int]) -> tuple[Response, bool]:
        were_tried = False

        def act(transaction: Transaction) -> Answer:
            nonlocal were_tried
            claimed = claim_once(transaction, id, body.number, run_ids, lease)
            were_tried = not claimed.is_repeated
            return Answer(200, {"items": [claimed_view(each) for each in claimed.runs]})

        answer = await carry_out(request, context, idempotency_key, act)
        return answer, were_tried

    return await context.remote_workers.claim(
        worker,
        take,
        at_most=body.limit,
        wait_seconds=body.wait_seconds,
        keep_seconds=body.lease_seconds,
        unless=partial(_end_of, request, context),
    )


def _that_may_ask(reads: Reads, worker_id: str, limit: int) -> Worker:
    """One that drains may still ask what it claimed before."""
    worker = found(reads, worker_id)
    if not worker.is_here or (limit and worker.status is not WorkerStatus.ACTIVE):
        raise Conflict(f"worker {worker_id} is {worker.status}; it is given nothing")
    return worker


async def _end_of(request: Request, context: ApiContext) -> None:
    """Return when nobody waits for the answer any more, or this process drains."""
    ends = [asyncio.ensure_future(each) for each in (request.receive(), context.closing.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in ends:
            each.cancel()


@router.post(
    "/workers/{id}/report",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, ReportedOut, 404, 413, 415, 422),
)
async def report(
    request: Request,
    context: Context,
    id: WorkerId,
    body: ReportBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """What attempts said and how they ended. Repeating it does no harm: it is stale then."""
    said = body.model_dump()
    outputs = msgspec.convert(said["outputs"], list[OutputReport])
    endings = msgspec.convert(said["endings"], list[AttemptReport])

    def act(transaction: Transaction) -> Answer:
        found(transaction, id)
        return Answer(200, msgspec.to_builtins(take_reports(transaction, outputs, endings)))

    return await carry_out(request, context, idempotency_key, act)


@router.post(
    "/workers/{id}/sign-off",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, WorkerOut, 404, 409, 413, 415, 422),
)
async def sign_off(
    request: Request,
    context: Context,
    id: WorkerId,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A worker says that it is gone and holds nothing."""
    await context.remote_workers.leave(id)
    return await carry_out(
        request,
        context,
        idempotency_key,
        lambda t: Answer(200, worker_view(sign_off_worker(t, id))),
    )
