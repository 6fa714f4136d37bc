"""Flow runs: the runs of one firing of connected tasks, with their graph."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

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
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import FlowRunOut, FlowRunSummaryOut, Listed, NoBody, RetryFlowRunBody
from tidemill.api.views import flow_run_view, graph_view
from tidemill.application.cancel_runs import cancel_flow_run
from tidemill.application.queries.flow_graph import flow_graph
from tidemill.application.retry_flow_run import retry_flow_run
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.errors import Conflict, NotFound
from tidemill.foundation.listing import FLOW_RUN_SORTS, MAX_LIMIT, FlowRunFilter, PageRequest
from tidemill.foundation.store import Reads, Transaction

_FIRST_PAGE = PageRequest("id", MAX_LIMIT)

router = APIRouter(prefix="/flow-runs", tags=["flow runs"], route_class=JsonRoute)

FlowRunId = Annotated[str, Path(min_length=1, max_length=100)]


@router.get(
    "",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[FlowRunSummaryOut]),
)
async def list_flow_runs(
    context: Context,
    visible: Visible,
    limit: Limit = 100,
    cursor: Cursor = None,
    sort: str = "-id",
    namespace: Text = None,
    root_task_id: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    status: FlowStatus | None = None,
    called_by: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
) -> Response:
    """The flow runs that match every filter, the newest first."""
    wanted = FlowRunFilter(
        namespace=within(visible, namespace),
        root_task_id=root_task_id,
        status=status,
        called_by=called_by,
    )
    page = page_request(limit, cursor, sort, FLOW_RUN_SORTS, ids=str)
    found = await context.store.read(lambda r: r.list_flow_runs(wanted, page))
    return page_answer(found, flow_run_view)


@router.get(
    "/{id}",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, FlowRunOut, 404),
)
async def get(
    context: Context,
    visible: Visible,
    id: FlowRunId,
    limit: Limit = MAX_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """One flow run: its runs, what these wait for, and the critical path of the whole."""
    page = page_request(limit, cursor, "id", ("id",))
    return json_answer(await context.store.read(lambda r: _graph(r, id, visible, page)))


@router.post(
    "/{id}/cancel",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, FlowRunOut, 404, 409, 413, 415, 422),
)
async def cancel(
    request: Request,
    context: Context,
    visible: Visible,
    id: FlowRunId,
    body: NoBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """End all of its runs that have not ended: at once, or by their workers."""

    def act(transaction: Transaction) -> Answer:
        if _found(transaction, id, visible).completed_at is not None:
            raise Conflict(f"flow run {id} has ended already")
        cancel_flow_run(transaction, id, "cancelled_by_user")
        return Answer(202, _graph(transaction, id, visible))

    return await carry_out(request, context, idempotency_key, act)


@router.post(
    "/{id}/retry",
    status_code=202,
    dependencies=[requires(Permission.TASK_EXECUTE)],
    responses=documented(202, FlowRunOut, 404, 409, 413, 415, 422, headers=("Location",)),
)
async def retry(
    request: Request,
    context: Context,
    visible: Visible,
    id: FlowRunId,
    body: RetryFlowRunBody | None = None,
    idempotency_key: IdempotencyKey = None,
    traceparent: Traceparent = None,
) -> Response:
    """Run again what did not succeed, as a new flow run that carries over what did."""
    versions = (body or RetryFlowRunBody()).versions

    def act(transaction: Transaction) -> Answer:
        flow_run = _found(transaction, id, visible)
        new = retry_flow_run(transaction, flow_run, versions, traceparent)
        view = _graph(transaction, new.id, visible)
        return Answer(202, view, {"Location": f"/api/v1/flow-runs/{new.id}"})

    return await carry_out(request, context, idempotency_key, act)


def _graph(
    reads: Reads,
    flow_run_id: str,
    visible: str | None,
    page: PageRequest = _FIRST_PAGE,
) -> dict[str, Any]:
    flow_run = _found(reads, flow_run_id, visible)
    after = 0 if page.after is None else page.after.id
    return graph_view(flow_graph(reads, flow_run, after, page.limit))


def _found(reads: Reads, flow_run_id: str, visible: str | None) -> FlowRun:
    flow_run = reads.flow_run(flow_run_id, visible)
    if flow_run is None:
        raise NotFound("flow run", flow_run_id)
    return flow_run
