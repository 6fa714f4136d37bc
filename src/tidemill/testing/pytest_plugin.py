"""Fixtures for tests against real servers.

    # conftest.py
    pytest_plugins = ["tidemill.testing.pytest_plugin"]

`postgres_url`, `redis_url` and `rabbitmq_url` are empty places of the test's own, on servers that
the session (each process of pytest-xdist) starts when the first test asks. A test that kills,
pauses or wipes a server makes one for itself: `services.get(Postgres)`.

Where a server cannot be run the tests that need it are reported as skipped, with the reason; with
`CI` in the environment they fail.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

import pytest

from tidemill.testing.prerequisites import not_run
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service, ServiceMissing

S = TypeVar("S", bound=Service)


class Services:
    """Starts servers, and closes them when the one who asked is done."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def get(self, make: Callable[[], S]) -> S:
        """A server, started: `get(Redis)`, `get(lambda: Postgres(durable=False))`."""
        try:
            service = make()
        except ServiceMissing as missing:
            not_run(str(missing))
        self._stack.enter_context(service)
        return service


@pytest.fixture
def services() -> Iterator[Services]:
    """Servers of the test's own."""
    with ExitStack() as stack:
        yield Services(stack)


@pytest.fixture(scope="session")
def session_services() -> Iterator[Services]:
    """Servers that all tests of a process share, and leave as they found them."""
    with ExitStack() as stack:
        yield Services(stack)


@pytest.fixture(scope="session")
def shared_postgres(session_services: Services) -> Postgres:
    """A PostgreSQL that spares the disk."""
    return session_services.get(lambda: Postgres(durable=False))


@pytest.fixture(scope="session")
def shared_redis(session_services: Services) -> Redis:
    """A Redis that spares the disk."""
    return session_services.get(lambda: Redis(durable=False))


@pytest.fixture(scope="session")
def shared_rabbitmq(session_services: Services) -> RabbitMq:
    """A RabbitMQ."""
    return session_services.get(RabbitMq)


@pytest.fixture
def postgres_url(shared_postgres: Postgres) -> Iterator[str]:
    """An empty database."""
    with shared_postgres.fresh() as url:
        yield url


@pytest.fixture
def redis_url(shared_redis: Redis) -> Iterator[str]:
    """An empty database of Redis."""
    with shared_redis.fresh() as url:
        yield url


@pytest.fixture
def rabbitmq_url(shared_rabbitmq: RabbitMq) -> Iterator[str]:
    """An empty virtual host."""
    with shared_rabbitmq.fresh() as url:
        yield url
