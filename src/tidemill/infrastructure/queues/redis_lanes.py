"""How lanes are kept in Redis.

    tidemill:lanes                    a set: the lanes that had a message or a worker
    tidemill:task.shell:default/shell a stream for each lane, with one group of consumers, `workers`
    tidemill:dead                     a stream: what could not be delivered, and why
    tidemill:status, tidemill:worker  streams: facts, told at best

Each method is one round trip, or two where the second depends on the first.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tidemill.infrastructure.queues.lane_names import (
    lanes_naming,
    name_of,
    route_of,
    workers_named,
)

_LANES = "tidemill:lanes"
_DEAD = "tidemill:dead"
_GROUP = "workers"
_AT_ONCE = 100  # entries that are claimed from those who vanished
_DEAD_LETTERS = 10_000
_GONE = ("NOGROUP", "UNBLOCKED")  # the latter to who was waiting at that moment
_FORGET_CONSUMERS_SECONDS = 3_600  # that hold nothing and asked for nothing so long


_Time = tuple[int, int]  # seconds and microseconds, as the server says them


class LanesGone(Exception):
    """Streams or groups that were there are not: the server was emptied."""


class Entry(msgspec.Struct, frozen=True):
    """An entry of a lane's stream, as it was delivered for the so-many-th time."""

    stream: str
    id: str
    body: bytes
    age_seconds: float  # by the time of the server
    deliveries: int = 1


class Answer(msgspec.Struct, frozen=True):
    """What becomes of an entry: it goes, and may leave a message or a dead letter behind."""

    entry: Entry
    again: bytes | None = None
    dead: str | None = None  # the reason


class RedisLanes:
    """The commands, on one pool of connections. Raises what redis-py raises, and LanesGone."""

    def __init__(self, redis: Redis, max_length: int) -> None:
        self._redis = redis
        self._max_length = max_length

    async def ping(self) -> None:
        """Return when the server answers."""
        await self._redis.ping()

    async def add(self, bodies: Sequence[tuple[str, bytes]]) -> None:
        """Append messages to their lanes."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sadd(_LANES, *{lane for lane, _ in bodies})
        for lane, body in bodies:
            pipeline.xadd(stream_of(lane), {"envelope": body}, maxlen=self._max_length)
        await pipeline.execute()

    async def tell(self, bodies: Sequence[tuple[str, bytes]]) -> None:
        """Append facts, with their routes, to the streams of facts."""
        pipeline = self._redis.pipeline(transaction=False)
        for route, body in bodies:
            stream = f"tidemill:{route.partition('.')[0]}"
            pipeline.xadd(stream, {"route": route, "envelope": body}, maxlen=self._max_length)
        await pipeline.execute()

    async def known(self, lanes: Iterable[str]) -> list[str]:
        """All lanes there are, these included."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sadd(_LANES, *lanes)
        pipeline.smembers(_LANES)
        _, members = await pipeline.execute()
        return [member.decode() for member in members]

    async def workers(self) -> set[str]:
        """The ids of the workers that lanes of their own were made for."""
        return workers_named(await self._members())

    async def drop_lanes_of(self, worker_ids: Collection[str]) -> None:
        """Delete the lanes that are these workers' alone; whoever reads one hears LanesGone."""
        lanes = lanes_naming(worker_ids, await self._members())
        if lanes:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.srem(_LANES, *lanes)
            pipeline.delete(*map(stream_of, lanes))
            await pipeline.execute()

    async def _members(self) -> list[str]:
        members: Any = await self._redis.smembers(_LANES)
        return [member.decode() for member in members]

    async def join(self, lanes: Iterable[str]) -> None:
        """Make the streams and groups of these lanes where they are not there."""
        pipeline = self._redis.pipeline(transaction=False)
        for lane in lanes:
            pipeline.xgroup_create(stream_of(lane), _GROUP, id="0", mkstream=True)
        for found in await pipeline.execute(raise_on_error=False):
            if isinstance(found, Exception) and not str(found).startswith("BUSYGROUP"):
                raise found

    async def read(
        self, consumer: str, streams: Sequence[str], count: int, block_seconds: float
    ) -> tuple[int, list[Entry]]:
        """How many lanes there are, and up to `count` new entries of each stream."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.scard(_LANES)
        pipeline.xreadgroup(
            _GROUP, consumer, dict.fromkeys(streams, ">"), count=count, block=_ms(block_seconds)
        )
        pipeline.time()
        lanes, found, now = await _execute(pipeline)
        return lanes, _entries(found, now)

    async def take_over(
        self, consumer: str, streams: Sequence[str], idle_seconds: float
    ) -> list[Entry]:
        """Entries that were delivered to anyone and not answered for so long; now `consumer`'s."""
        pipeline = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xautoclaim(stream, _GROUP, consumer, _ms(idle_seconds), count=_AT_ONCE)
        pipeline.time()
        *claimed, now = await _execute(pipeline)
        found = {stream: entries for stream, (_, entries, *_) in zip(streams, claimed, strict=True)}
        found = {stream: entries for stream, entries in found.items() if entries}
        return await self._counted(consumer, found, now)

    async def _counted(
        self, consumer: str, found: Mapping[str, list[tuple[bytes, dict[bytes, bytes]]]], now: _Time
    ) -> list[Entry]:
        if not found:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for stream, entries in found.items():
            pipeline.xpending_range(
                stream, _GROUP, entries[0][0], entries[-1][0], len(entries), consumer
            )
        counts = {
            (stream, each["message_id"]): each["times_delivered"]
            for stream, pending in zip(found, await _execute(pipeline), strict=True)
            for each in pending
        }
        return [
            Entry(stream, id.decode(), _body(fields), _age(id, now), counts.get((stream, id), 1))
            for stream, entries in found.items()
            for id, fields in entries
        ]

    async def held_by(self, consumer: str, streams: Sequence[str]) -> list[Entry]:
        """What was delivered to `consumer` and is not answered, whether that ever arrived."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xreadgroup(_GROUP, consumer, dict.fromkeys(streams, "0"), count=_AT_ONCE)
        pipeline.time()
        found, now = await _execute(pipeline)
        return _entries(found, now)

    async def settle(self, answers: Sequence[Answer]) -> None:
        """Take entries out of their streams; what they leave is there when they are gone."""
        pipeline = self._redis.pipeline(transaction=True)
        for answer in answers:
            stream = answer.entry.stream
            if answer.again is not None:
                pipeline.xadd(stream, {"envelope": answer.again}, maxlen=self._max_length)
            if answer.dead is not None:
                pipeline.xadd(
                    _DEAD,
                    {"stream": stream, "envelope": answer.entry.body, "reason": answer.dead},
                    maxlen=_DEAD_LETTERS,
                )
        for stream, group in groupby(
            sorted(answers, key=lambda answer: answer.entry.stream),
            key=lambda answer: answer.entry.stream,
        ):
            ids = [answer.entry.id for answer in group]
            pipeline.xack(stream, _GROUP, *ids)
            pipeline.xdel(stream, *ids)
        await _execute(pipeline)

    async def forget_vanished(self, streams: Sequence[str]) -> None:
        """Forget consumers that hold nothing and have not asked for an hour."""
        pipeline = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xinfo_consumers(stream, _GROUP)
        forgetting = self._redis.pipeline(transaction=False)
        for stream, consumers in zip(streams, await _execute(pipeline), strict=True):
            for each in consumers:
                if not each["pending"] and each["idle"] > _ms(_FORGET_CONSUMERS_SECONDS):
                    forgetting.xgroup_delconsumer(stream, _GROUP, each["name"])
        await _execute(forgetting)


def stream_of(lane: str) -> str:
    """The stream of a lane."""
    return f"tidemill:{route_of(lane)}:{name_of(lane)}"


async def _execute(pipeline: Any) -> list[Any]:
    try:
        found: list[Any] = await pipeline.execute()
    except ResponseError as error:
        if any(word in str(error) for word in _GONE):
            raise LanesGone from error
        raise
    return found


def _entries(
    found: Mapping[bytes, Sequence[tuple[bytes, dict[bytes, bytes]]]], now: _Time
) -> list[Entry]:
    return [
        Entry(stream.decode(), id.decode(), _body(fields), _age(id, now))
        for stream, entries in found.items()
        for id, fields in entries
    ]


def _age(id: bytes, now: _Time) -> float:
    """How long ago an entry was appended: its id begins with the milliseconds of that instant."""
    seconds, microseconds = now
    return seconds + microseconds / 1_000_000 - int(id.partition(b"-")[0]) / 1_000


def _body(fields: dict[bytes, bytes] | None) -> bytes:
    return (fields or {}).get(b"envelope", b"")


def _ms(seconds: float) -> int:
    return int(seconds * 1_000)
