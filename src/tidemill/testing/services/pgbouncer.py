"""A PgBouncer for tests, in front of a PostgreSQL of theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tidemill.testing.services.postgres import Postgres
from tidemill.testing.services.programs import Command
from tidemill.testing.services.service import Service

_CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={postgres_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = {ignored}
"""


class PgBouncer(Service):
    """PgBouncer in transaction mode, whose databases are those of `postgres`.

    It refuses clients that set a parameter of their session which it does not know, unless that is
    among `ignored`: then the client is let in without it.
    """

    name = "pgbouncer"
    program = "pgbouncer"
    folders = ("/usr/sbin",)
    image = "docker.io/edoburu/pgbouncer:latest"
    hello = bytes.fromhex("0000000804d2162f")  # may we speak TLS?
    answers = (b"N", b"S")

    def __init__(self, postgres: Postgres, *, ignored: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._postgres = postgres
        self._ignored = ignored

    @property
    def url(self) -> str:
        return self.in_front_of(self._postgres.url)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of a database of its own."""
        with self._postgres.fresh() as url:
            yield self.in_front_of(url)

    def in_front_of(self, url: str) -> str:
        """The URL that leads here for one that leads to PostgreSQL."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.port}").geturl()

    def _make_data(self) -> None:
        self._make_directory(self.data)
        (self.data / "pgbouncer.ini").write_text(
            _CONFIGURATION.format(
                port=self.port,
                postgres_port=self._postgres.port,
                user=urlsplit(self._postgres.url).username,
                ignored=",".join(self._ignored),
            )
        )

    def _start(self) -> tuple[Command, str]:
        command = self._command("pgbouncer", str(self.data / "pgbouncer.ini"))
        return command, "process up"
