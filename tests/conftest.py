"""What many tests need: a server of their own, its client, and the command."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tidemill.client.client import Client
from tidemill.infrastructure.database.postgres_schema import upgrade_postgres
from tidemill.testing.prerequisites import not_run
from tidemill.testing.server import Server
from tidemill.testing.services import Postgres

pytest_plugins = ["tidemill.testing.pytest_plugin"]

TASKS = Path(__file__).parent / "tasks"  # Python tasks that tests run

Mount = Callable[[str], Path]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def postgres_template(shared_postgres: Postgres) -> str:
    """The name of a database with all tables: a copy of it costs less than the migrations."""
    shared_postgres.execute("CREATE DATABASE tidemill_template")
    url = shared_postgres.url.rpartition("/")[0] + "/tidemill_template"
    with ThreadPoolExecutor(1) as thread:  # a test's event loop may be running here
        thread.submit(asyncio.run, upgrade_postgres(url)).result()
    return "tidemill_template"


@pytest.fixture
def migrated_postgres_url(shared_postgres: Postgres, postgres_template: str) -> Iterator[str]:
    """A database with all tables, and nothing in them."""
    with shared_postgres.fresh(template=postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of a session that leave it as they found it."""
    environment = {
        "TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]',
        "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
        "TIDEMILL_WORKER__DRAIN_SECONDS": "2",
    }
    data_dir = tmp_path_factory.mktemp("shared") / "data"
    with Server(data_dir, environment=environment) as server:
        yield server


@pytest.fixture
def client(shared_server: Server) -> Iterator[Client]:
    """A client of the shared server."""
    with shared_server.client() as found:
        yield found


@pytest.fixture
def tidemill(shared_server: Server) -> Command:
    """The command line, talking to the shared server."""

    def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        return run_command(*arguments, server=shared_server.url, **options)

    return run


def run_command(
    *arguments: str,
    server: str = "http://127.0.0.1:9",
    stdin: str = "",
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """`tidemill …` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "tidemill", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        env=command_environment(server) | (environment or {}),
    )


@pytest.fixture
def as_root() -> None:
    """What follows may mount; elsewhere than in CI, only where the tests run as root."""
    if os.geteuid() != 0:
        not_run("only root mounts file systems")


@pytest.fixture
def mount(tmp_path: Path, as_root: None) -> Iterator[Mount]:
    """Mounts a file system in memory with the options given; gone after the test."""
    mounted: list[Path] = []

    def mount_one(options: str) -> Path:
        directory = tmp_path / f"mounted-{len(mounted)}"
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        subprocess.run(command, check=True)
        mounted.append(directory)
        return directory

    yield mount_one
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def command_environment(server: str) -> dict[str, str]:
    """What `tidemill` is given: nothing of this machine's but its programs."""
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"PATH": programs, "TIDEMILL_SERVER": server, "HOME": "/nonexistent"}
