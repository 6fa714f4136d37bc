"""A cluster of real processes on a real database, behind a network that can be broken.

    with Cluster(directory, postgres.url, queue_url=redis.url, linked=True) as cluster:
        api = cluster.api()
        cluster.dispatcher()
        worker = cluster.worker()
        worker.links["queue"].fault = Fault.BLACK_HOLE
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

_SETTINGS = {"database": "TIDEMILL_DATABASE__URL", "queue": "TIDEMILL_MESSAGE_QUEUE__URL"}


class Member:
    """One role: its process, where that keeps what is its own, and its ways to the servers.

    Where a cluster was asked for links, they lead to the "database" and, where there is a broker,
    to the "queue"; else it has none.
    """

    def __init__(
        self, role: str, process: Process, data_dir: Path, links: Mapping[str, FaultyLink]
    ) -> None:
        self.role = role
        self.process = process
        self.data_dir = data_dir
        self.links = links


class Cluster:
    """Roles on the database of `database_url`, which is migrated first.

    `queue_url` names the broker; without it the database carries the messages. `environment` holds
    settings for all of them. Members keep their logs in `directory`. `linked` puts a link between
    each member and each server, for faults: all that is said takes longer by that, so what is to be
    measured goes without.
    """

    def __init__(
        self,
        directory: Path,
        database_url: str,
        environment: Mapping[str, str] | None = None,
        *,
        queue_url: str | None = None,
        linked: bool = False,
    ) -> None:
        self.directory = directory
        self.members: list[Member] = []
        self._urls = {"database": database_url}
        if queue_url is not None:
            self._urls["queue"] = queue_url
        self._environment = environment or {}
        self._is_linked = linked
        self._stack = ExitStack()

    def api(self) -> Server:
        """An API that is ready; its member is the newest of `members`."""
        links, directory = self._links(), self._directory("api")
        server = Server(directory, serves=("serve", "api"), environment=self._settings(links))
        self._add(Member("api", server, directory, links))
        return server

    def dispatcher(self) -> Member:
        """A dispatcher that is ready."""
        return self._role("dispatcher")

    def worker(self) -> Member:
        """A worker that is ready, with a name of its own."""
        return self._role("worker")

    def __enter__(self) -> Self:
        asyncio.run(upgrade_postgres(self._urls["database"]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _role(self, role: str) -> Member:
        links, directory = self._links(), self._directory(role)
        name = ("--name", directory.name) if role == "worker" else ()
        process = Process(
            directory.with_suffix(".log"),
            "serve", role, "--data-dir", str(directory), *name,
            environment=self._settings(links),
        )  # fmt: skip
        return self._add(Member(role, process, directory, links))

    def _add(self, member: Member) -> Member:
        self._stack.callback(_end, member)
        member.process.start()
        self.members.append(member)
        return member

    def _links(self) -> dict[str, FaultyLink]:
        links: dict[str, FaultyLink] = {}
        for name, url in self._urls.items() if self._is_linked else ():
            server = urlsplit(url)
            assert server.hostname is not None
            assert server.port is not None
            links[name] = self._stack.enter_context(FaultyLink(server.hostname, server.port))
        return links

    def _settings(self, links: Mapping[str, FaultyLink]) -> dict[str, str]:
        urls = self._urls | {name: link.through(self._urls[name]) for name, link in links.items()}
        settings = {_SETTINGS[name]: url for name, url in urls.items()}
        return {**self._environment, **settings}

    def _directory(self, role: str) -> Path:
        return self.directory / f"{role}-{len(self.members) + 1}"


def _end(member: Member) -> None:
    for link in member.links.values():
        link.fault = None
    if member.process.is_running:
        member.process.resume()
    member.process.stop()
