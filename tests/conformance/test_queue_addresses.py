"""Where a broker is: what is refused before it is asked, and what is never said."""

import logging
from collections.abc import Callable

import pytest

from tidemill.errors import InvalidSettings, Unavailable
from tidemill.foundation.clock import SystemClock
from tidemill.foundation.queue import RunMessage
from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue
from tidemill.infrastructure.queues.rabbitmq_link import RabbitMqOptions
from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue
from tidemill.infrastructure.queues.redis_subscription import RedisOptions
from tidemill.testing.builders import worker

SECRET = "s%3Ecret"  # s>cret, as a URL has to spell it
MAKERS = {"redis": RedisStreamsQueue, "amqp": RabbitMqQueue}


@pytest.fixture(params=MAKERS)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(scheme: str) -> Callable[..., object]:
    return MAKERS[scheme]


def test_a_plain_url_is_refused_where_tls_is_required(
    scheme: str, make: Callable[..., object]
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        make(f"{scheme}://user:{SECRET}@broker.example/", SystemClock(), require_tls=True)

    assert str(refused.value) == (
        f"message_queue.url: {scheme}:// is not encrypted and message_queue.require_tls is on: "
        f"use {scheme}s://"
    )


async def test_an_encrypted_url_is_taken_where_tls_is_required(
    scheme: str, make: Callable[..., "RedisStreamsQueue | RabbitMqQueue"]
) -> None:
    queue = make(f"{scheme}s://user:{SECRET}@broker.example/", SystemClock(), require_tls=True)

    await queue.close()


@pytest.mark.parametrize("rest", ["", "host:port", "[::1", "/path"])
def test_a_url_that_names_no_place_is_refused(
    scheme: str, make: Callable[..., object], rest: str
) -> None:
    with pytest.raises(InvalidSettings, match=r"message_queue\.url"):
        make(f"{scheme}://{rest}", SystemClock())


def test_a_url_of_something_else_is_refused(make: Callable[..., object]) -> None:
    with pytest.raises(InvalidSettings, match="must begin with"):
        make("https://broker.example", SystemClock())


def test_an_option_that_redis_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="query"):
        RedisStreamsQueue("redis://broker.example/0?colour=blue", SystemClock())


@pytest.mark.parametrize("kind", ["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)])
async def test_no_password_is_told_when_a_broker_refuses_it(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = request.getfixturevalue(f"{kind}_url")
    place = url.partition("@")[2] or url.partition("://")[2]
    queue: RedisStreamsQueue | RabbitMqQueue
    if kind == "redis":
        given = RedisOptions(answer_within_seconds=1)
        queue = RedisStreamsQueue(f"redis://user:{SECRET}@{place}", SystemClock(), given)
    else:
        options = RabbitMqOptions(answer_within_seconds=1)
        queue = RabbitMqQueue(f"amqp://guest:{SECRET}@{place}", SystemClock(), options)
    await queue.subscribe(worker())
    with pytest.raises(Unavailable) as refused:
        await queue.publish([RunMessage("default/shell", (1,))])
    await queue.close()

    said = f"{refused.value} {caplog.text}"
    assert place in said
    assert SECRET not in said
    assert "s>cret" not in said
