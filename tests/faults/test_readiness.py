"""Every role says whether it may serve, and is right while its database or broker is away."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.remote_workers import first_line

from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster, Member
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.pytest_plugin import Services
from tidemill.testing.server import Process, Server
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service

pytestmark = pytest.mark.slow
with_redis = pytest.mark.parametrize("roles", [Redis], ids=["redis"], indirect=True)
with_each_broker = pytest.mark.parametrize(
    "roles", [Redis, RabbitMq], ids=["redis", "rabbitmq"], indirect=True
)

PROBE_LIMIT_SECONDS = 5.0  # as an orchestrator's: an answer that takes longer is none
ROLES = ("api", "dispatcher", "worker")
TASK = {"name": "a-task", "executor": "shell", "command": "true"}


class Roles:
    """One process of each role, on a database and a broker that a test may take away."""

    def __init__(
        self, cluster: Cluster, database: Postgres, broker: Service, to_broker: FaultyLink
    ) -> None:
        self.api: Server = cluster.api()
        cluster.dispatcher()
        cluster.worker()
        self.database = database
        self.broker = broker
        self.to_broker = to_broker
        self._members = {member.role: member for member in cluster.members}

    def __getitem__(self, role: str) -> Member:
        return self._members[role]

    def are_ready(self) -> dict[str, bool]:
        """What each says."""
        return {role: is_ready(self[role].process) for role in ROLES}

    def wait_ready(self) -> None:
        for role in ROLES:
            wait_ready(self[role].process)


def probe(process: Process, path: str) -> httpx2.Response:
    return httpx2.get(f"{process.probes_url}{path}", timeout=PROBE_LIMIT_SECONDS, trust_env=False)


def is_ready(process: Process) -> bool:
    """What it says now; it must say something, and be alive."""
    ready = probe(process, "/ready")
    assert probe(process, "/health").json() == {"status": "up"}
    if ready.status_code == 200:
        return True
    assert ready.status_code == 503, ready.text
    assert ready.headers["content-type"] == "application/problem+json"
    assert ready.headers["retry-after"] == "1"
    assert ready.json()["detail"]
    return False


def wait_ready(process: Process) -> None:
    while not is_ready(process):
        pass


def numbers(process: Process) -> dict[tuple[str, str], float]:
    """Its metrics of circuit breakers, by name and component."""
    return {
        (sample.name, sample.labels["component"]): sample.value
        for family in text_string_to_metric_families(probe(process, "/metrics").text)
        for sample in family.samples
        if "component" in sample.labels
    }


def trigger(api: Server, seconds: float = 60) -> httpx2.Response:
    """What it answers, within so many seconds; those who call at once share a transaction."""
    return httpx2.post(
        f"{api.url}/api/v1/tasks/name:{TASK['name']}/trigger", timeout=seconds, trust_env=False
    )


def trigger_alone(api: Server) -> httpx2.Response:
    """The same in a transaction of its own."""
    body = {"items": [{"task": f"name:{TASK['name']}"}]}
    return httpx2.post(f"{api.url}/api/v1/runs", json=body, timeout=60, trust_env=False)


def run_once(client: Client) -> dict[str, Any]:
    """A run that is triggered now, at its end."""
    names = {task["name"] for task in client.items("/tasks")}
    if TASK["name"] not in names:
        client.call("POST", "/tasks", body=TASK)
    return client.wait(client.trigger(TASK["name"])["id"], timeout_seconds=60)


@pytest.fixture(scope="module")
def roles(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Roles]:
    """They are ready when a test begins, if the one before left them so."""
    with ExitStack() as stack:
        services = Services(stack)
        database = services.get(lambda: Postgres(durable=False))
        broker = services.get(request.param)
        to_broker = stack.enter_context(FaultyLink("127.0.0.1", broker.port))
        environment = {
            "TIDEMILL_OBSERVABILITY__PORT": "0",
            "TIDEMILL_MESSAGE_QUEUE__URL": to_broker.through(broker.url),
        }
        directory = tmp_path_factory.mktemp("roles")
        cluster = stack.enter_context(Cluster(directory, database.url, environment, linked=True))
        yield Roles(cluster, database, broker, to_broker)


@pytest.fixture
def client(roles: Roles) -> Iterator[Client]:
    with roles.api.client() as found:
        yield found


def refuse(link: FaultyLink) -> None:
    link.fault = Fault.REFUSE
    link.reset_connections()


def swallow(link: FaultyLink) -> None:
    link.fault = Fault.BLACK_HOLE


Cut = Callable[[FaultyLink], None]


@with_redis
@pytest.mark.parametrize("cut", [refuse, swallow])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_not_ready_while_its_database_cannot_be_reached(
    roles: Roles, role: str, cut: Cut
) -> None:
    roles.wait_ready()
    cut(roles[role].links["database"])
    during = roles.are_ready()
    roles[role].links["database"].fault = None
    roles.wait_ready()

    assert during == {each: each != role for each in ROLES}


@with_redis
@pytest.mark.parametrize(("take_away", "give_back"), [("kill", "start"), ("pause", "resume")])
def test_no_role_is_ready_while_the_database_is_down_and_work_goes_on_afterwards(
    roles: Roles, client: Client, take_away: str, give_back: str
) -> None:
    roles.wait_ready()
    run_once(client)
    getattr(roles.database, take_away)()
    during = roles.are_ready()
    with ThreadPoolExecutor(3) as threads:  # as many as open a breaker
        tried = [*threads.map(trigger_alone, [roles.api] * 3)]
        tried += threads.map(trigger, [roles.api] * 3)
    getattr(roles.database, give_back)()
    roles.wait_ready()

    assert during == dict.fromkeys(ROLES, False)
    assert {(each.status_code, each.json()["code"]) for each in tried} == {(503, "unavailable")}
    assert {each.headers["retry-after"] for each in tried} == {"1"}
    assert any("it is asked again within 2 s" in each.json()["detail"] for each in tried)
    assert run_once(client)["status"] == "succeeded"


@with_each_broker
@pytest.mark.parametrize("cut", [refuse, swallow])
def test_without_a_broker_the_api_takes_triggers_and_who_needs_it_is_not_ready(
    roles: Roles, client: Client, cut: Cut
) -> None:
    roles.wait_ready()
    run_once(client)
    cut(roles.to_broker)
    during = roles.are_ready()
    triggered = trigger(roles.api, PROBE_LIMIT_SECONDS)
    health = client.call("GET", "/system/health")
    roles.to_broker.fault = None
    roles.wait_ready()

    assert during == {"api": True, "dispatcher": False, "worker": False}
    assert triggered.status_code == 202
    assert health["status"] == "degraded"
    assert health["components"]["message_queue"]["status"] == "down"
    assert health["components"]["database"]["circuit_breaker"] == "closed"
    assert client.wait(triggered.json()["id"], timeout_seconds=60)["status"] == "succeeded"


@with_redis
def test_breakers_are_seen_to_open_and_to_close_again(roles: Roles) -> None:
    roles.wait_ready()
    dispatcher = roles["dispatcher"]
    before = numbers(dispatcher.process)
    refuse(dispatcher.links["database"])
    while numbers(dispatcher.process)["tidemill_circuit_breaker_state", "database"] != 2:
        pass
    dispatcher.links["database"].fault = None
    wait_ready(dispatcher.process)
    after = numbers(dispatcher.process)

    openings = ("tidemill_circuit_breaker_openings_total", "database")
    assert after[openings] > before[openings]
    assert after["tidemill_circuit_breaker_refusals_total", "database"] > 0
    assert after["tidemill_circuit_breaker_state", "database"] == 0
    assert after["tidemill_circuit_breaker_state", "message_queue"] == 0


@with_redis
def test_a_worker_elsewhere_is_ready_as_long_as_its_server_is(roles: Roles, tmp_path: Path) -> None:
    roles.wait_ready()
    port = urlsplit(roles.api.url).port
    assert port is not None
    with FaultyLink("127.0.0.1", port) as link:
        worker = Process(
            tmp_path / "worker.log",
            "serve", "worker", "--server", link.through(roles.api.url),
            "--data-dir", str(tmp_path / "data"), "--name", "elsewhere",
            environment={"TIDEMILL_OBSERVABILITY__PORT": "0"},
        )  # fmt: skip
        with worker:
            at_first = is_ready(worker)
            swallow(link)
            cut_off = is_ready(worker)
            link.fault = None
            wait_ready(worker)
            refuse(roles["api"].links["database"])
            says = probe(worker, "/ready")
            roles["api"].links["database"].fault = None
            wait_ready(worker)

    assert (at_first, cut_off, says.status_code) == (True, False, 503)
    assert says.json()["detail"].startswith("the server says: the database")


@with_redis
def test_a_worker_that_drains_is_alive_and_not_ready(
    roles: Roles, client: Client, tmp_path: Path
) -> None:
    environment = {
        "TIDEMILL_OBSERVABILITY__PORT": "0",
        "TIDEMILL_WORKER__QUEUES": '["drained"]',
        "TIDEMILL_WORKER__DRAIN_SECONDS": "600",
        "TIDEMILL_DATABASE__URL": roles.database.url,
        "TIDEMILL_MESSAGE_QUEUE__URL": roles.broker.url,
    }
    worker = Process(
        tmp_path / "worker.log",
        "serve", "worker", "--data-dir", str(tmp_path / "data"), "--name", "drained",
        environment=environment,
    )  # fmt: skip
    with worker:
        stays = TASK | {"name": "stays", "command": "echo up; sleep 600", "queue": "drained"}
        client.call("POST", "/tasks", body=stays)
        run = client.trigger("stays")
        first_line(client, run)
        os.kill(worker.pid, signal.SIGTERM)
        while (ready := probe(worker, "/ready")).status_code == 200:
            pass
        alive = probe(worker, "/health")
        client.call("POST", f"/runs/{run['id']}/cancel")

    assert ready.json()["detail"] == "draining"
    assert alive.status_code == 200
