"""A RabbitMQ broker for tests."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemill.testing.server import StartFailed
from tidemill.testing.services.ports import ReservedPort
from tidemill.testing.services.programs import Command
from tidemill.testing.services.service import Service

_USER = "guest"

# Erlang's own terms: the friendlier rabbitmq.conf takes a second to translate at each start.
_CONFIGURATION = """
[{{rabbit, [{{tcp_listeners, [{{"127.0.0.1", {port}}}]}},
            {{log, [{{file, [{{file, false}}]}}, {{console, [{{enabled, true}}]}}]}}]}}].
"""


class RabbitMq(Service):
    """A RabbitMQ node without plugins, apart from every other: its own name server and cookie."""

    name = "rabbitmq"
    program = "rabbitmq-server"
    # Debian's command on the PATH insists on a user of its own.
    folders = ("/usr/lib/rabbitmq/bin",)
    image = "docker.io/library/rabbitmq:4"
    hello = b"AMQP\x00\x00\x09\x01"
    answers = (b"\x01",)  # a method: connection.start

    def __init__(self) -> None:
        super().__init__()
        self._node_port, self._names_port = ReservedPort(), ReservedPort()
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return self._url("")

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of an empty virtual host of its own."""
        name = f"fresh-{next(self._numbers)}"
        everything = '<<".*">>, <<".*">>, <<".*">>'
        self._evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"{_USER}">>), '
            "rabbit_auth_backend_internal:set_permissions("
            f'<<"{_USER}">>, <<"{name}">>, {everything}, <<"{_USER}">>)'
        )
        try:
            yield self._url(name)
        finally:
            if self.is_running:
                # After a `wipe` there is none.
                self._evaluate(
                    f'case rabbit_vhost:exists(<<"{name}">>) of false -> ok; '
                    f'true -> rabbit_vhost:delete(<<"{name}">>, <<"{_USER}">>) end'
                )

    def settle(self) -> None:
        """Write the names of quorum queues to the disk, which RabbitMQ does within a second.

        One that was declared just before `kill` is otherwise broken ever after: it is there, and
        refuses what is published to it.
        """
        self._evaluate("lists:foreach(fun dets:sync/1, dets:all())")

    def close(self) -> None:
        super().close()
        self._node_port.close()
        self._names_port.close()

    def _evaluate(self, expression: str) -> None:
        """Ask the node's own shell, at once: `rabbitmqctl` starts a second Erlang for each call."""
        mark = f"evaluated-{next(self._numbers)}"
        said = self._processes.tell(
            f'io:format("~n~s ~0p~n", ["{mark}", catch begin {expression} end]).\n', f"^{mark} "
        )
        if said != f"{mark} ok":
            raise StartFailed(f"RabbitMQ does not do {expression}: {said}")

    def _url(self, virtual_host: str) -> str:
        return f"amqp://{_USER}:{_USER}@127.0.0.1:{self.port}/{virtual_host}"

    def _make_data(self) -> None:
        self._make_directory(self.data)
        self._file("plugins").write_text("[].\n")
        self._file("environment").write_text("")
        self._file("rabbitmq.config").write_text(_CONFIGURATION.format(port=self.port))

    def _file(self, name: str) -> Path:
        return self.data / name

    def _start(self) -> tuple[Command, str]:
        command = self._command(
            "rabbitmq-server",
            HOME=str(self.data),  # of the cookie
            ERL_EPMD_ADDRESS="127.0.0.1",
            ERL_EPMD_PORT=str(self._names_port.number),
            RABBITMQ_ADVANCED_CONFIG_FILE=str(self._file("rabbitmq.config")),
            RABBITMQ_ALLOW_INPUT="1",
            RABBITMQ_CONFIG_FILE=str(self._file("none")),
            RABBITMQ_CONF_ENV_FILE=str(self._file("environment")),
            RABBITMQ_DIST_PORT=str(self._node_port.number),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self._file("plugins")),
            RABBITMQ_LOG_BASE=str(self._file("log")),
            RABBITMQ_MNESIA_BASE=str(self._file("mnesia")),
            RABBITMQ_NODENAME="tidemill@localhost",
            RABBITMQ_PID_FILE=str(self._file("pid")),
        )
        return command, "startup complete"
