"""A PostgreSQL server for tests."""

import asyncio
import itertools
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import asyncpg

from tidemill.testing.services.programs import Command
from tidemill.testing.services.service import Service

_FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres(Service):
    """PostgreSQL, with the durability that it has by default.

    `durable=False` spares the disk (no fsync, no full pages): quicker, and right for tests that do
    not ask what a lost machine would have kept. What is committed survives `kill` either way: the
    kernel still has it.
    """

    name = "postgres"
    program = "postgres"
    folders = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
    image = "docker.io/library/postgres:17"
    stop_signal = signal.SIGINT  # "fast": it ends its clients' sessions instead of waiting for them
    hello = bytes.fromhex("0000000804d2162f")  # may we speak TLS?
    answers = (b"N", b"S")

    def __init__(self, *, durable: bool = True, settings: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            *(() if durable else _FORGETFUL),
            *settings,
        )
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return self._url("postgres")

    @contextmanager
    def fresh(self, template: str = "template1") -> Iterator[str]:
        """The URL of a database of its own, a copy of `template`."""
        name = f"fresh_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield self._url(name)
        finally:
            if self.is_running:
                self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement in the database of `url`, as the superuser."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        # In a thread of its own, since the caller may well be on an event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, run()).result()

    def _url(self, database: str) -> str:
        return f"postgresql://tidemill@127.0.0.1:{self.port}/{database}"

    def _make_data(self) -> None:
        self._processes.run(
            self._command(
                "initdb", f"--pgdata={self.data}", "--username=tidemill", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
            )
        )  # fmt: skip

    def _start(self) -> tuple[Command, str]:
        settings = [part for setting in self._settings for part in ("-c", setting)]
        command = self._command("postgres", "-D", str(self.data), *settings)
        return command, "database system is ready to accept connections"
