"""What one worker receives from Redis."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from redis.exceptions import RedisError

from tidemill.domain.worker import Worker
from tidemill.foundation.clock import Clock
from tidemill.infrastructure.queues.address import Address
from tidemill.infrastructure.queues.backoff import Backoff
from tidemill.infrastructure.queues.envelope import (
    Envelope,
    UnreadableMessage,
    decode,
    encode,
    has_expired,
    run_message,
)
from tidemill.infrastructure.queues.lane_names import plain_lanes, serves
from tidemill.infrastructure.queues.redis_lanes import (
    Answer,
    Entry,
    LanesGone,
    RedisLanes,
    stream_of,
)
from tidemill.infrastructure.queues.shelf import HeldDelivery, Shelf

_log = logging.getLogger("tidemill.queue")

# A RuntimeError is what uvloop says of a connection that is closed.
FAILURES = (RedisError, OSError, TimeoutError, RuntimeError)

BLOCK_SECONDS = 1.0  # how soon a lane that is new is seen
_BLOCK_WHILE_FULL_SECONDS = 0.1  # a lane that is full now may soon have room
_ANSWERS_AT_ONCE = 500
_READ_AT_ONCE = 2  # messages of a lane: what one has read, others do without


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much and how long; durations in seconds."""

    prefetch: int = 16  # messages of one lane that a worker holds unanswered
    abandoned_after_seconds: float = 20.0  # unanswered for so long, it is taken over by others
    delivery_limit: int = 20  # delivered more often, it is a dead letter
    max_length: int = 100_000  # of a lane; what is older is dropped
    answer_within_seconds: float = 5.0


DEFAULTS = RedisOptions()


class _Received(msgspec.Struct, frozen=True):
    entry: Entry
    envelope: Envelope


class RedisSubscription:
    """Reads the lanes that its worker serves while it is asked to, and answers in batches.

    What is not answered in half the time after which others take it over goes back by itself.
    """

    def __init__(
        self,
        lanes: RedisLanes,
        address: Address,
        worker: Worker,
        clock: Clock,
        options: RedisOptions,
    ) -> None:
        self._lanes = lanes
        self._address = address
        self._worker = worker
        self._clock = clock
        self._options = options
        self._shelf = Shelf[_Received](options.abandoned_after_seconds / 2, self._note_answer)
        self._streams: dict[str, str] = {}  # by lane
        self._lanes_known = 0
        self._look_for_abandoned_at = clock.monotonic()
        self._answers: list[Answer] = []
        self._has_answers = asyncio.Event()
        self._is_closing = False
        self._reading = asyncio.create_task(self._keep(self._read), name="redis: receive")
        self._answering = asyncio.create_task(self._keep(self._answer), name="redis: answer")

    async def receive(self) -> HeldDelivery[_Received]:
        return await self._shelf.take()

    def received(self) -> HeldDelivery[_Received] | None:
        return self._shelf.take_now()

    async def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._reading.cancel()
        self._answering.cancel()
        await asyncio.wait([self._reading, self._answering])
        self._shelf.close()
        try:
            async with asyncio.timeout(self._options.answer_within_seconds):
                await self._leave()
        except (*FAILURES, LanesGone) as error:
            self._warn("what is left there goes to others later", error)

    async def _leave(self) -> None:
        """Answer what is to be answered, and give back what may not even have arrived."""
        await self._send_answers()
        streams = list(self._streams.values())
        while streams and (left := await self._lanes.held_by(self._worker.id, streams)):
            for entry in left:
                self._shelve_or_bury(entry)
            await self._send_answers()

    async def _keep(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take this step until closed; one that fails is taken again after a pause that grows."""
        backoff = Backoff()
        while not self._is_closing:  # the client may lose a cancellation to an answer that comes
            try:
                await step()
                backoff.reset()
            except LanesGone:
                self._streams.clear()
                self._lanes_known = 0
            except FAILURES as error:
                self._warn("trying again", error)
                await self._clock.sleep(backoff.next_seconds())
            except Exception:
                _log.exception("receiving from %s failed; trying again", self._address.shown)
                await self._clock.sleep(backoff.next_seconds())

    # Receiving

    async def _read(self) -> None:
        await self._shelf.wanted.wait()
        if not self._streams:
            await self._join_lanes()
        await self._take_over_abandoned()
        lanes, entries = await self._read_lanes()
        for entry in entries:
            self._shelve_or_bury(entry)
        if lanes != self._lanes_known:
            await self._join_lanes()

    async def _join_lanes(self) -> None:
        known = await self._lanes.known(plain_lanes(self._worker))
        served = {lane: stream_of(lane) for lane in known if serves(self._worker, lane)}
        await self._lanes.join(served.keys() - self._streams.keys())
        self._streams = served
        self._lanes_known = len(known)

    async def _take_over_abandoned(self) -> None:
        now, after = self._clock.monotonic(), self._options.abandoned_after_seconds
        if now < self._look_for_abandoned_at:
            return
        streams = list(self._streams.values())
        for entry in await self._lanes.take_over(self._worker.id, streams, after):
            self._shelve_or_bury(entry)
        await self._lanes.forget_vanished(streams)
        self._look_for_abandoned_at = now + after / 2

    async def _read_lanes(self) -> tuple[int, list[Entry]]:
        held = {lane: self._shelf.held(lane) for lane in self._streams}
        open_lanes = [lane for lane, count in held.items() if count < self._options.prefetch]
        is_one_full = len(open_lanes) < len(held)
        if not open_lanes:
            await self._clock.sleep(_BLOCK_WHILE_FULL_SECONDS)
            return self._lanes_known, []
        return await self._lanes.read(
            self._worker.id,
            [self._streams[lane] for lane in open_lanes],
            count=min(
                self._options.prefetch - max(held[lane] for lane in open_lanes), _READ_AT_ONCE
            ),
            block_seconds=_BLOCK_WHILE_FULL_SECONDS if is_one_full else BLOCK_SECONDS,
        )

    def _shelve_or_bury(self, entry: Entry) -> None:
        """Offer it to the worker, or send it to the dead letters with the reason."""
        try:
            envelope = decode(entry.body)
            message = run_message(envelope)
        except UnreadableMessage as error:
            self._bury(entry, f"unreadable: {error}")
            return
        if has_expired(envelope, entry.age_seconds):
            self._bury(entry, "expired")
            return
        deliveries = envelope.retry_count + entry.deliveries
        if deliveries > self._options.delivery_limit:
            self._bury(entry, f"delivered {deliveries - 1} times and never acknowledged")
            return
        self._shelf.put(message, _Received(entry, envelope))

    # Answering

    def _note_answer(self, received: _Received, gives_back: bool) -> None:
        entry, envelope = received.entry, received.envelope
        again = None
        if gives_back:
            deliveries = envelope.retry_count + entry.deliveries
            again = encode(msgspec.structs.replace(envelope, retry_count=deliveries))
        self._answers.append(Answer(entry, again=again))
        self._has_answers.set()

    def _bury(self, entry: Entry, reason: str) -> None:
        _log.warning("a message of %s goes to the dead letters: %s", entry.stream, reason)
        self._answers.append(Answer(entry, dead=reason))
        self._has_answers.set()

    async def _answer(self) -> None:
        await self._has_answers.wait()
        await self._send_answers()
        self._has_answers.clear()

    async def _send_answers(self) -> None:
        while self._answers:
            batch = self._answers[:_ANSWERS_AT_ONCE]
            await self._lanes.settle(batch)
            del self._answers[: len(batch)]

    def _warn(self, what_follows: str, error: BaseException) -> None:
        _log.warning("%s: %s; %s", self._address.shown, self._address.said(error), what_follows)
