"""Hands messages to RabbitMQ, and knows of each that the broker has it."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec
from aio_pika import DeliveryMode, Message
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
)
from aio_pika.exceptions import (
    AuthenticationError,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)

from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.infrastructure.queues.address import Address
from tidemill.infrastructure.queues.backoff import Backoff
from tidemill.infrastructure.queues.cancellation import heed_cancellation
from tidemill.infrastructure.queues.envelope import LIFETIME, encode, lanes_announcement
from tidemill.infrastructure.queues.lane_names import is_plain
from tidemill.infrastructure.queues.rabbitmq_link import (
    FAILURES,
    RabbitMqOptions,
    connect,
    hang_up,
)
from tidemill.infrastructure.queues.rabbitmq_names import (
    EXCHANGE,
    LANES_ANNOUNCED,
    LANES_ASKED,
    declare_ear,
    declare_exchanges,
    declare_lane,
    key_of,
    queue_of,
)

_log = logging.getLogger("tidemill.queue")

_REFUSED = (
    AuthenticationError,
    ProbableAuthenticationError,
    ChannelPreconditionFailed,
)
_ANNOUNCE_AGAIN_SECONDS = 30.0
_CONFIRMED_WITHIN = 0.4  # of the time that a publish has: enough is left to repair a queue


class Outgoing(msgspec.Struct, frozen=True):
    """A message and its route; one of a lane has to reach the lane's queue.

    The broker takes it for a dead letter when it is `lifetime` old.
    """

    route: str
    body: bytes
    lane: str | None = None
    lifetime: timedelta | None = None


class _Line(msgspec.Struct):
    """A connection and what is known of the broker since it was made."""

    connection: AbstractConnection
    channel: AbstractChannel
    exchange: AbstractExchange
    declared: set[str] = msgspec.field(default_factory=set)
    proven: set[str] = msgspec.field(default_factory=set)  # its queue confirmed something
    announced: dict[str, float] = msgspec.field(default_factory=dict)  # and when again


class RabbitMqPublisher:
    """One connection, made when it is needed and made anew when it broke."""

    def __init__(self, address: Address, clock: Clock, options: RabbitMqOptions) -> None:
        self._address = address
        self._clock = clock
        self._options = options
        self._line: _Line | None = None
        self._dialling = asyncio.Lock()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Return once the broker has all of them; raises Unavailable when that is not sure.

        What is not confirmed is published again until the time is over, so the broker may have
        some of them twice.
        """
        if not messages:
            return
        backoff = Backoff()
        failure: BaseException = TimeoutError("no answer")
        try:
            async with asyncio.timeout(self._options.answer_within_seconds):
                while True:
                    try:
                        messages = await self._publish_once(messages)
                    except _REFUSED as error:
                        raise self._unavailable(error) from error
                    except FAILURES as error:
                        failure = error
                        await self._drop_line()
                    heed_cancellation()
                    if not messages:
                        return
                    await self._clock.sleep(backoff.next_seconds())
        except TimeoutError:
            raise self._unavailable(failure, was_reached=False) from failure

    async def check(self) -> None:
        """Return when the broker answers; raises Unavailable."""
        try:
            async with asyncio.timeout(self._options.answer_within_seconds):
                line = await self._open_line()
                # One of its own: what is given up half-way breaks no other.
                channel = await line.connection.channel()
                await channel.close()
        except _REFUSED as error:
            raise self._unavailable(error) from error
        except FAILURES as error:
            raise self._unavailable(error, was_reached=False) from error

    async def close(self) -> None:
        """Hang up."""
        await self._drop_line()

    async def _publish_once(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Publish these; those that the broker did not take are left to be published again."""
        line = await self._open_line()
        await self._declare_lanes(line, messages)
        sending = [asyncio.create_task(self._send(line, each)) for each in messages]
        try:
            await asyncio.wait(sending, timeout=self._confirm_within_seconds)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.wait(sending)
        left = [
            (message, failure)
            for message, task in zip(messages, sending, strict=True)
            if (failure := _failure_of(task)) is not None
        ]
        await self._mend(line, left)
        return [message for message, _ in left]

    async def _send(self, line: _Line, outgoing: Outgoing) -> None:
        message = Message(
            outgoing.body,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={"CC": [key_of(outgoing.lane)]} if outgoing.lane else {},
            expiration=outgoing.lifetime,
        )
        await line.exchange.publish(message, outgoing.route, mandatory=outgoing.lane is not None)
        if outgoing.lane:
            line.proven.add(outgoing.lane)

    async def _mend(self, line: _Line, left: Sequence[tuple[Outgoing, BaseException]]) -> None:
        """See to it that what was not taken may be taken next time; raises what stands against."""
        for message, failure in left:
            lane = message.lane
            if lane is not None and isinstance(failure, PublishError):
                line.declared.discard(lane)  # the queue is gone
            elif lane in line.declared and lane not in line.proven and _is_silence(failure):
                await self._replace_queue(line, lane)
            elif not _is_silence(failure) or lane in line.proven:
                raise failure

    async def _replace_queue(self, line: _Line, lane: str) -> None:
        """A queue that never confirmed anything while its broker answers is broken for good.

        RabbitMQ 3.10 leaves a quorum queue behind that takes nothing when it is killed within a
        second of its declaration. What such a queue holds cannot be had either.
        """
        channel = await line.connection.channel()  # an answer: the broker is there
        _log.warning("%s: the queue of lane %s takes nothing; made anew", self._address.shown, lane)
        await channel.queue_delete(queue_of(lane))
        await channel.close()
        line.declared.discard(lane)

    # Lanes

    async def _declare_lanes(self, line: _Line, messages: Sequence[Outgoing]) -> None:
        lanes = {message.lane for message in messages if message.lane is not None}
        for lane in lanes - line.declared:
            await declare_lane(line.connection, lane, self._options)
            line.declared.add(lane)
        now = self._clock.monotonic()
        due = [lane for lane in _to_be_announced(lanes) if line.announced.get(lane, now) <= now]
        await self._announce(line, due)
        line.announced.update(dict.fromkeys(due, now + _ANNOUNCE_AGAIN_SECONDS))
        self._forget_unused(line, now)

    def _forget_unused(self, line: _Line, now: float) -> None:
        """Forget lanes that nothing was published to for so long that nothing is in them."""
        before = now - LIFETIME.total_seconds()
        for lane in [lane for lane, again_at in line.announced.items() if again_at < before]:
            line.declared.discard(lane)
            line.proven.discard(lane)
            del line.announced[lane]

    async def _announce(self, line: _Line, lanes: Sequence[str]) -> None:
        if lanes:
            body = encode(lanes_announcement(lanes, self._clock.now()))
            await line.exchange.publish(Message(body), LANES_ANNOUNCED, mandatory=False)

    # The connection

    async def _open_line(self) -> _Line:
        async with self._dialling:
            if self._line is None or self._line.channel.is_closed:
                await self._drop_line()
                self._line = await self._dial()
            return self._line

    async def _dial(self) -> _Line:
        connection = await connect(self._address, self._options)
        try:
            await declare_exchanges(connection)
            channel = await connection.channel(on_return_raises=True)
            exchange = await channel.get_exchange(EXCHANGE, ensure=False)
            line = _Line(connection, channel, exchange)
            ear = await declare_ear(channel, LANES_ASKED)

            async def tell(_: AbstractIncomingMessage) -> None:
                await self._announce(line, _to_be_announced(line.declared))

            await ear.consume(tell, no_ack=True)
        except BaseException:
            await hang_up(connection)
            raise
        return line

    async def _drop_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await hang_up(line.connection)

    @property
    def _confirm_within_seconds(self) -> float:
        return self._options.answer_within_seconds * _CONFIRMED_WITHIN

    def _unavailable(self, error: BaseException, *, was_reached: bool = True) -> Unavailable:
        said = self._address.said(error)
        return Unavailable(
            f"the message queue at {self._address.shown} is unavailable: {said}",
            was_reached=was_reached,
        )


def _failure_of(task: "asyncio.Task[None]") -> BaseException | None:
    """Why a message is not confirmed, or None where it is."""
    return TimeoutError("not confirmed") if task.cancelled() else task.exception()


def _is_silence(failure: BaseException) -> bool:
    """Whether the queue did not take it, for all that the connection works."""
    return isinstance(failure, TimeoutError | DeliveryError)


def _to_be_announced(lanes: Iterable[str]) -> list[str]:
    """The lanes that nobody knows of by their queue and kind alone."""
    return [lane for lane in lanes if not is_plain(lane)]
