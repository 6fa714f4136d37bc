"""Versions N and N+1 on one database, while it is migrated under load."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import command_environment, run_command
from tests.migration.next_version import NEXT, NextVersion

from tidemill.client.client import Client
from tidemill.infrastructure.database.schema import HEAD, prepare_sqlite
from tidemill.testing.cluster import Cluster
from tidemill.testing.server import Process, Server, StartFailed

pytestmark = pytest.mark.slow


def upgrade(version: NextVersion, **environment: str) -> str:
    """`tidemill db upgrade` of that version; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", "db", "upgrade"],
        capture_output=True,
        text=True,
        env=command_environment("") | version.environment | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Load:
    """Runs that are asked for one after the other, each to its end; no call may fail."""

    def __init__(self, server: Server) -> None:
        self.runs: list[dict[str, Any]] = []
        self.failures: list[Exception] = []
        self._server = server
        self._is_over = threading.Event()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def wait_for_more(self, count: int) -> None:
        """Return when so many more runs have ended, or one call failed."""
        with self._moved:
            wanted = len(self.runs) + count
            self._moved.wait_for(lambda: len(self.runs) >= wanted or self.failures)

    def _go_on(self) -> None:
        with self._server.client() as client:
            while not self._is_over.is_set() and not self.failures:
                try:
                    run = client.wait(client.trigger("asked")["id"], timeout_seconds=30)
                    client.call("PATCH", "/tasks/name:asked", body={"description": str(run["id"])})
                    client.call("GET", f"/runs/{run['id']}/explain")
                except Exception as error:
                    self.failures.append(error)
                else:
                    self.runs.append(run)
                with self._moved:
                    self._moved.notify_all()


@pytest.fixture
def cluster(postgres_url: str, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "this", postgres_url) as cluster:
        yield cluster


def define_first(client: Client) -> dict[str, Any]:
    client.call("POST", "/tasks", body={"name": "asked", "executor": "shell", "command": "true"})
    return client.call("POST", "/tasks", body={
        "name": "ticks", "executor": "shell", "command": "true", "schedule": "@every 1s",
        "overlap": "allow", "misfire": {"policy": "run_all"},
    })  # fmt: skip


def test_processes_of_this_version_and_the_next_work_on_while_the_database_is_migrated(
    cluster: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    later = NextVersion(tmp_path / "code")
    server = cluster.api()
    cluster.dispatcher()
    cluster.worker()
    with server.client() as client:
        ticks = define_first(client)
    with server.client() as client, Load(server) as load:
        load.wait_for_more(3)
        assert upgrade(later, TIDEMILL_DATABASE__URL=postgres_url) == NEXT
        load.wait_for_more(3)
        with Cluster(tmp_path / "next", postgres_url, later.environment) as beside:
            newer = beside.api()
            beside.dispatcher()
            beside.worker()
            load.wait_for_more(3)
            with newer.client() as other:
                ends = [other.wait(other.trigger("asked")["id"])["status"] for _ in range(3)]
            restarted = cluster.members[-1].process
            restarted.stop()
            restarted.start()  # the older one, on the newer schema
            load.wait_for_more(3)
            alive = [m.process.is_running for m in (*cluster.members, *beside.members)]
        client.call("POST", "/tasks/name:ticks/pause")
        end = client.call("GET", f"/tasks/{ticks['id']}")["updated_at"]
        span = {"from": ticks["created_at"], "to": end}
        ledger = client.call("GET", f"/tasks/{ticks['id']}/ledger", params=span)
        workers = {each["id"] for each in client.items("/workers")}

    assert load.failures == []
    assert {(run["status"], run["attempt"]) for run in load.runs} == {("succeeded", 1)}
    assert ends == ["succeeded"] * 3
    assert all(alive)
    assert len(workers) == 3
    assert (ledger["skipped"], ledger["missed"]) == (0, 0)
    assert ledger["due"] == ledger["ran"] > 3
    assert f"the schema is at {NEXT}: newer than {HEAD}, and it fits" in restarted.log
    assert not any("Traceback" in m.process.log for m in (*cluster.members, *beside.members))


def test_an_older_version_is_refused_where_a_migration_left_nothing_that_fits_it(
    postgres_url: str, tmp_path: Path
) -> None:
    later = NextVersion(tmp_path / "code", fits=False)
    environment = {"TIDEMILL_DATABASE__URL": postgres_url}
    upgrade(later, **environment)
    role = Process(tmp_path / "log", "serve", "dispatcher", environment=environment)
    with pytest.raises(StartFailed):
        role.start()
    checked = run_command("db", "check", environment=environment)
    newer = Process(
        tmp_path / "newer.log", "serve", "dispatcher", environment=environment | later.environment
    )
    with newer:
        assert newer.is_running

    said = (
        "tidemill: the database was written by a newer version of Tidemill; run that one, or name "
        f"another database: this is at schema {NEXT}, for versions from {NEXT} on, and this "
        f"version has {HEAD}\n"
    )
    assert role.log == said
    assert checked.returncode == 1
    assert checked.stderr.endswith(said)


def test_a_file_of_the_next_version_is_used_by_this_one_where_it_fits(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    prepare_sqlite(data_dir / "tidemill.db")
    later = NextVersion(tmp_path / "code")
    assert upgrade(later, TIDEMILL_DATA_DIR=str(data_dir)) == NEXT
    with Server(data_dir) as server, server.client() as client:
        define_first(client)
        ended = client.wait(client.trigger("asked")["id"])
    current = run_command("db", "current", environment={"TIDEMILL_DATA_DIR": str(data_dir)})

    assert ended["status"] == "succeeded"
    assert current.stdout.strip() == NEXT
