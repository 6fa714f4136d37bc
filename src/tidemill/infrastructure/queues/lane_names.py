"""What a lane is called at a broker: readable, safe in any name, and short enough for AMQP."""

from collections.abc import Collection, Iterable
from hashlib import sha256
from itertools import product
from urllib.parse import quote

from tidemill.domain.task import Lane, parse_lane
from tidemill.domain.worker import Worker

_LONGEST = 100  # of 255 bytes; the rest is for what stands around it
_KEPT = 60
_UNREADABLE = (ValueError, AttributeError)


def route_of(lane: str) -> str:
    """`task.<task_type>`, in as many bytes as a route may have."""
    return f"task.{_safe(parse_lane(lane).task_type)}"


def name_of(lane: str) -> str:
    """A name of this lane alone, of signs that AMQP's clients take: `default/shell`."""
    return _safe(lane)


def plain_lanes(worker: Worker) -> list[str]:
    """The lanes that a worker serves whatever its labels; others come into being by messages."""
    return [f"{queue}/{kind}" for queue, kind in product(worker.queues, worker.task_types)]


def is_plain(lane: str) -> bool:
    """Whether every worker of its queue and kind serves it."""
    parsed = parse_lane(lane)
    return str(Lane(parsed.queue, parsed.task_type, {})) == lane


def serves(worker: Worker, lane: str) -> bool:
    """Whether `worker` serves a lane that somebody else named; an unreadable one is nobody's."""
    try:
        return worker.serves(parse_lane(lane))
    except _UNREADABLE:
        return False


def workers_named(lanes: Iterable[str]) -> set[str]:
    """The ids of the workers whose lanes these are, where they are those of one worker."""
    return {worker_id for lane in lanes if (worker_id := _worker_named(lane)) is not None}


def lanes_naming(worker_ids: Collection[str], lanes: Iterable[str]) -> list[str]:
    """Those of these lanes that are such a worker's alone."""
    return [lane for lane in lanes if _worker_named(lane) in worker_ids]


def _worker_named(lane: str) -> str | None:
    try:
        return parse_lane(lane).worker_id
    except _UNREADABLE:
        return None


def _safe(text: str) -> str:
    name = quote(text, safe="/").replace("%", "+").replace("~", "+7E")
    if len(name) <= _LONGEST:
        return name
    # No other has a colon, and no two have the same digest.
    return f"{name[:_KEPT]}:{sha256(text.encode()).hexdigest()}"
