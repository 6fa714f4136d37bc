"""Peers that carry out the same loads: each in its own environment, on the servers of a contest."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.peers.environments import interpreter_with
from benchmarks.peers.script_process import ScriptProcess
from benchmarks.processes import cpu_seconds
from benchmarks.servers import Servers

_LOADS = ("bulk", "callers", "pick_up")
_CELERY = ("celery[redis,sqlalchemy]==5.7.0", "psycopg2-binary")


class LoadPeer(NamedTuple):
    """What a peer is made of, what it needs, and what it can carry out."""

    name: str
    script: str
    packages: tuple[str, ...]
    needs: tuple[str, ...]  # servers
    most_runs: int
    durability: str
    kinds: tuple[str, ...] = _LOADS
    settings: Mapping[str, str] = {}

    @contextmanager
    def running(self, servers: Servers, directory: Path) -> Iterator["RunningPeer"]:
        """One on an empty database or broker. Raises Missing."""
        python = interpreter_with(self.script, self.packages)
        with contextlib.ExitStack() as stack:
            urls = {
                f"{name.upper()}_URL": stack.enter_context(servers.fresh(name))
                for name in self.needs
            }
            script = ScriptProcess(
                python,
                f"{self.script}_load",
                directory / "log",
                {**urls, **self.settings, "PEER_FILE": str(directory / "notes")},
            )
            stack.callback(script.close)
            yield RunningPeer(script, servers, self.needs)


class RunningPeer:
    """A peer that waits for work."""

    def __init__(self, script: ScriptProcess, servers: Servers, needs: tuple[str, ...]) -> None:
        self._script = script
        self._servers = servers
        self._needs = needs

    def carry_out(self, kind: str, **options: Any) -> dict[str, Any]:
        """What the script measured, and what each process took meanwhile. Raises Missing."""
        before = self._cpu()
        found: dict[str, Any] = json.loads(self._script.ask(json.dumps({"kind": kind} | options)))
        after = self._cpu()
        return found | {"cpu_seconds": {name: after[name] - before[name] for name in before}}

    def _cpu(self) -> dict[str, float]:
        """Seconds until now: who asks, what carries it out, and the servers."""
        caller = psutil.Process(self._script.pid).cpu_times()
        asking = caller.user + caller.system
        workers = cpu_seconds(self._script.pid) - asking
        return {"caller": asking, "workers": workers, **self._servers.cpu(self._needs)}


PEERS = (
    LoadPeer(
        "pgqueuer", "pgqueuer", ("pgqueuer[asyncpg]==1.6.0", "uvloop"), ("postgres",), 10_000,
        "jobs and their log in PostgreSQL, its commits waited for; enqueued a thousand at once in "
        "bulk, claimed and finished in batches of 200",
        ("bulk",),
    ),
    LoadPeer(
        "pgqueuer, one by one", "pgqueuer", ("pgqueuer[asyncpg]==1.6.0", "uvloop"), ("postgres",),
        1_000,
        "the same, enqueued one by one, claimed in batches of 10",
        settings={"PEER_BATCH": "10", "PEER_AT_ONCE": "1"},
    ),
    LoadPeer(
        "celery, rabbitmq and postgres", "celery", _CELERY, ("rabbitmq", "postgres"), 1_000,
        "messages persistent, confirmed and acknowledged late; results in PostgreSQL",
    ),
    LoadPeer(
        "celery, rabbitmq", "celery", _CELERY, ("rabbitmq",), 2_000,
        "messages persistent, confirmed and acknowledged late; no results",
    ),
    LoadPeer(
        "celery, redis", "celery", _CELERY, ("redis",), 1_000,
        "messages and results in Redis, which syncs its file every second; acknowledged late",
    ),
    LoadPeer(
        "dramatiq, redis", "dramatiq", ("dramatiq[redis]==2.2.1",), ("redis",), 5_000,
        "messages in Redis, which syncs its file every second, acknowledged late; no results",
    ),
    LoadPeer(
        "taskiq, redis", "taskiq", ("taskiq==0.13.0", "taskiq-redis==1.2.4", "uvloop"), ("redis",),
        5_000,
        "messages in a stream of Redis, which syncs its file every second, acknowledged late; no "
        "results",
    ),
    LoadPeer(
        "procrastinate", "procrastinate", ("procrastinate==3.10.0", "psycopg[binary,pool]"),
        ("postgres",), 1_000,
        "jobs and their events in PostgreSQL, its commits waited for",
        (*_LOADS, "schedules"),
    ),
    LoadPeer(
        "dbos", "dbos", ("dbos==3.4.0", "psycopg[binary]"), ("postgres",), 1_000,
        "the beginning and the end of every workflow in PostgreSQL, its commits waited for",
    ),
    LoadPeer(
        "huey, redis", "huey", ("huey==3.5.4", "redis"), ("redis",), 5_000,
        "messages in Redis, which syncs its file every second, gone before their task runs",
    ),
    LoadPeer(
        "arq, redis", "arq", ("arq==0.28.0", "uvloop"), ("redis",), 1_000,
        "jobs and results in Redis, which syncs its file every second; acknowledged late",
        (*_LOADS, "schedules"),
    ),
    LoadPeer(
        "celery beat, rabbitmq", "celery", _CELERY, ("rabbitmq",), 1_000,
        "schedules in a file; messages persistent, confirmed and acknowledged late; no results",
        ("schedules",),
    ),
    LoadPeer(
        "apscheduler, postgres", "apscheduler",
        ("apscheduler==3.11.3", "sqlalchemy", "psycopg2-binary"), ("postgres",), 1_000,
        "schedules in PostgreSQL, its commits waited for; not what became of a firing",
        ("schedules",),
    ),
    LoadPeer(
        "prefect", "prefect", ("prefect==3.9.1", "asyncpg"), ("postgres",), 100,
        "states of tasks reach PostgreSQL by events, after the fact",
    ),
)  # fmt: skip


def peers_named(names: str, kind: str) -> list[LoadPeer]:
    """Those of several names with semicolons between, or all, that carry out this kind of load."""
    chosen = (
        [] if not names else [peer.name for peer in PEERS] if names == "all" else names.split(";")
    )
    unknown = set(chosen) - {peer.name for peer in PEERS}
    if unknown:
        known = "; ".join(peer.name for peer in PEERS)
        raise ValueError(f"no peer {min(unknown)!r}; there are: {known}")
    return [peer for peer in PEERS if peer.name in chosen and kind in peer.kinds]
