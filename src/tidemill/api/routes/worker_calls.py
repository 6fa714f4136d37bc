"""What a worker itself calls, one that reaches neither the database nor the queue."""

import asyncio
from base64 import b64decode
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from tidemill.api.answers import (
    Answer,
    IdempotencyKey,
    carry_out,
    documented,
    json_answer,
)
from tidemill.api.context import ApiContext, Context
from tidemill.api.permissions import Permission, requires
from tidemill.api.problems import problem
from tidemill.api.routes.workers import WorkerId, found
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import (
    ChunkBody,
    ClaimBody,
    ClaimsOut,
    NoBody,
    ReportBody,
    ReportedOut,
    WorkerOut,
)
from tidemill.api.views import claimed_view, worker_view
from tidemill.application.claim_once import claim_once
from tidemill.application.fetch_artifact import fetch_chunk
from tidemill.application.go_on import report_and_make_room
from tidemill.application.manage_workers import sign_off_worker
from tidemill.application.store_artifact import store_chunk
from tidemill.domain.artifact import ArtifactId
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict, InvalidInput, NotFound, Problem
from tidemill.foundation.control_plane import ArtifactChunk, AttemptReport, OutputReport
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(tags=["workers"], route_class=JsonRoute)

RunNumber = Annotated[int, Path(ge=1, lt=2**62)]
PieceNumber = Annotated[int, Path(ge=0, lt=2**31)]

_BYTES: dict[str, Any] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}


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
        taken = report_and_make_room(transaction, outputs, endings)
        return Answer(200, msgspec.to_builtins(taken))

    return await carry_out(request, context, idempotency_key, act)


@router.put(
    "/workers/{id}/runs/{run_id}/artifact/{number}",
    dependencies=[requires(Permission.WORKER_WRITE)],
    responses=documented(200, ReportedOut, 404, 409, 413, 415, 422),
)
async def store_piece(
    request: Request,
    context: Context,
    id: WorkerId,
    run_id: RunNumber,
    number: PieceNumber,
    body: ChunkBody,
) -> Response:
    """A piece of what an attempt returned, where that is too large for a report."""
    if body.bytes > context.max_artifact_bytes:
        said = f"a result has at most {context.max_artifact_bytes} bytes here"
        return problem(request.scope["request_id"], 413, "artifact_too_large", said)
    content = _decoded(body.content)
    chunk = ArtifactChunk(run_id, body.fence, body.bytes, number, content)

    def act(transaction: Transaction) -> bool:
        found(transaction, id)
        return store_chunk(transaction, chunk)

    is_stored = await context.store.transact(act)
    return json_answer({"accepted": int(is_stored), "stale": int(not is_stored)})


def _decoded(content: str) -> bytes:
    try:
        return b64decode(content, validate=True)
    except ValueError:
        raise InvalidInput(
            "/content: is not base64", [Problem("/content", "is not base64")]
        ) from None


@router.get(
    "/workers/{id}/runs/{run_id}/artifacts/{artifact_id}/{number}",
    dependencies=[requires(Permission.WORKER_WRITE)],
    response_class=Response,
    responses=documented(200, None, 404, 409, content=_BYTES),
)
async def fetch_piece(
    context: Context,
    id: WorkerId,
    run_id: RunNumber,
    artifact_id: Annotated[str, Path(max_length=40)],
    number: PieceNumber,
    fence: Annotated[int, Query(ge=1, lt=2**62)],
) -> Response:
    """A piece of a large result that a run is to read, for the worker that holds the run."""
    artifact = ArtifactId.parse(artifact_id)
    if artifact is None:
        raise NotFound("artifact", artifact_id)

    def act(transaction: Transaction) -> bytes:
        found(transaction, id)
        return fetch_chunk(transaction, run_id, fence, artifact, number)

    return Response(await context.store.transact(act), media_type="application/octet-stream")


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
