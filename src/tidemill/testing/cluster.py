"""A cluster of real processes on a real database, each behind a network that can be broken.

    with Cluster(directory, postgres.url) as cluster:
        api = cluster.api()
        cluster.dispatcher()
        worker = cluster.worker()
        worker.link.fault = Fault.BLACK_HOLE
        worker.process.kill()

Everything that was started is stopped at the end, whatever state it is in.
"""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tidemill.infrastructure.database.postgres_schema import upgrade_postgres
from tidemill.testing.faults import FaultyLink
from tidemill.testing.server import Process, Server


class Member:
    """One role: its process, where that keeps what is its own, and its way to the database."""

    def __init__(self, role: str, process: Process, data_dir: Path, link: FaultyLink) -> None:
        self.role = role
        self.process = process
        self.data_dir = data_dir
        self.link = link


class Cluster:
    """Roles on the database of `database_url`, which is migrated first.

    `environment` holds settings for all of them. Members keep their logs in `directory`.
    """

    def __init__(
        self, directory: Path, database_url: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.members: list[Member] = []
        self._url = database_url
        self._environment = environment or {}
        self._stack = ExitStack()

    def api(self) -> Server:
        """An API that is ready; its member is the newest of `members`."""
        link = self._link()
        directory = self._directory("api")
        server = Server(directory, serves=("serve", "api"), environment=self._settings(link))
        self._add(Member("api", server, directory, link))
        return server

    def dispatcher(self) -> Member:
        """A dispatcher that is ready."""
        return self._role("dispatcher")

    def worker(self) -> Member:
        """A worker that is ready, with a name of its own."""
        return self._role("worker")

    def __enter__(self) -> Self:
        asyncio.run(upgrade_postgres(self._url))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _role(self, role: str) -> Member:
        link, directory = self._link(), self._directory(role)
        name = ("--name", directory.name) if role == "worker" else ()
        process = Process(
            directory.with_suffix(".log"),
            "serve", role, "--data-dir", str(directory), *name,
            environment=self._settings(link),
        )  # fmt: skip
        return self._add(Member(role, process, directory, link))

    def _add(self, member: Member) -> Member:
        self._stack.callback(_end, member)
        member.process.start()
        self.members.append(member)
        return member

    def _link(self) -> FaultyLink:
        database = urlsplit(self._url)
        assert database.hostname is not None
        return self._stack.enter_context(FaultyLink(database.hostname, database.port or 5432))

    def _settings(self, link: FaultyLink) -> dict[str, str]:
        return {**self._environment, "TIDEMILL_DATABASE__URL": link.through(self._url)}

    def _directory(self, role: str) -> Path:
        return self.directory / f"{role}-{len(self.members) + 1}"


def _end(member: Member) -> None:
    member.link.fault = None
    if member.process.is_running:
        member.process.resume()
    member.process.stop()
