"""SIGKILL of every process and every server in one instant: what was answered is kept."""

import os
import signal
import threading
from pathlib import Path

import pytest
from benchmarks.processes import wait_until_gone
from tests.promises import Promises
from tests.remote_workers import first_line, outcomes

from tidemill.testing.cluster import Cluster
from tidemill.testing.pytest_plugin import Services
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service

pytestmark = pytest.mark.slow

LEASES = {
    "TIDEMILL_WORKER__LEASE_SECONDS": "4",
    "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
    "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
}
ANSWERED = 40  # at least, before all is killed
BROKERS: dict[str, type[Service] | None] = {
    "postgres": None,
    "redis": Redis,
    "rabbitmq": RabbitMq,
}


@pytest.fixture(params=BROKERS)
def servers(request: pytest.FixtureRequest, services: Services) -> list[Service]:
    """PostgreSQL, and the broker where there is one."""
    broker = BROKERS[request.param]
    found: list[Service] = [services.get(Postgres)]
    return found if broker is None else [*found, services.get(broker)]


class Asking:
    """Asks through one API until it does not answer."""

    def __init__(self, server: Server, promises: Promises) -> None:
        self._server = server
        self._promises = promises
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        self._thread.start()

    def _go_on(self) -> None:
        with self._server.client() as client:
            while self._promises.ask(client):
                if len(self._promises.kept) >= ANSWERED:
                    self._enough.set()

    def wait_until_enough(self) -> None:
        self._enough.wait()

    def wait_until_refused(self) -> None:
        self._thread.join()


def kill_all(cluster: Cluster, servers: list[Service]) -> None:
    """All stand still first, so that nobody sees another one go."""
    pids = [member.process.pid for member in cluster.members]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for server in servers:
        server.pause()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for server in servers:
        server.kill()
    for member in cluster.members:
        member.process.kill()


def test_everything_that_was_answered_survives_when_all_is_killed_at_once(
    servers: list[Service], tmp_path: Path
) -> None:
    environment = dict(LEASES)
    if len(servers) > 1:
        environment["TIDEMILL_MESSAGE_QUEUE__URL"] = servers[1].url
    promises = Promises(tmp_path / "effects")
    with Cluster(tmp_path / "cluster", servers[0].url, environment) as cluster:
        api = cluster.api()
        cluster.dispatcher()
        cluster.worker()
        with api.client() as client:
            promises.define(client)
            stays = f"{promises.note}; echo up; [ $TIDEMILL_ATTEMPT -ge 2 ] || exec sleep 600"
            client.call(
                "POST", "/tasks", body={"name": "stays", "executor": "shell", "command": stays}
            )
            cut_off = client.trigger("stays")
            first_line(client, cut_off)
        asking = Asking(api, promises)
        asking.wait_until_enough()
        kill_all(cluster, servers)
        asking.wait_until_refused()
        answered = dict(promises.kept)
        assert [wait_until_gone(member.data_dir) for member in cluster.members] == [0, 0, 0]
        assert not any(server.pids for server in servers)
        for server in servers:
            server.start()
        for member in cluster.members:
            member.process.start()
        with api.client() as client:
            promises.check(client)
            ends = outcomes(client, cut_off)

    assert len(answered) >= ANSWERED
    assert promises.kept.items() >= answered.items()
    assert ends == ["lost", "succeeded"]  # it was at work as all ended
