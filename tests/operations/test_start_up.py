"""What stands in the way of a start is said in one line, and nothing is left behind."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tidemill.testing.server import Server

Mount = Callable[[str], Path]


def refusal(*arguments: str, cwd: Path, wrapper: tuple[str, ...] = (), **environment: str) -> str:
    """The one line with which `tidemill up` ends."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "tidemill", "up", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **environment},
        timeout=60,
    )
    assert done.returncode in {1, 2}, done
    assert done.stdout == ""
    assert done.stderr.startswith("tidemill: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("tidemill: ").rstrip("\n")


def test_a_start_is_refused_when_the_port_is_taken(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = refusal("--data-dir", "data", "--port", str(port), cwd=tmp_path)

    assert said == f"api.port: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert list(tmp_path.iterdir()) == []


def test_a_start_is_refused_when_the_port_of_its_probes_is_taken(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        setting = {"TIDEMILL_OBSERVABILITY__PORT": str(port)}
        said = refusal("--data-dir", "data", "--port", "0", cwd=tmp_path, **setting)

    assert said == f"observability.port: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"TIDEMILL_API__PROT": "1"},
            "api.prot: is no known setting; did you mean api.port?",
        ),
        (
            {"TIDEMILL_API__PORT": "many"},
            "api.port: Input should be a valid integer, unable to parse string as an integer",
        ),
        (
            {"TIDEMILL_API__HOST": "0.0.0.0"},
            "api.host: must be this machine only, as nobody has to log in yet; use 127.0.0.1",
        ),
        (
            {"TIDEMILL_WORKER__ALLOWED_EXECUTORS": '["shel"]'},
            "worker.allowed_executors: no executor 'shel'; there are: http, python, shell",
        ),
        (
            {"TIDEMILL_DISPATCHER__STRATEGY": "fastest"},
            "dispatcher.strategy: no strategy 'fastest'; there are: affinity, broadcast, "
            "composite, least_loaded, queue, round_robin, shard",
        ),
        (
            {"TIDEMILL_DISPATCHER__STRATEGY": '{"name": "shard", "count": 0}'},
            "dispatcher.strategy.count: shard: expected `int` >= 1",
        ),
        (
            {"TIDEMILL_CIRCUIT_BREAKER__RESET_SECONDS": "3"},
            "circuit_breaker: longest_reset_seconds must be at least reset_seconds",
        ),
    ],
)
def test_a_start_is_refused_when_a_setting_is_wrong(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    assert refusal("--data-dir", "data", cwd=tmp_path, **environment) == said
    assert list(tmp_path.iterdir()) == []


def test_a_start_is_refused_when_its_settings_file_is_not_there(tmp_path: Path) -> None:
    said = refusal("--config", "nosuch.toml", cwd=tmp_path)

    assert said == "nosuch.toml: cannot be read: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_start_is_refused_when_its_settings_file_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "tidemill.toml").write_text("[api\nport = 1\n")

    assert refusal(cwd=tmp_path).startswith("tidemill.toml: is not TOML: ")
    assert [file.name for file in tmp_path.iterdir()] == ["tidemill.toml"]


def test_a_start_is_refused_when_the_data_directory_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    said = refusal("--data-dir", "data", "--port", "0", cwd=tmp_path)
    assert said == f"data_dir: cannot use {tmp_path}/data: it is no directory"


def test_a_start_is_refused_when_the_data_directory_cannot_be_written(
    tmp_path: Path, mount: Mount
) -> None:
    mounts = mount("ro")
    inside = refusal("--data-dir", str(mounts / "data"), "--port", "0", cwd=tmp_path)
    itself = refusal("--data-dir", str(mounts), "--port", "0", cwd=tmp_path)
    assert inside == f"data_dir: cannot use {mounts}/data: Read-only file system"
    assert itself == f"cannot write to {mounts}: Read-only file system"


def test_a_start_is_refused_when_the_disk_is_full(tmp_path: Path, mount: Mount) -> None:
    mounts = mount("size=64k")
    said = refusal("--data-dir", str(mounts), "--port", "0", cwd=tmp_path)
    assert said.startswith(f"the database {mounts}/tidemill.db cannot be used: ")
    assert "full" in said


def test_a_start_is_refused_when_the_database_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "tidemill.db").write_bytes(b"garbage" * 1000)

    said = refusal("--data-dir", ".", "--port", "0", cwd=tmp_path)
    assert said == f"the database {tmp_path}/tidemill.db cannot be used: file is not a database"
    assert (tmp_path / "tidemill.db").read_bytes() == b"garbage" * 1000


def test_a_start_is_refused_when_the_database_has_other_tables(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tidemill.db")) as database:
        database.execute("CREATE TABLE tasks (id INTEGER)")

    said = refusal("--data-dir", ".", "--port", "0", cwd=tmp_path)
    assert said.startswith(f"the database {tmp_path}/tidemill.db cannot be used: ")
    with closing(sqlite3.connect(tmp_path / "tidemill.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("tasks",)]


def test_a_start_is_refused_when_a_newer_version_wrote_the_database(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "tidemill.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")

    said = refusal("--data-dir", ".", "--port", "0", cwd=tmp_path)
    assert said.startswith("the database was written by a newer version of Tidemill; run that one")


def test_a_start_is_refused_when_another_process_has_the_database(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        said = refusal("--data-dir", "data", "--port", "0", cwd=tmp_path)
        assert said == f"another process uses {tmp_path}/data/tidemill.db; stop it first"
        with server.client() as client:
            assert client.call("GET", "/system/health")["status"] == "up"


@pytest.mark.usefixtures("as_root")
def test_a_start_is_refused_when_there_is_no_shell(tmp_path: Path) -> None:
    (tmp_path / "nothing").write_text("")
    hide = f'mount --bind {tmp_path}/nothing /bin/sh && exec "$@"'
    wrapper = ("unshare", "--mount", "--propagation", "private", "bash", "-c", hide, "-")

    said = refusal("--data-dir", "data", "--port", "0", cwd=tmp_path, wrapper=wrapper)
    assert said == (
        "shell tasks need /bin/sh, which cannot be run here; install it, or leave shell out of "
        "worker.allowed_executors"
    )


@pytest.mark.slow
def test_two_processes_share_a_directory_but_not_their_databases(tmp_path: Path) -> None:
    other = {"TIDEMILL_DATABASE__URL": "sqlite:///other.db"}
    stays = {"name": "stays", "executor": "shell", "command": "echo up; sleep 600"}
    with Server(tmp_path / "data") as first, first.client() as client:
        client.call("POST", "/tasks", body=stays)
        run = client.trigger("stays")
        path = f"/runs/{run['id']}/logs?follow=1"
        next(event for event in client.stream(path) if event[0] == "log")
        with Server(tmp_path / "data", environment=other) as second, second.client() as beside:
            beside.call("POST", "/tasks", body=stays | {"command": "true"})
            ended = beside.wait(beside.trigger("stays")["id"], timeout_seconds=60)
        assert ended["status"] == "succeeded"
        assert client.run(run["id"])["status"] == "running"
        client.call("POST", f"/runs/{run['id']}/cancel")
        assert client.wait(run["id"], timeout_seconds=60)["attempt"] == 1
