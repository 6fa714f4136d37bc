"""Something dies while tasks fire twenty times a second: how long is nothing started, how late?"""

import random
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.effects import Effect
from benchmarks.failover.stage import Stage, on_each, stage
from tidemill.testing.services import Postgres, RabbitMq, Redis

_CALM_SECONDS = 10.0
_WATCHED_SECONDS = 6.0  # after a dispatcher died
_RECOVERY_SECONDS = 15.0  # after a server came back
_LONGEST_DOWN_SECONDS = 8.0
_LATE_SECONDS = 1.0  # what a start is not at rest


def dispatcher_killed(queue: str | None = None, kills: int = 9) -> dict[str, Any]:
    """SIGKILL of one of three dispatchers, each in turn; wanted: no gap above 2 s."""
    return on_each(_dispatcher_killed, queue, kills=kills)


def database_killed(queue: str | None = None, kills: int = 5, seed: int = 1) -> dict[str, Any]:
    """SIGKILL of PostgreSQL, down for some seconds; wanted: work resumes within 10 s."""
    return on_each(_database_killed, queue, kills=kills, seed=seed)


def broker_killed(queue: str | None = None, kills: int = 5, seed: int = 1) -> dict[str, Any]:
    """SIGKILL of the broker, down for some seconds, with what it has on its disk."""
    return on_each(_broker_killed, queue, ("redis", "rabbitmq"), kills=kills, seed=seed)


def _dispatcher_killed(queue: str, kills: int) -> dict[str, Any]:
    with stage(queue) as cluster:
        dispatchers = cluster.members("dispatcher")
        cluster.fire()
        calm_from = _settled(cluster)
        died = []
        for number in range(kills):
            member = dispatchers[number % len(dispatchers)]
            died.append(time.time())
            member.process.kill()
            time.sleep(_WATCHED_SECONDS)
            member.process.start()
        effects = cluster.effects()
    return {
        "kills": kills,
        "worst_gap_seconds": round(max(_gap(effects, at, _WATCHED_SECONDS) for at in died), 2),
        "worst_late_seconds": round(max(_late(effects, at, _WATCHED_SECONDS) for at in died), 2),
        "undisturbed_gap_seconds": round(_gap(effects, calm_from, _CALM_SECONDS), 2),
        "undisturbed_late_seconds": round(_late(effects, calm_from, _CALM_SECONDS), 2),
    }


def _database_killed(queue: str, kills: int, seed: int) -> dict[str, Any]:
    with stage(queue) as cluster:
        return _server_killed(cluster, cluster.postgres, kills, random.Random(seed))


def _broker_killed(queue: str, kills: int, seed: int) -> dict[str, Any]:
    with stage(queue) as cluster:
        assert cluster.broker is not None
        return _server_killed(cluster, cluster.broker, kills, random.Random(seed))


def _server_killed(
    cluster: Stage, server: Postgres | Redis | RabbitMq, kills: int, chance: random.Random
) -> dict[str, Any]:
    cluster.fire()
    calm_from = _settled(cluster)
    back = []
    for _ in range(kills):
        server.kill()
        time.sleep(chance.uniform(0, _LONGEST_DOWN_SECONDS))
        server.start()
        back.append(time.time())
        time.sleep(_RECOVERY_SECONDS)
    effects = cluster.effects()
    first = [min(e.started_at for e in effects if e.started_at > at) - at for at in back]
    normal = [_until_normal(effects, at) for at in back]
    return {
        "kills": kills,
        "worst_first_start_seconds": round(max(first), 2),
        "worst_back_to_normal_seconds": round(max(normal), 2),
        "undisturbed_late_seconds": round(_late(effects, calm_from, _CALM_SECONDS), 2),
    }


def _settled(cluster: Stage) -> float:
    """Let it run for a while; since when it is to be looked at."""
    while not cluster.effects():
        time.sleep(0.1)
    began = time.time() + 1
    time.sleep(1 + _CALM_SECONDS + _LATE_SECONDS)  # what is due in the end has started as well
    return began


def _gap(effects: Sequence[Effect], since: float, seconds: float) -> float:
    """The longest time without a start."""
    starts = [e.started_at for e in effects if since <= e.started_at < since + seconds]
    return max(later - earlier for earlier, later in pairwise([since, *starts, since + seconds]))


def _late(effects: Sequence[Effect], since: float, seconds: float) -> float:
    """How late the latest of those that were due meanwhile started."""
    due = [e for e in effects if since <= e.scheduled_for < since + seconds]
    return max(e.started_at - e.scheduled_for for e in due)


def _until_normal(effects: Sequence[Effect], since: float) -> float:
    """When the last start was that came late."""
    late = [
        e.started_at - since
        for e in effects
        if since < e.started_at < since + _RECOVERY_SECONDS
        and e.started_at - e.scheduled_for > _LATE_SECONDS
    ]
    return max(late, default=0)
