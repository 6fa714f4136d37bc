"""PostgreSQL and the brokers of one benchmark: each starts when it is first asked for."""

import asyncio
import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import aio_pika
import asyncpg
import redis

from benchmarks.processes import cpu_seconds
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service

_KINDS: dict[str, type[Service]] = {"postgres": Postgres, "rabbitmq": RabbitMq, "redis": Redis}


class Servers:
    """What all contenders of a benchmark share; everything is stopped at the end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._started: dict[str, Service] = {}

    def fresh(self, name: str) -> contextlib.AbstractContextManager[str]:
        """The URL of a database, a Redis database or a virtual host that is empty now."""
        return self._server(name).fresh()

    def cpu(self, names: Iterable[str]) -> dict[str, float]:
        """Seconds of processor time until now, of all processes of each of these."""
        return {name: cpu_seconds(self._server(name).pids[0]) for name in names}

    def versions(self) -> dict[str, str]:
        """Of all that were asked for."""
        return {name: _version_of(server) for name, server in self._started.items()}

    def _server(self, name: str) -> Service:
        if name not in self._started:
            self._started[name] = self._stack.enter_context(_KINDS[name]())
        return self._started[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def _version_of(server: Service) -> str:
    if isinstance(server, Redis):
        with redis.Redis.from_url(server.url) as client:
            return str(client.info("server")["redis_version"])
    of_server = _version_of_rabbitmq if isinstance(server, RabbitMq) else _version_of_postgres
    return asyncio.run(of_server(server.url))


async def _version_of_rabbitmq(url: str) -> str:
    async with await aio_pika.connect(url) as connection:
        assert connection.transport is not None
        properties = connection.transport.connection.server_properties
        return str(properties["version"])


async def _version_of_postgres(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
