"""The system itself: its schedules' preview, its events, its health."""

import asyncio
import time
from datetime import datetime
from typing import Annotated, Any

import psutil
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from tidemill.api import streams
from tidemill.api.answers import (
    Answer,
    IdempotencyKey,
    JsonRoute,
    carry_out,
    documented,
    json_answer,
)
from tidemill.api.context import ApiContext, Context
from tidemill.api.permissions import Permission, requires
from tidemill.api.schemas import FireOut, Listed, PreviewBody
from tidemill.api.streams import LastEventId
from tidemill.api.views import fire_view, instant
from tidemill.domain.schedule import ScheduleSpec, compile_schedule
from tidemill.errors import Unavailable
from tidemill.foundation.store import Reads, Transaction

router = APIRouter(tags=["system"], route_class=JsonRoute)
public = APIRouter(tags=["probes"])

_PROBE_SECONDS = 2.0


@router.post(
    "/schedules/preview",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[FireOut], 413, 415, 422),
)
async def preview(
    request: Request, context: Context, body: PreviewBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """When a schedule would fire; no task is needed."""

    def act(transaction: Transaction) -> Answer:
        after = body.after or transaction.now
        spec = ScheduleSpec(
            expression=body.schedule,
            timezone=body.timezone,
            gap=body.dst.gap,
            fold=body.dst.fold,
            anchor_at=after,
        )
        fires = compile_schedule(spec).preview(after, body.count)
        return Answer(200, {"items": [fire_view(fire) for fire in fires], "next_cursor": None})

    return await carry_out(request, context, idempotency_key, act)


@router.get(
    "/events",
    dependencies=[requires(Permission.TASK_READ)],
    responses={
        **documented(200, None, text="A stream that never ends by itself"),
        200: {"description": "Server-sent events", "content": {"text/event-stream": {}}},
    },
    response_class=Response,
)
async def events(
    context: Context,
    namespace: Annotated[str | None, Query(max_length=100)] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Every event of every run as it happens; with `Last-Event-ID` from there on."""
    after = int(last_event_id) if last_event_id else None
    if after is None:
        after = await context.store.read(lambda r: r.last_event_id())
    return streams.stream(streams.follow_events(context, namespace, after))


@router.get(
    "/system/health",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, dict[str, Any]),
)
async def health(context: Context) -> Response:
    """Every component and how it is."""
    began = time.monotonic()
    try:
        workers = await asyncio.wait_for(
            context.store.read(lambda r: len(r.workers_alive())), _PROBE_SECONDS
        )
        database: dict[str, Any] = {"status": "up", "answers_ms": _since_ms(began)}
    except (Unavailable, TimeoutError) as error:
        workers = 0
        database = {"status": "down", "detail": str(error)}
    components = {
        "database": database,
        "workers": {"status": "up" if workers else "down", "alive": workers},
        "api": {"status": "draining" if context.closing.is_set() else "up"},
    }
    is_well = all(each["status"] == "up" for each in components.values())
    return json_answer({"status": "up" if is_well else "degraded", "components": components})


@router.get(
    "/system/stats",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, dict[str, Any]),
)
async def stats(context: Context) -> Response:
    """What is unfinished, and since when this process runs."""

    def look(reads: Reads) -> dict[str, Any]:
        counts = reads.status_counts()
        return {
            "unfinished": {status.value: count for status, count in counts.items()},
            "workers_alive": len(reads.workers_alive()),
            "next_event_id": reads.last_event_id() + 1,
        }

    found = await context.store.read(look)
    return json_answer(found | _process_view(context, context.clock.now()))


@router.get(
    "/system/metrics",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, dict[str, Any]),
)
async def metrics(context: Context) -> Response:
    """What this process takes of its machine."""
    process = psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
        taken = {
            "cpu_seconds": times.user + times.system,
            "resident_bytes": memory.rss,
            "threads": process.num_threads(),
            "open_files": process.num_fds(),
        }
    return json_answer(taken)


def _process_view(context: ApiContext, now: datetime) -> dict[str, Any]:
    return {
        "version": context.version,
        "started_at": instant(context.started_at),
        "uptime_seconds": (now - context.started_at).total_seconds(),
    }


def _since_ms(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 2)


@public.get("/health", responses={200: {"model": dict[str, str]}})
async def alive() -> Response:
    """This process is alive."""
    return json_answer({"status": "up"})


@public.get("/ready", responses=documented(200, dict[str, str]))
async def ready(context: Context) -> Response:
    """This process may serve: its database answers and it is not draining."""
    if context.closing.is_set():
        raise Unavailable("draining")
    try:
        await asyncio.wait_for(context.store.read(lambda r: r.last_event_id()), _PROBE_SECONDS)
    except TimeoutError:
        raise Unavailable("the database does not answer") from None
    return json_answer({"status": "ready"})


@public.get("/metrics", response_class=Response)
async def prometheus(context: Context) -> Response:
    """Prometheus' text format."""
    return Response(context.render_metrics(), media_type="text/plain; version=0.0.4")
