"""The same chain and the same fan, carried out by this product and by others, in turn.

Every task does the same: it appends the time to a file. What is told is how long it took from the
first task to the last, by those times alone; how much of it is waiting for a poll shows as well.
"""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.failover.stage import stage
from benchmarks.figures import spread
from benchmarks.peers.contenders import Contender, Peer, PeerProcess, Tidemill
from benchmarks.peers.environments import Missing
from benchmarks.processes import cpu_of_machine
from tidemill.testing.services import Postgres, RabbitMq, Redis
from tidemill.testing.services.ports import ReservedPort

_OURS = "tidemill"
_DURABILITY = "every change of every run is in PostgreSQL, and its commit is waited for"

PEERS = (
    Peer(
        "celery, rabbitmq and postgres",
        "celery",
        ("celery[redis,sqlalchemy]==5.7.0", "psycopg2-binary"),
        "messages persistent and confirmed by RabbitMQ, acknowledged late; results in PostgreSQL; "
        "the rest of a chain is in its messages alone",
    ),
    Peer(
        "celery, redis",
        "celery",
        ("celery[redis,sqlalchemy]==5.7.0", "psycopg2-binary"),
        "messages and results in Redis, which syncs its file every second; acknowledged late",
    ),
    Peer(
        "dbos",
        "dbos",
        ("dbos==3.4.0", "psycopg[binary]"),
        "the end of every step and workflow is in PostgreSQL, and its commit is waited for; "
        "the steps of a chain run in the process that asked for it",
    ),
    Peer(
        "prefect",
        "prefect",
        ("prefect==3.9.1", "asyncpg"),
        "states of tasks reach PostgreSQL by events, after the fact; tasks run in the process that "
        "asked for them",
    ),
    Peer(
        "airflow",
        "airflow",
        ("apache-airflow==3.3.2", "asyncpg", "psycopg2-binary"),
        "every change of every task is in PostgreSQL, and its commit is waited for",
    ),
)


def peers(edges: int = 100, width: int = 200, times: int = 5, only: str = "") -> dict[str, Any]:
    """A chain of so many edges, and one task before and after so many: milliseconds.

    `only` names peers, with semicolons between; each has the settings that it has by default.
    """
    wanted = [peer for peer in PEERS if not only or peer.name in only.split(";")]
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders: dict[str, Contender] = {}
        cluster = stack.enter_context(stage("postgres", dispatchers=1, workers=1))
        ours = Tidemill(cluster, edges, width)
        stack.callback(ours.close)
        contenders[_OURS] = ours
        servers = stack.enter_context(_environments(directory, edges, width))
        for peer in wanted:
            try:
                process = PeerProcess(peer, servers[peer.name], directory)
            except Missing as error:
                missing[peer.name] = str(error)
                continue
            stack.callback(process.close)
            contenders[peer.name] = process
        busy_percent = cpu_of_machine()
        took = in_turn(contenders, {"chain": edges, "fan": width}, times, directory, missing)
        cpu_percent = busy_percent()
    durability = {_OURS: _DURABILITY} | {peer.name: peer.durability for peer in wanted}
    return {
        "cpus": os.cpu_count(),
        "cpu_percent": cpu_percent,
        "edges": edges,
        "width": width,
        "times": times,
        "contenders": {
            name: {
                "durability": durability[name],
                "chain_ms_per_edge": spread([1_000 * each / edges for each in found["chain"]]),
                "fan_ms": spread([1_000 * each for each in found["fan"]]),
            }
            for name, found in took.items()
            if name not in missing
        },
        "missing": missing,
    }


@contextlib.contextmanager
def _environments(
    directory: Path, edges: int, width: int
) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """What each peer is told of its servers, which it shares with none but its like."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(Postgres())
        rabbitmq, redis = stack.enter_context(RabbitMq()), stack.enter_context(Redis())
        of_celery, of_dbos, of_prefect, of_airflow = (
            stack.enter_context(postgres.fresh()) for _ in range(4)
        )
        port, airflow_port = ReservedPort(), ReservedPort()
        stack.callback(port.close)
        stack.callback(airflow_port.close)
        yield {
            "celery, rabbitmq and postgres": {
                "BROKER_URL": rabbitmq.url,
                "RESULTS_URL": of_celery.replace("postgresql://", "db+postgresql+psycopg2://"),
            },
            "celery, redis": {"BROKER_URL": redis.url, "RESULTS_URL": redis.url},
            "dbos": {"DATABASE_URL": of_dbos},
            "prefect": {
                "PREFECT_HOME": str(directory / "prefect"),
                "PREFECT_SERVER_API_PORT": str(port.number),
                "PREFECT_API_DATABASE_CONNECTION_URL": of_prefect.replace(
                    "postgresql://", "postgresql+asyncpg://"
                ),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_LOGGING_LEVEL": "ERROR",
            },
            "airflow": {
                "AIRFLOW_HOME": str(directory / "airflow"),
                "AIRFLOW__CORE__DAGS_FOLDER": str(directory / "airflow" / "dags"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
                "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": (
                    f"http://127.0.0.1:{airflow_port.number}/execution/"
                ),
                "AIRFLOW__API__HOST": "127.0.0.1",
                "AIRFLOW__API__PORT": str(airflow_port.number),
                "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": of_airflow.replace(
                    "postgresql://", "postgresql+psycopg2://"
                ),
                "PEER_EDGES": str(edges),
                "PEER_WIDTH": str(width),
            },
        }


def in_turn(
    contenders: Mapping[str, Contender],
    kinds: Mapping[str, int],
    times: int,
    directory: Path,
    missing: dict[str, str],
) -> dict[str, dict[str, list[float]]]:
    """Seconds from the first task to the last, of every round but the first, which warms up."""
    took: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in kinds} for name in contenders
    }
    for number in range(times + 1):
        for kind, count in kinds.items():
            for name, contender in contenders.items():
                if name in missing:
                    continue
                file = directory / "times"
                try:
                    contender.carry_out(kind, file, count)
                except Missing as error:
                    missing[name] = f"{kind}: {error}"
                    continue
                if number:
                    took[name][kind].append(_span(file, count + (2 if kind == "fan" else 1)))
                file.unlink()
    return took


def _span(file: Path, tasks: int) -> float:
    """From the first time to the last; each of so many tasks has to have one."""
    times = [float(line) for line in file.read_text().splitlines()]
    if len(times) != tasks:
        raise RuntimeError(f"{len(times)} tasks ran, not {tasks}")
    return max(times) - min(times)
