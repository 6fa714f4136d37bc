"""Signals and streams: how the process ends, and what it does not end for."""

import itertools
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from benchmarks.processes import contained, end_of, wait_until_gone

from tidemill.client.client import Client

STAYS = {"name": "stays", "executor": "shell", "command": "echo up; setsid sleep 600 & sleep 600"}

# Whoever runs the tests in the background has these ignored, and servers would inherit that.
_AS_FROM_A_TERMINAL = ("env", "--default-signal=INT,HUP")


class Up:
    """`tidemill up` with streams of the test's choice."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        wrapper: tuple[str, ...] = (),
        tells_start: bool = False,
        **streams: object,
    ) -> None:
        self.data_dir = data_dir
        if tells_start:
            data_dir.mkdir()
            os.mkfifo(self._lock)
        self.process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            [*_AS_FROM_A_TERMINAL, *wrapper, sys.executable, "-m", "tidemill", "up",
             "--data-dir", str(data_dir), "--port", str(port)],
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(data_dir.parent),
                 "TIDEMILL_WORKER__DRAIN_SECONDS": "1", "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1"},
        )  # fmt: skip

    @property
    def _lock(self) -> Path:
        return self.data_dir / "tidemill.db.lock"

    def wait_until_it_starts(self) -> None:
        """Return when it takes its lock: it listens already, and is not ready yet."""
        self._lock.open().close()  # a pipe, which opens when its other end does

    def url(self) -> str:
        """Where it is, once it is ready."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split(" ready at ", 1)[1].split()[0]

    def run_something_that_stays(self, url: str) -> int:
        """The id of a run with two processes that do not end by themselves."""
        with Client(url) as client:
            client.call("POST", "/tasks", body=STAYS)
            run = client.trigger("stays")
            path = f"/runs/{run['id']}/logs?follow=1"
            next(event for event in client.stream(path) if event[0] == "log")
            return int(run["id"])

    def __enter__(self) -> "Up":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        wait_until_gone(self.data_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow
def test_a_server_drains_when_it_is_asked_to_end(tmp_path: Path, number: signal.Signals) -> None:
    with Up(tmp_path / "data") as up:
        up.run_something_that_stays(up.url())
        processes = contained(up.data_dir)
        assert len(processes) >= 4  # warden, slot, and the two of the task
        descriptors = [os.pidfd_open(pid) for pid in processes]
        up.process.send_signal(number)
        code = up.process.wait(timeout=30)
        ended, _, _ = select.select(descriptors, [], [], 0)
        for descriptor in descriptors:
            os.close(descriptor)

    assert code == 0
    assert len(ended) == len(processes)


@pytest.mark.slow
def test_a_run_that_a_drain_ends_is_handed_back_and_goes_on_after_the_next_start(
    tmp_path: Path,
) -> None:
    with Up(tmp_path / "data") as up:
        run_id = up.run_something_that_stays(up.url())
        up.process.terminate()
        assert up.process.wait(timeout=30) == 0
    with Up(tmp_path / "data") as up, Client(up.url()) as client:
        path = f"/runs/{run_id}/logs?follow=1"
        logs = [data for _, data in itertools.islice(client.stream(path), 2)]
        attempts = client.call("GET", f"/runs/{run_id}/attempts")["items"]

    assert [line["text"] for line in logs] == ["up", "up"]
    assert attempts[0]["outcome"] == "handed_back"


@pytest.mark.slow
def test_a_second_interrupt_ends_the_server_at_once(tmp_path: Path) -> None:
    with Up(tmp_path / "data") as up:
        up.run_something_that_stays(up.url())
        up.process.send_signal(signal.SIGINT)
        assert up.process.stderr is not None
        assert "draining" in up.process.stderr.readline()
        up.process.send_signal(signal.SIGINT)

        assert up.process.wait(timeout=30) == 130
        assert wait_until_gone(up.data_dir) == 0


@pytest.mark.slow
def test_a_server_that_is_asked_to_end_while_it_starts_ends(tmp_path: Path) -> None:
    with Up(tmp_path / "data", tells_start=True) as up:
        up.wait_until_it_starts()
        up.process.terminate()
        _, said = up.process.communicate(timeout=60)

        assert up.process.returncode == 0
        assert "Traceback" not in said
        assert wait_until_gone(up.data_dir) == 0


@pytest.mark.slow
def test_a_server_that_was_started_to_survive_a_hang_up_survives_it(tmp_path: Path) -> None:
    with Up(tmp_path / "data", wrapper=("nohup",)) as up, Client(up.url()) as client:
        up.process.send_signal(signal.SIGHUP)
        with end_of(up.process.pid) as ended:
            for _ in range(3):
                assert client.call("GET", "/system/health")["status"] == "up"
            assert not select.select([ended], [], [], 0)[0]


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["1>&-", "<&- >&- 2>&-"])
def test_a_server_serves_on_when_its_streams_are_closed(tmp_path: Path, closed: str) -> None:
    wrapper = ("bash", "-c", f'exec "$@" {closed}', "-")
    assert_it_serves_and_ends(tmp_path / "data", wrapper=wrapper)


@pytest.mark.slow
def test_a_server_serves_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert_it_serves_and_ends(tmp_path / "data", stdout=writer, stderr=writer)
    finally:
        os.close(writer)


def assert_it_serves_and_ends(data_dir: Path, **options: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with Up(data_dir, port=port, tells_start=True, **options) as up:
        up.wait_until_it_starts()
        with Client(f"http://127.0.0.1:{port}") as client:
            client.call("POST", "/tasks", body=STAYS | {"command": "echo out; echo err >&2"})
            run = client.wait(client.trigger("stays")["id"], timeout_seconds=60)
            logs = client.call("GET", f"/runs/{run['id']}/logs")["items"]
        up.process.terminate()
        code = up.process.wait(timeout=30)

    assert run["status"] == "succeeded"
    assert sorted(line["text"] for line in logs) == ["err", "out"]
    assert code == 0
