"""How RabbitMQ is reached, and what may go wrong with it."""

import asyncio
import contextlib
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import aio_pika
import msgspec
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError

from tidemill.infrastructure.queues.address import Address

# A RuntimeError is what the client says of a connection or channel that is closed.
FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError)

_CLOSE_WITHIN_SECONDS = 1.0


class RabbitMqOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much and how long; durations in seconds.

    `delivery_limit` and `max_length` belong to the queues: all who use a broker say the same.
    """

    prefetch: int = 16  # messages of one lane that a worker holds unanswered
    hold_seconds: float = 10.0  # unanswered for so long, it goes back by itself
    delivery_limit: int = 20  # given back more often, it is a dead letter
    max_length: int = 100_000  # of a lane; what is older becomes a dead letter
    heartbeat_seconds: int = 5
    answer_within_seconds: float = 5.0


DEFAULTS = RabbitMqOptions()


async def connect(address: Address, options: RabbitMqOptions) -> AbstractConnection:
    """A connection that answers; raises one of FAILURES."""
    parts = urlsplit(address.url)
    query = {"heartbeat": str(options.heartbeat_seconds), **dict(parse_qsl(parts.query))}
    url = urlunsplit(parts._replace(query=urlencode(query)))
    return await aio_pika.connect(url, timeout=options.answer_within_seconds)


async def hang_up(connection: AbstractConnection) -> None:
    """Close a connection, whatever it is like."""
    with contextlib.suppress(*FAILURES):
        async with asyncio.timeout(_CLOSE_WITHIN_SECONDS):
            await connection.close()
