"""A cluster with PostgreSQL and a broker, and tasks that fire all the time."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.effects import Effect, read_effects
from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster, Member
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service

QUEUES = ("postgres", "redis", "rabbitmq")
TASKS = Path(__file__).parent.parent / "tasks"

_BROKERS = {"redis": Redis, "rabbitmq": RabbitMq}
_FIRING = 20  # tasks, each every second
_LEAD_SECONDS = 5.0  # from the first definition to the first fire time

Measure = Callable[..., dict[str, Any]]


def on_each(
    measure: Measure, queue: str | None, queues: tuple[str, ...] = QUEUES, **options: Any
) -> dict[str, Any]:
    """The same on each queue, or on the one that is named."""
    return {name: measure(name, **options) for name in queues if queue is None or name == queue}


class Stage:
    """What the measures act on."""

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        postgres: Postgres,
        broker: Redis | RabbitMq | None,
        servers: list[Server],
    ) -> None:
        self.directory = directory
        self.cluster = cluster
        self.postgres = postgres
        self.broker = broker
        self.servers = servers

    def client(self) -> Client:
        """A client of the first API."""
        return self.servers[0].client()

    def members(self, role: str) -> list[Member]:
        """Those of one role."""
        return [member for member in self.cluster.members if member.role == role]

    @property
    def engines(self) -> list[Service]:
        """PostgreSQL and, where there is one, the broker."""
        return [self.postgres] if self.broker is None else [self.postgres, self.broker]

    def fire(self) -> dict[int, float]:
        """Have tasks fire, spread over each second; the first fire time of each.

        They write their starts to where `effects` reads them.
        """
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=_LEAD_SECONDS)
        schedules = {}
        with self.client() as client:
            for number in range(_FIRING):
                begin = start + timedelta(seconds=1) * (number / _FIRING)
                task = client.call("POST", "/tasks", body={
                    "name": f"every-{number}", "executor": "python", "command": "effects:note",
                    "arguments": {"file": str(self._effects_file)},
                    "schedule": "@every 1s", "start_at": begin.isoformat(), "overlap": "allow",
                    "misfire": {"policy": "run_all", "max_runs": 10_000},
                })  # fmt: skip
                schedules[task["id"]] = begin.timestamp()
        return schedules

    def effects(self) -> list[Effect]:
        """Every start of what fires, in the order of the starts."""
        return sorted(read_effects(self._effects_file), key=lambda each: each.started_at)

    @property
    def _effects_file(self) -> Path:
        return self.directory / "effects"


@contextmanager
def stage(
    queue: str,
    *,
    apis: int = 1,
    dispatchers: int = 3,
    workers: int = 2,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stage]:
    """A cluster whose messages go through `queue`; `environment` holds settings."""
    settings = {"TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]', **(environment or {})}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres())
        broker = stack.enter_context(_BROKERS[queue]()) if queue in _BROKERS else None
        queue_url = broker.url if broker else None
        cluster = stack.enter_context(
            Cluster(directory, postgres.url, settings, queue_url=queue_url)
        )
        servers = [cluster.api() for _ in range(apis)]
        for _ in range(dispatchers):
            cluster.dispatcher()
        for _ in range(workers):
            cluster.worker()
        yield Stage(directory, cluster, postgres, broker, servers)
