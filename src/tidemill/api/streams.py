"""Server-sent events: what is committed is read from the database, a wake-up says when to look.

A client that comes back with `Last-Event-ID` goes on where it was.
"""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from fastapi import Header
from starlette.responses import StreamingResponse

from tidemill.api.context import ApiContext
from tidemill.api.views import event_view, log_views, run_view
from tidemill.domain.run_status import FINAL
from tidemill.domain.task_run import TaskRun
from tidemill.foundation.store import EventPosition, Reads
from tidemill.foundation.wakeups import Topic

LastEventId = Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")]
LastPosition = Annotated[
    str | None, Header(alias="Last-Event-ID", pattern=r"^([0-9]{1,18}-)?[0-9]{1,18}$")
]

_BATCH = 500
_KEEP_ALIVE_SECONDS = 15.0

Look = Callable[[Reads], "tuple[list[bytes], bool]"]


def stream(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """The response that carries a stream."""
    return StreamingResponse(
        chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def follow_logs(
    context: ApiContext, visible: str | None, run_id: int, after: int
) -> AsyncIterator[bytes]:
    """Each line of a run's output, and how far it is; `end` once there can be no more.

    Lines carry their number as id; `progress` has none: the latest is told once more to whoever
    comes back.
    """
    position = after
    progress: dict[str, Any] | None = None

    def look(reads: Reads) -> tuple[list[bytes], bool]:
        nonlocal position, progress
        run = reads.run(run_id, visible)
        rows = reads.run_logs(run_id, position, _BATCH)
        messages = [_message("log", view, view["seq"]) for view in log_views(rows, position)]
        if rows:
            position = rows[-1].last_seq
        if run is not None and run.progress is not None and run.progress != progress:
            progress = run.progress
            messages.append(_message("progress", progress, None))
        return _with_end(messages, run, is_drained=len(rows) < _BATCH)

    async for chunk in _follow(context, look, Topic.OUTPUT, Topic.EVENTS):
        yield chunk


async def follow_run_events(
    context: ApiContext, visible: str | None, run_id: int, after: int
) -> AsyncIterator[bytes]:
    """Each event of a run; `end` once the run is final."""
    position = after

    def look(reads: Reads) -> tuple[list[bytes], bool]:
        nonlocal position
        run = reads.run(run_id, visible)
        events = reads.run_events(run_id, position, _BATCH)
        if events:
            position = events[-1].seq
        messages = [_message(event.type.value, event_view(event), event.seq) for event in events]
        return _with_end(messages, run, is_drained=len(events) < _BATCH)

    async for chunk in _follow(context, look, Topic.EVENTS):
        yield chunk


async def follow_events(
    context: ApiContext, namespace: str | None, after: EventPosition
) -> AsyncIterator[bytes]:
    """Each event of every run, as they are committed; never ends by itself."""
    position = after

    def look(reads: Reads) -> tuple[list[bytes], bool]:
        nonlocal position
        events = reads.events_after(position, namespace, _BATCH)
        if events:
            position = events[-1].position
        return [
            _message(
                each.event.type.value,
                event_view(each.event)
                | {"run_id": each.event.run_id, "namespace": each.event.namespace},
                each.position,
            )
            for each in events
        ], False

    async for chunk in _follow(context, look, Topic.EVENTS):
        yield chunk


async def _follow(context: ApiContext, look: Look, *topics: Topic) -> AsyncIterator[bytes]:
    wakeup = context.wakeups.listen(*topics)
    try:
        yield b": connected\n\n"
        while not context.closing.is_set():
            messages, is_over = await context.store.read(look)
            if messages:
                yield b"".join(messages)
            if is_over:
                return
            if not messages and not await wakeup.wait(_KEEP_ALIVE_SECONDS):
                yield b": still here\n\n"
    finally:
        wakeup.close()


def _with_end(
    messages: list[bytes], run: TaskRun | None, *, is_drained: bool
) -> tuple[list[bytes], bool]:
    is_over = is_drained and (run is None or run.status in FINAL)
    if is_over:
        messages.append(_message("end", run_view(run) if run else {}, None))
    return messages, is_over


def _message(event: str, data: Any, id: int | EventPosition | None) -> bytes:
    identity = "" if id is None else f"id: {id}\n"
    return f"event: {event}\n{identity}data: {msgspec.json.encode(data).decode()}\n\n".encode()
