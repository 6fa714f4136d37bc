"""What one worker receives from RabbitMQ."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aio_pika import DeliveryMode, Message
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
)

from tidemill.domain.worker import Worker
from tidemill.foundation.clock import Clock
from tidemill.infrastructure.queues.address import Address
from tidemill.infrastructure.queues.backoff import Backoff
from tidemill.infrastructure.queues.envelope import (
    UnreadableMessage,
    announced_lanes,
    decode,
    run_message,
)
from tidemill.infrastructure.queues.lane_names import plain_lanes, serves
from tidemill.infrastructure.queues.rabbitmq_link import (
    FAILURES,
    RabbitMqOptions,
    connect,
    hang_up,
)
from tidemill.infrastructure.queues.rabbitmq_names import (
    DEAD,
    EXCHANGE,
    LANES_ANNOUNCED,
    LANES_ASKED,
    declare_ear,
    declare_exchanges,
    declare_lane,
    queue_of,
)
from tidemill.infrastructure.queues.shelf import HeldDelivery, Shelf

_log = logging.getLogger("tidemill.queue")


class RabbitMqSubscription:
    """One connection, and on it a channel for each lane that its worker serves.

    A worker that takes nothing while a delivery gets too old is sent nothing until it asks again.
    """

    def __init__(
        self, address: Address, worker: Worker, clock: Clock, options: RabbitMqOptions
    ) -> None:
        self._address = address
        self._worker = worker
        self._clock = clock
        self._options = options
        self._shelf = Shelf[AbstractIncomingMessage](options.hold_seconds, self._note_answer)
        self._dead: AbstractExchange
        self._lanes = set(plain_lanes(worker))
        self._receiving_lanes: dict[str, asyncio.Task[None]] = {}
        self._connection: AbstractConnection | None = None
        self._closing = asyncio.Event()
        self._answers: deque[tuple[AbstractIncomingMessage, bool]] = deque()
        self._has_answers = asyncio.Event()
        self._answering = asyncio.create_task(self._answer_for_ever(), name="rabbitmq: answer")
        self._receiving = asyncio.create_task(
            self._keep(self._receive, self._closing.is_set), name="rabbitmq: receive"
        )

    async def receive(self) -> HeldDelivery[AbstractIncomingMessage]:
        return await self._shelf.take()

    def received(self) -> HeldDelivery[AbstractIncomingMessage] | None:
        return self._shelf.take_now()

    async def close(self) -> None:
        self._closing.set()
        self._shelf.close()
        await _end([self._answering])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.answer_within_seconds):
                await self._send_answers()
        if self._connection is not None:
            await hang_up(self._connection)
        await _end([self._receiving])

    # Receiving

    async def _keep(
        self, session: Callable[[Backoff], Awaitable[None]], is_over: Callable[[], bool]
    ) -> None:
        """Begin anew whenever it ends; pauses grow until it resets them.

        The client may turn a cancellation into a failure: what is over is asked, too.
        """
        backoff = Backoff()
        while not is_over():
            try:
                await session(backoff)
            except FAILURES as error:
                if is_over():
                    return
                said = self._address.said(error)
                _log.warning("%s: %s; trying again", self._address.shown, said)
            except Exception:
                _log.exception("receiving from %s failed; trying again", self._address.shown)
            await self._clock.sleep(backoff.next_seconds())

    async def _receive(self, backoff: Backoff) -> None:
        """Receive on one connection until it ends."""
        connection = self._connection = await connect(self._address, self._options)
        try:
            listening = await self._find_lanes(connection)
            backoff.reset()
            for lane in self._lanes:
                self._open_lane(connection, lane)
            await listening.closed()
        finally:
            await hang_up(connection)
            await _end(self._receiving_lanes.values())
            self._receiving_lanes.clear()
            self._shelf.forget(lambda _: True)

    async def _find_lanes(self, connection: AbstractConnection) -> AbstractChannel:
        """Hear of lanes of labels, those there are and those to come, while the channel lasts."""
        await declare_exchanges(connection)
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        self._dead = await channel.get_exchange(DEAD, ensure=False)
        ear = await declare_ear(channel, LANES_ANNOUNCED)

        async def heed(message: AbstractIncomingMessage) -> None:
            for lane in announced_lanes(decode(message.body)):
                if serves(self._worker, lane):
                    self._lanes.add(lane)
                    self._open_lane(connection, lane)

        await ear.consume(heed, no_ack=True)
        await exchange.publish(Message(b""), LANES_ASKED, mandatory=False)
        return channel

    def _open_lane(self, connection: AbstractConnection, lane: str) -> None:
        if lane not in self._receiving_lanes:
            session = partial(self._receive_lane, connection, lane)
            is_over = partial(_is_closed, connection)
            self._receiving_lanes[lane] = asyncio.create_task(
                self._keep(session, is_over), name=lane
            )

    async def _receive_lane(
        self, connection: AbstractConnection, lane: str, backoff: Backoff
    ) -> None:
        """Receive one lane on a channel of its own, so that one that is broken stops no other."""
        await declare_lane(connection, lane, self._options)
        channel = await connection.channel(publisher_confirms=False)
        underlay = await channel.get_underlay_channel()
        try:
            await channel.set_qos(self._options.prefetch)
            queue = await channel.get_queue(queue_of(lane), ensure=False)
            queue_gone = asyncio.Event()
            underlay.on_consumer_cancel_callbacks.add(lambda _: queue_gone.set())
            while not channel.is_closed and not queue_gone.is_set():
                await self._shelf.attended.wait()
                within = self._options.answer_within_seconds
                tag = await queue.consume(self._shelve_or_bury, timeout=within)
                backoff.reset()
                await _any_of(channel.closed(), queue_gone.wait(), self._shelf.neglected.wait())
                if self._shelf.neglected.is_set():
                    await queue.cancel(tag, timeout=within)
            await channel.close()
        finally:
            self._shelf.forget(lambda message: message.channel is underlay)

    async def _shelve_or_bury(self, message: AbstractIncomingMessage) -> None:
        """Offer it to the worker, or send it to the dead letters with the reason."""
        try:
            self._shelf.put(run_message(decode(message.body)), message)
        except UnreadableMessage as error:
            await self._bury(message, f"unreadable: {error}")

    async def _bury(self, message: AbstractIncomingMessage, reason: str) -> None:
        route = message.routing_key or ""
        _log.warning("a message of %s goes to the dead letters: %s", route, reason)
        letter = Message(
            message.body,
            delivery_mode=DeliveryMode.PERSISTENT,
            headers={"x-tidemill-reason": reason},
        )
        try:
            await self._dead.publish(letter, route, timeout=self._options.answer_within_seconds)
            await message.ack()
        except FAILURES:
            with contextlib.suppress(*FAILURES):
                await message.reject(requeue=False)  # the broker buries it, without the reason

    # Answering

    def _note_answer(self, message: AbstractIncomingMessage, gives_back: bool) -> None:
        self._answers.append((message, gives_back))
        self._has_answers.set()

    async def _answer_for_ever(self) -> None:
        while True:
            await self._has_answers.wait()
            self._has_answers.clear()
            await self._send_answers()

    async def _send_answers(self) -> None:
        while self._answers:
            message, gives_back = self._answers.popleft()
            # On a channel that is closed there is nothing to answer: it is delivered again.
            with contextlib.suppress(*FAILURES):
                await (message.nack() if gives_back else message.ack())


def _is_closed(connection: AbstractConnection) -> bool:
    return connection.close_called or not connection.connected.is_set()


async def _any_of(*happenings: Awaitable[object]) -> None:
    """Return when one of these has happened."""
    waiting = [asyncio.ensure_future(each) for each in happenings]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _end(tasks: Iterable["asyncio.Task[None]"]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
