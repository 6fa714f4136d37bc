"""PostgreSQL's disk fills up: what needs room is refused, and all goes on once there is some."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.promises import Promises
from tests.remote_workers import first_line

from tidemill.testing.cluster import Cluster
from tidemill.testing.prerequisites import not_run
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres, ServiceMissing
from tidemill.testing.services.programs import unprivileged_user

pytestmark = pytest.mark.slow

_WRITES_AT_MOST = 5_000


class SmallPostgres(Postgres):
    """One whose data is on a file system of its own."""

    def __init__(self, megabytes: int) -> None:
        super().__init__(settings=("min_wal_size=32MB", "max_wal_size=32MB"))
        self.disk = self._processes.directory / "disk"
        self.disk.mkdir()
        owner = unprivileged_user()
        assert owner is not None
        options = f"size={megabytes}m,uid={owner[0]},gid={owner[1]}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.disk], check=True)

    @property
    def data(self) -> Path:
        return self.disk / "data"

    def close(self) -> None:
        self.kill()
        subprocess.run(["umount", "--lazy", self.disk], check=True)
        super().close()

    def fill(self) -> Path:
        """The file that takes all the room there is."""
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while room := shutil.disk_usage(self.disk).free:
                file.write(bytes(room))
        return ballast


@pytest.fixture
def postgres(as_root: None) -> Iterator[SmallPostgres]:
    try:
        small = SmallPostgres(100)
    except ServiceMissing as missing:
        not_run(str(missing))
    with small:
        yield small


def write_until_refused(server: Server) -> httpx2.Response:
    for number in range(_WRITES_AT_MOST):
        body = {"name": f"filler-{number}", "executor": "shell", "command": "true",
                "description": "x" * 2_000}  # fmt: skip
        answer = httpx2.post(f"{server.url}/api/v1/tasks", json=body, trust_env=False, timeout=60)
        if answer.status_code != 201:
            return answer
    raise AssertionError("a full disk takes everything")


def test_a_full_disk_of_the_database_refuses_writes_and_loses_nothing(
    postgres: SmallPostgres, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    promises = Promises(tmp_path / "effects")
    patient = {"TIDEMILL_WORKER__LEASE_SECONDS": "120"}
    with Cluster(tmp_path / "cluster", postgres.url, patient) as cluster:
        server = cluster.api()
        cluster.dispatcher()
        cluster.worker()
        with server.client() as client:
            promises.define(client)
            stays = {"executor": "shell", "command": f"{promises.note}; echo up; cat {gate}"}
            client.call("POST", "/tasks", body={"name": "stays", **stays})
            run = client.trigger("stays")
            first_line(client, run)
            assert promises.ask(client)

            ballast = postgres.fill()
            refused = write_until_refused(server)
            room = shutil.disk_usage(postgres.disk).free
            gate.write_text("go\n")  # it ends, and its end may have to wait for room
            meanwhile = client.run(run["id"])["status"]
            health = httpx2.get(f"{server.url}/health", trust_env=False).status_code
            ballast.unlink()
            if "PANIC" in postgres.log:
                postgres.restart()
            name = refused.request.read().decode().split('"')[3]
            half = client.items("/tasks", name=name)
            assert list(half) == []
            ended = client.wait(run["id"], timeout_seconds=120)
            promises.check(client)
        alive = [member.process.is_running for member in cluster.members]

    assert room == 0
    assert "No space left on device" in postgres.log
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == (
        "the database cannot be used now: its disk is full; make room and try again"
    )
    assert meanwhile in {"running", "succeeded"}
    assert health == 200
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert all(alive)
