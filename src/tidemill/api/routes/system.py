"""The system itself: its schedules' preview, its events, its health."""

import asyncio
from datetime import datetime
from typing import Any

import psutil
from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api import streams
from tidemill.api.answers import (
    Answer,
    IdempotencyKey,
    Text,
    carry_out,
    documented,
    json_answer,
)
from tidemill.api.context import ApiContext, Context
from tidemill.api.permissions import Permission, Visible, requires, within
from tidemill.api.routing import JsonRoute
from tidemill.api.schemas import (
    FireOut,
    HealthOut,
    Listed,
    PreviewBody,
    ProcessOut,
    SystemStatsOut,
)
from tidemill.api.streams import LastPosition
from tidemill.api.views import component_view, duties_view, fire_view, instant
from tidemill.application.queries.preview import preview_schedule
from tidemill.domain.schedule import ScheduleSpec
from tidemill.errors import Unavailable
from tidemill.foundation.store import EventPosition, Reads
from tidemill.observability.health import PROBE_SECONDS

router = APIRouter(tags=["system"], route_class=JsonRoute)


@router.post(
    "/schedules/preview",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, Listed[FireOut], 413, 415, 422),
)
async def preview(
    request: Request, context: Context, body: PreviewBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """When a schedule would fire; no task is needed."""

    after = body.after or context.clock.now()
    spec = ScheduleSpec(
        expression=body.schedule,
        timezone=body.timezone,
        gap=body.dst.gap,
        fold=body.dst.fold,
        anchor_at=after,
    )
    # Neither the loop nor the writer waits for what takes long to find.
    fires = await asyncio.to_thread(preview_schedule, spec, after, body.count)
    answer = Answer(200, {"items": [fire_view(fire) for fire in fires], "next_cursor": None})
    return await carry_out(request, context, idempotency_key, lambda _: answer)


@router.get(
    "/events",
    dependencies=[requires(Permission.TASK_READ)],
    responses=documented(200, None, streams=True, text="A stream that never ends by itself"),
    response_class=Response,
)
async def events(
    context: Context,
    visible: Visible,
    namespace: Text = None,
    last_event_id: LastPosition = None,
) -> Response:
    """Every event of every run as it happens; with `Last-Event-ID` from there on."""
    wanted = within(visible, namespace)
    if last_event_id:
        after = EventPosition.parse(last_event_id)
    else:
        after = await context.store.read(lambda r: r.last_event())
    return streams.stream(streams.follow_events(context, wanted, after))


@router.get(
    "/system/health",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, HealthOut),
)
async def health(context: Context) -> Response:
    """Every component and how it is."""
    components = {each.component.name: component_view(each) for each in await context.health.look()}
    components["workers"] = await _workers(context)
    components["api"] = {"status": "draining" if context.closing.is_set() else "up"}
    is_well = all(each["status"] == "up" for each in components.values())
    return json_answer({"status": "up" if is_well else "degraded", "components": components})


async def _workers(context: ApiContext) -> dict[str, Any]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            alive = await context.store.read(lambda r: len(r.workers_alive()))
    except (Unavailable, TimeoutError):
        alive = 0
    return {"status": "up" if alive else "down", "alive": alive}


@router.get(
    "/system/stats",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, SystemStatsOut),
)
async def stats(context: Context) -> Response:
    """What is unfinished, who does what for all, and since when this process runs."""

    def look(reads: Reads) -> dict[str, Any]:
        counts = reads.status_counts()
        return {
            "unfinished": {status.value: count for status, count in counts.items()},
            "workers_alive": len(reads.workers_alive()),
            "duties": duties_view(reads.duties(), reads.now),
            "last_event_id": str(reads.last_event()),
        }

    found = await context.store.read(look)
    return json_answer(found | _process_view(context, context.clock.now()))


@router.get(
    "/system/metrics",
    dependencies=[requires(Permission.SYSTEM_READ)],
    responses=documented(200, ProcessOut),
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
