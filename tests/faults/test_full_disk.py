"""The disk fills up while tasks run: writes are refused, and all goes on once there is room."""

import os
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from benchmarks.processes import end_of

from tidemill.client.client import Client
from tidemill.testing.server import Server

Mount = Callable[[str], Path]

_WRITES_AT_MOST = 500  # before the database has used up what it had reserved


def server_on(directory: Path, **settings: str) -> Server:
    quick = {
        "TIDEMILL_WORKER__DRAIN_SECONDS": "2",
        "TIDEMILL_WORKER__KILL_GRACE_SECONDS": "1",
    }
    return Server(directory, environment=quick | settings)


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


def first_line(client: Client, run_id: int) -> str:
    stream = client.stream(f"/runs/{run_id}/logs?follow=1")
    return next(str(line["text"]) for name, line in stream if name == "log")


@pytest.mark.slow
def test_a_full_disk_refuses_writes_and_loses_nothing(mount: Mount, tmp_path: Path) -> None:
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    os.mkfifo(gate)
    lease = {"TIDEMILL_WORKER__LEASE_SECONDS": "120"}
    with server_on(mount("size=8m"), **lease) as server, server.client() as client:
        waits = {"name": "waits", "executor": "shell", "command": f"echo up; cat {gate}"}
        client.call("POST", "/tasks", body=waits)
        run = client.trigger("waits")
        first_line(client, run["id"])
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


@pytest.mark.slow
def test_a_task_whose_lease_cannot_be_renewed_is_ended_and_runs_again_once_there_is_room(
    mount: Mount,
) -> None:
    short = {
        "TIDEMILL_WORKER__LEASE_SECONDS": "1.5",
        "TIDEMILL_WORKER__HEARTBEAT_SECONDS": "0.3",
    }
    with server_on(mount("size=8m"), **short) as server, server.client() as client:
        stays = "echo $$; [ $TIDEMILL_ATTEMPT -ge 2 ] || sleep 600"
        body = {"name": "stays", "executor": "shell", "command": stays}
        client.call("POST", "/tasks", body=body)
        run = client.trigger("stays")
        with end_of(int(first_line(client, run["id"]))) as ended:
            ballast = fill(server.data_dir)
            write_until_refused(server)
            select.select([ended], [], [])

        assert client.run(run["id"])["completed_at"] is None
        ballast.unlink()
        final = client.wait(run["id"], timeout_seconds=60)
        attempts = client.call("GET", f"/runs/{run['id']}/attempts")["items"]

    assert (final["status"], final["attempt"]) == ("succeeded", 2)
    assert [attempt["outcome"] for attempt in attempts] == ["lost", "succeeded"]
