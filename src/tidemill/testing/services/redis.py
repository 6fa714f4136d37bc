"""A Redis server for tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tidemill.testing.services.programs import Command
from tidemill.testing.services.service import Service

_DATABASES = 1_000


class Redis(Service):
    """Redis that appends what it is told to a file and syncs that every second.

    `durable=False` keeps nothing on the disk: what it had is gone with its process.

    Channels of publish/subscribe belong to the server, not to one of its databases: tests on one
    server that use them need names of their own.
    """

    name = "redis"
    program = "redis-server"
    folders = ()
    image = "docker.io/library/redis:7"
    hello = b"PING\r\n"
    answers = (b"+PONG",)

    def __init__(self, *, durable: bool = True) -> None:
        super().__init__()
        self._appends = "yes" if durable else "no"
        self._free = list(range(_DATABASES - 1, 0, -1))

    @property
    def url(self) -> str:
        return self._url(0)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of an empty database of its own."""
        number = self._free.pop()
        try:
            yield self._url(number)
        finally:
            if self.is_running:
                with redis.Redis.from_url(self._url(number)) as client:
                    client.flushdb()
                self._free.append(number)

    def _url(self, database: int) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def _make_data(self) -> None:
        self._make_directory(self.data)

    def _start(self) -> tuple[Command, str]:
        command = self._command(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
            "--dir", str(self.data), "--databases", str(_DATABASES), "--save", "",
            "--appendonly", self._appends, "--appendfsync", "everysec",
        )  # fmt: skip
        return command, "Ready to accept connections"
