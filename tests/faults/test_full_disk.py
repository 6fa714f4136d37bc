"""The disk fills up while tasks run: writes are refused, and all goes on once there is room."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tidemill.client.client import Client
from tidemill.testing.server import Server

Mount = Callable[[str], Path]

_WRITES_AT_MOST = 500  # before the database has used up what it had reserved


@pytest.fixture
def server(mount: Mount) -> Iterator[Server]:
    """A server whose data directory is small."""
    environment = {
        "TIDEMILL_WORKER__LEASE_SECONDS": "120",
        "TIDEMILL_WORKER__DRAIN_SECONDS": "2",
        "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
    }
    with Server(mount("size=8m"), environment=environment) as found:
        yield found


def fill(directory: Path) -> Path:
    """The file that takes all the room there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        file.write(bytes(shutil.disk_usage(directory).free))
    return ballast


def write_until_refused(server: Server) -> httpx2.Response:
    """Define tasks until the answer is not that it was done."""
    for number in range(_WRITES_AT_MOST):
        body = {"name": f"filler-{number}", "executor": "shell", "command": "true",
                "description": "x" * 2_000}  # fmt: skip
        answer = httpx2.post(f"{server.url}/api/v1/tasks", json=body, trust_env=False)
        if answer.status_code != 201:
            return answer
    raise AssertionError("a full disk takes everything")


def first_log(client: Client, run_id: int) -> None:
    next(event for event in client.stream(f"/runs/{run_id}/logs?follow=1") if event[0] == "log")


@pytest.mark.slow
def test_a_full_disk_refuses_writes_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    os.mkfifo(gate)
    with server.client() as client:
        waits = {"name": "waits", "executor": "shell", "command": f"echo up; cat {gate}"}
        client.call("POST", "/tasks", body=waits)
        run = client.trigger("waits")
        first_log(client, run["id"])
        ticks = client.call(
            "POST",
            "/tasks",
            body={
                "name": "ticks", "executor": "shell", "schedule": "@every 1s", "overlap": "allow",
                "command": f'echo "$TIDEMILL_SCHEDULED_FOR" >> {effects}',
                "misfire": {"policy": "run_all"},
            },
        )  # fmt: skip

        ballast = fill(server.data_dir)
        refused = write_until_refused(server)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "unavailable"
        assert str(server.data_dir) not in refused.text
        assert httpx2.get(f"{server.url}/health", trust_env=False).status_code == 200
        gate.write_text("go\n")  # it ends, and its end may have to wait for room
        assert client.run(run["id"])["status"] in {"running", "succeeded"}

        ballast.unlink()
        ended = client.wait(run["id"], timeout_seconds=60)
        again = client.call("POST", "/tasks", body=waits | {"name": "after"})
        for name, event in client.stream("/events"):
            if name == "RunFinished" and client.run(event["run_id"])["task_name"] == "ticks":
                last = client.run(event["run_id"])
                break
        client.call("POST", "/tasks/name:ticks/pause")
        span = {"from": ticks["created_at"], "to": last["scheduled_for"]}
        ledger = client.call("GET", f"/tasks/{ticks['id']}/ledger", params=span)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert again["name"] == "after"
    assert (ledger["skipped"], ledger["missed"]) == (0, 0)
    started = effects.read_text().split()
    assert len(started) == len(set(started))
    assert {item["scheduled_for"] for item in ledger["items"]} <= set(started)
    assert "Traceback" not in server.log
