"""Lists: what may be asked for, and where one page ends and the next begins."""

import base64
import binascii
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from tidemill.domain.flow_run import FlowStatus
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskStatus
from tidemill.domain.task_run import Trigger
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import InvalidInput, Problem

T = TypeVar("T")

MAX_LIMIT = 1_000

_LARGEST = 2**57  # above all ids, and below what is no instant in microseconds any more

TASK_SORTS = ("id", "-id", "name", "-name")
FLOW_RUN_SORTS = ("-id", "id")
RUN_SORTS = ("-id", "id", "-scheduled_for", "scheduled_for")


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that match everything that is given."""

    namespace: str | None = None
    status: TaskStatus | None = None
    task_type: str | None = None
    name: str | None = None
    tag: str | None = None


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that match everything that is given; `status` any of several."""

    namespace: str | None = None
    task_id: int | None = None
    status: tuple[RunStatus, ...] = ()
    worker_id: str | None = None
    trigger: Trigger | None = None
    scheduled_after: datetime | None = None  # inclusive
    scheduled_before: datetime | None = None  # exclusive
    flow_run_id: str | None = None
    part_of: int | None = None


class FlowRunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Flow runs that match everything that is given."""

    namespace: str | None = None
    root_task_id: int | None = None
    status: FlowStatus | None = None
    called_by: int | None = None


class WorkerFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Workers that match everything that is given."""

    status: WorkerStatus | None = None


class PageRequest(msgspec.Struct, frozen=True):
    """Which page: `sort` is a field, with a minus for descending."""

    sort: str
    limit: int = 100
    after: "Position | None" = None


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The last row of the page before: its value of the sort field, and its id."""

    sort: str
    value: Any
    id: Any


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page, and where the next begins; None on the last."""

    items: list[T]
    next: Position | None


def cursor_of(position: Position | None) -> str | None:
    """A position as clients carry it: opaque to them."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).rstrip(b"=").decode()


def position_of(cursor: str, sort: str, ids: type[int] | type[str] = int) -> Position:
    """The inverse; raises InvalidInput where the cursor is not one of a list with such ids."""
    values = {"name": str, "id": ids}.get(sort.removeprefix("-"), int)
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        position = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=Position)
        is_typed = type(position.value) is values and type(position.id) is ids
        numbers = [each for each in (position.value, position.id) if isinstance(each, int)]
        if position.sort == sort and is_typed and all(0 <= n < _LARGEST for n in numbers):
            return position
    except (binascii.Error, msgspec.DecodeError, ValueError):
        pass
    raise InvalidInput(
        "the cursor does not belong to this list",
        [Problem("cursor", "use `next_cursor` of the page before, with the same sort")],
    )


class LedgerCount(msgspec.Struct, frozen=True):
    """How many firings came to one end; a range row counts for all its fire times."""

    status: RunStatus
    reason: str | None
    count: int


class LaneDepth(msgspec.Struct, frozen=True):
    """What waits and what runs in one lane."""

    lane: str
    ready: int
    running: int
    oldest_ready_at: datetime | None
    started_last_minute: int


class RunStats(msgspec.Struct, frozen=True):
    """Runs of one status: how many, and how long they took from start to end, in seconds."""

    status: RunStatus
    count: int
    mean_seconds: float | None
    latest_at: datetime | None
