"""What is declared at RabbitMQ, by whoever comes first.

    tidemill            topic exchange   task.<type>, status.<…>, worker.<…>: every message, for
                                         whoever listens; lane.<lane>: copies for the lane's queue
    tidemill.<lane>     quorum queue     for each lane, shared by its workers
    tidemill.dead       fanout exchange and quorum queue: what could not be delivered

Lanes of labels, strategies and single workers are not known to every worker: publishers say on
`lanes.announced` which they use, and say it again to whoever asks on `lanes.asked`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity

from tidemill.domain.task import parse_lane
from tidemill.infrastructure.queues.lane_names import name_of
from tidemill.infrastructure.queues.rabbitmq_link import RabbitMqOptions

EXCHANGE = "tidemill"
DEAD = "tidemill.dead"
LANES_ANNOUNCED = "lanes.announced"
LANES_ASKED = "lanes.asked"

_DEAD_LETTERS = 10_000
_ASK_AGAIN_SECONDS = (0.02, 0.1)  # whether another has created it
_UNUSED_MILLISECONDS = 600_000  # then the queue of a single worker goes


def key_of(lane: str) -> str:
    """The key under which the queue of a lane is bound."""
    return f"lane.{name_of(lane)}"


def queue_of(lane: str) -> str:
    """The name of the queue of a lane."""
    return f"{EXCHANGE}.{name_of(lane)}"


async def declare_exchanges(connection: AbstractConnection) -> None:
    """The exchanges and the queue of dead letters."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-max-length": _DEAD_LETTERS}

    async def declare(channel: AbstractChannel) -> None:
        await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
        dead = await channel.declare_exchange(DEAD, ExchangeType.FANOUT, durable=True)
        letters = await channel.declare_queue(DEAD, durable=True, arguments=arguments)
        await letters.bind(dead)

    await _declare(connection, DEAD, declare)


async def declare_lane(connection: AbstractConnection, lane: str, options: RabbitMqOptions) -> None:
    """The queue of a lane."""
    name = queue_of(lane)
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": options.delivery_limit,
        "x-max-length": options.max_length,
        "x-dead-letter-exchange": DEAD,
    }
    if parse_lane(lane).worker_id is not None:
        arguments["x-expires"] = _UNUSED_MILLISECONDS  # workers come back under other ids

    async def declare(channel: AbstractChannel) -> None:
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        await queue.bind(EXCHANGE, key_of(lane))

    await _declare(connection, name, declare)


async def _declare(
    connection: AbstractConnection,
    queue: str,
    declare: Callable[[AbstractChannel], Awaitable[None]],
) -> None:
    """Declare a queue and what belongs to it; while nobody else does, where it is not there yet.

    RabbitMQ 3.10 may fail for seconds where two create one quorum queue at the same time. A queue
    that is exclusive to this connection is the lock, and gone with it.
    """
    lock = f"{queue}:lock"
    while True:
        is_there = await _exists(connection, queue)
        channel = await connection.channel()
        try:
            if not is_there:
                await channel.declare_queue(lock, exclusive=True)
        except ChannelLockedResource:
            await asyncio.sleep(random.uniform(*_ASK_AGAIN_SECONDS))  # noqa: S311  no secret
            continue
        await declare(channel)
        if not is_there:
            await channel.queue_delete(lock)
        await channel.close()
        return


async def _exists(connection: AbstractConnection, queue: str) -> bool:
    channel = await connection.channel()
    try:
        await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def declare_ear(channel: AbstractChannel, route: str) -> AbstractQueue:
    """A queue of this connection alone, for what is said on `route` while it lasts."""
    ear = await channel.declare_queue(exclusive=True, auto_delete=True)
    await ear.bind(EXCHANGE, route)
    return ear
