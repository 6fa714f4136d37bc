"""The queue in the database itself: the simplest cluster has nothing else to run.

A message that is handed out is put aside for a while; what its worker neither acknowledges nor
refuses by then goes to another. Acknowledgements are gathered: a message that comes once more is
only a hint to runs that somebody has.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from tidemill.domain.task import parse_lane
from tidemill.domain.worker import Worker
from tidemill.errors import Unavailable
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.wakeups import Topic, Wakeups
from tidemill.infrastructure.database.postgres_pool import (
    NOT_ANSWERED,
    PostgresPool,
    unavailable,
)
from tidemill.infrastructure.queues.envelope import LIFETIME
from tidemill.infrastructure.queues.lane_names import lanes_naming, workers_named

_log = logging.getLogger("tidemill.queue")

_LOOK_SECONDS = 1.0  # where no wake-up came
_PAUSE_SECONDS = 0.5  # between tries while the database does not answer
_PER_LANE = 4  # messages that are taken of a lane at once

_publish = (
    "INSERT INTO queue_messages (lane, run_ids) SELECT message->>'lane',"
    " ARRAY(SELECT jsonb_array_elements_text(message->'run_ids')::bigint)"
    " FROM jsonb_array_elements($1::jsonb) AS message"
)
# What is old was dispatched again long ago.
_tidy = (
    "DELETE FROM queue_messages WHERE lane = ANY($1::text[])"
    " OR published_at < now() - make_interval(secs => $2)"
)
_lanes = "SELECT DISTINCT lane FROM queue_messages"
# No more of a lane than its worker may start at once, but always one.
_take = (
    "UPDATE queue_messages SET taken_by = $2, taken_until = now() + make_interval(secs => $3)"
    " WHERE id IN (SELECT id FROM (SELECT found.id, row_number() OVER its_lane AS place,"
    " sum(runs) OVER its_lane AS runs_until FROM unnest($1::text[]) AS wanted(lane), LATERAL"
    " (SELECT id, cardinality(run_ids) AS runs FROM queue_messages AS message"
    " WHERE message.lane = wanted.lane AND (taken_until IS NULL OR taken_until < now())"
    " ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED) AS found"
    " WINDOW its_lane AS (PARTITION BY lane ORDER BY found.id)) AS counted"
    " WHERE place = 1 OR runs_until <= $5)"
    " RETURNING id, lane, run_ids"
)
_acknowledge = "DELETE FROM queue_messages WHERE id = ANY($1::bigint[]) AND taken_by = $2"
_give_back = (
    "UPDATE queue_messages SET taken_by = NULL, taken_until = NULL"
    " WHERE id = ANY($1::bigint[]) AND taken_by = $2"
)


class PostgresQueue:
    """Messages are rows; a wake-up says that there are some."""

    carries_all = False

    def __init__(self, pool: PostgresPool, wakeups: Wakeups, *, aside_seconds: float = 5.0) -> None:
        self._pool = pool
        self._wakeups = wakeups
        self._aside_seconds = aside_seconds

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        if not messages:
            return
        await self.run(_publish, msgspec.json.encode(messages).decode())
        self._wakeups.announce([Topic.MESSAGES])

    async def subscribe(self, worker: Worker) -> "PostgresSubscription":
        return PostgresSubscription(self, worker, self._wakeups)

    async def kept_for(self) -> set[str]:
        return workers_named(await self._lanes())

    async def tidy(self, gone: Collection[str]) -> None:
        await self.run(_tidy, lanes_naming(gone, await self._lanes()), LIFETIME.total_seconds())

    async def check(self) -> None:
        await self.run("SELECT 1")

    async def close(self) -> None:
        """The pool is its owner's."""

    async def take(self, worker: Worker) -> "list[tuple[int, RunMessage]]":
        """A few messages of each lane that `worker` serves, put aside for it."""
        served = [lane for lane in await self._lanes() if worker.serves(parse_lane(lane))]
        if not served:
            return []
        slots = worker.max_concurrent_tasks
        rows = await self.run(_take, served, worker.id, self._aside_seconds, _PER_LANE, slots)
        return [(row[0], RunMessage(row[1], tuple(row[2]))) for row in sorted(rows)]

    async def acknowledge(self, ids: Sequence[int], worker: Worker) -> None:
        """These are done with."""
        await self.run(_acknowledge, ids, worker.id)

    async def give_back(self, ids: Sequence[int], worker: Worker) -> None:
        """These are for others."""
        await self.run(_give_back, ids, worker.id)
        self._wakeups.announce([Topic.MESSAGES])

    async def _lanes(self) -> list[str]:
        return [row[0] for row in await self.run(_lanes)]

    async def run(self, sql: str, *values: Any) -> Sequence[Any]:
        """Run one statement; raises Unavailable."""
        try:
            return await self._pool.fetch(sql, *values)
        except NOT_ANSWERED as error:
            raise unavailable(error) from error


class PostgresSubscription:
    """What one worker receives."""

    def __init__(self, queue: PostgresQueue, worker: Worker, wakeups: Wakeups) -> None:
        self._queue = queue
        self._worker = worker
        self._wakeups = wakeups
        self._wakeup = wakeups.listen(Topic.MESSAGES)
        self._waiting: deque[PostgresDelivery] = deque()
        self._unanswered: set[int] = set()
        self._acknowledged: list[int] = []
        self._refused: list[int] = []
        self._settling: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def receive(self) -> "PostgresDelivery":
        while not self._waiting:
            if self._closed.is_set():
                raise Unavailable("the subscription is closed")
            for id, message in await self._queue.take(self._worker):
                self._unanswered.add(id)
                self._waiting.append(PostgresDelivery(id, message, self))
            if self._closed.is_set():  # meanwhile
                self._give_up()
            elif not self._waiting:
                await self._wakeup.wait(_LOOK_SECONDS)
        return self._waiting.popleft()

    def received(self) -> "PostgresDelivery | None":
        return self._waiting.popleft() if self._waiting else None

    async def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._wakeups.announce([Topic.MESSAGES])  # whoever waits hears of it
        self._wakeup.close()
        self._give_up()
        if self._settling is not None:
            await self._settling

    def answer(self, id: int, *, is_done: bool) -> None:
        """The first answer to a delivery counts."""
        if id in self._unanswered:
            self._unanswered.discard(id)
            (self._acknowledged if is_done else self._refused).append(id)
            if self._settling is None or self._settling.done():
                self._settling = asyncio.create_task(self._settle())

    def _give_up(self) -> None:
        self._waiting.clear()
        for id in list(self._unanswered):
            self.answer(id, is_done=False)

    async def _settle(self) -> None:
        while self._acknowledged or self._refused:
            acknowledged, self._acknowledged = self._acknowledged, []
            refused, self._refused = self._refused, []
            try:
                if acknowledged:
                    await self._queue.acknowledge(acknowledged, self._worker)
                if refused:
                    await self._queue.give_back(refused, self._worker)
            except Unavailable as error:
                # All come back by themselves; what was done with is found so.
                _log.warning("messages could not be answered: %s", error)


class PostgresDelivery:
    """A message as one worker received it."""

    def __init__(self, id: int, message: RunMessage, subscription: PostgresSubscription) -> None:
        self.message = message
        self._id = id
        self._subscription = subscription

    async def acknowledge(self) -> None:
        self._subscription.answer(self._id, is_done=True)

    async def refuse(self) -> None:
        self._subscription.answer(self._id, is_done=False)
