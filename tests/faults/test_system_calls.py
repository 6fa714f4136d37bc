"""SIGKILL at the N-th system call: each step of a commit or a send may be the last."""

import contextlib
import itertools
import os
import random
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.processes import end_of, wait_until_gone
from tests.promises import Promises

from tidemill.testing.cluster import Cluster
from tidemill.testing.prerequisites import not_run
from tidemill.testing.server import Process, Server, StartFailed
from tidemill.testing.services import ServiceMissing
from tidemill.testing.system_calls import KilledAt

pytestmark = pytest.mark.slow

# More of both: TIDEMILL_TEST_KILLS=50 TIDEMILL_TEST_SEED=7
KILLS = int(os.environ.get("TIDEMILL_TEST_KILLS", "3"))
SEED = int(os.environ.get("TIDEMILL_TEST_SEED", "1"))
LEASES = {
    "TIDEMILL_WORKER__LEASE_SECONDS": "4",
    "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "1",
    "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
}
SYNCS = ("fsync", "fdatasync")
SENDS = ("write", "writev", "sendto", "sendmsg")
ASKED_AT_MOST = 500  # then a process has made fewer calls than it should


def numbers(first: int, last: int) -> list[int]:
    """Which calls are the last, spread over the load, in some order."""
    chance = random.Random(SEED)
    step = (last - first) / KILLS
    found = [int(first + step * (each + chance.random())) for each in range(KILLS)]
    chance.shuffle(found)
    return found


def killed_at(directory: Path, number: int, *calls: str, thread: str) -> KilledAt:
    directory.mkdir(exist_ok=True)
    try:
        return KilledAt(directory / f"calls-{number}", number, *calls, thread=thread)
    except ServiceMissing as missing:
        not_run(str(missing))


def ask_until_killed(process: Process, api: Server, sudden: KilledAt, promises: Promises) -> None:
    """Start it, ask as long as it lives, and bury it."""
    with contextlib.suppress(StartFailed):  # it may not even come as far as that
        process.start(sudden.command)
        with end_of(process.pid) as ended, api.client() as client:
            for _ in range(ASKED_AT_MOST):
                promises.ask(client)
                if select.select([ended], [], [], 0)[0]:
                    break
    process.kill()
    assert sudden.has_happened()


def test_a_server_that_is_killed_at_any_sync_keeps_what_it_answered(tmp_path: Path) -> None:
    promises, server = Promises(tmp_path / "effects"), Server(tmp_path / "data")
    with server, server.client() as client:
        promises.define(client)
    for number in numbers(8, 60):
        sudden = killed_at(tmp_path / "calls", number, *SYNCS, thread="any")
        ask_until_killed(server, server, sudden, promises)
        assert wait_until_gone(server.data_dir) == 0
    with server, server.client() as client:
        promises.check(client)

    assert len(promises.kept) > KILLS


ROLES = ("api", "dispatcher", "worker")


@pytest.fixture
def cluster(migrated_postgres_url: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", migrated_postgres_url, LEASES) as cluster:
        yield cluster


def test_roles_that_are_killed_at_any_send_lose_and_double_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    promises = Promises(tmp_path / "effects")
    server = cluster.api()
    cluster.dispatcher()
    cluster.worker()
    processes = dict(zip(ROLES, (member.process for member in cluster.members), strict=True))
    with server.client() as client:
        promises.define(client)
    for role, number in zip(itertools.cycle(ROLES), numbers(40, 160), strict=False):
        sudden = killed_at(tmp_path / role, number, *SENDS, thread="main")
        processes[role].stop()
        ask_until_killed(processes[role], server, sudden, promises)
        processes[role].start()
    with server.client() as client:
        promises.check(client)
