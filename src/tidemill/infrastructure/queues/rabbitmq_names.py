"""What is declared at RabbitMQ, by whoever comes first.

    tidemill            topic exchange   task.<type>, status.<…>, worker.<…>: every message, for
                                         whoever listens; lane.<lane>: copies for the lane's queue
    tidemill.<lane>     quorum queue     for each lane, shared by its workers
    tidemill.dead       fanout exchange and quorum queue: what could not be delivered

Lanes of labels are not known to every worker: publishers say on `lanes.announced` which they use,
and say it again to whoever asks on `lanes.asked`.
"""

from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

from tidemill.infrastructure.queues.lane_names import name_of
from tidemill.infrastructure.queues.rabbitmq_link import RabbitMqOptions

EXCHANGE = "tidemill"
DEAD = "tidemill.dead"
LANES_ANNOUNCED = "lanes.announced"
LANES_ASKED = "lanes.asked"

_DEAD_LETTERS = 10_000


def key_of(lane: str) -> str:
    """The key under which the queue of a lane is bound."""
    return f"lane.{name_of(lane)}"


def queue_of(lane: str) -> str:
    """The name of the queue of a lane."""
    return f"{EXCHANGE}.{name_of(lane)}"


async def declare_exchanges(channel: AbstractChannel) -> AbstractExchange:
    """The exchanges and the queue of dead letters; returns the exchange of messages."""
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    dead = await channel.declare_exchange(DEAD, ExchangeType.FANOUT, durable=True)
    letters = await channel.declare_queue(
        DEAD,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-max-length": _DEAD_LETTERS},
    )
    await letters.bind(dead)
    return exchange


async def declare_lane(
    channel: AbstractChannel, lane: str, options: RabbitMqOptions
) -> AbstractQueue:
    """The queue of a lane."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": options.delivery_limit,
        "x-max-length": options.max_length,
        "x-dead-letter-exchange": DEAD,
    }
    queue = await channel.declare_queue(queue_of(lane), durable=True, arguments=arguments)
    await queue.bind(EXCHANGE, key_of(lane))
    return queue


async def declare_ear(channel: AbstractChannel, route: str) -> AbstractQueue:
    """A queue of this connection alone, for what is said on `route` while it lasts."""
    ear = await channel.declare_queue(exclusive=True, auto_delete=True)
    await ear.bind(EXCHANGE, route)
    return ear
