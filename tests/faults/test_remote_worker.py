"""A worker that goes through the API, while it, its network or its server fails."""

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from benchmarks.processes import end_of
from tests.remote_workers import LEASES, RemoteWorker, first_line, outcomes, start

from tidemill.client.client import Client
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.server import Server

pytestmark = pytest.mark.slow

LONG = LEASES | {"TIDEMILL_WORKER__LEASE_SECONDS": "60"}  # than any start of a server
STAYS_ONCE = "echo $$; [ $TIDEMILL_ATTEMPT -ge 2 ] || exec sleep 600"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a worker of its own."""
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with Server(data_dir, "--workers", "0", environment=LEASES) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """What tests look through: it sees the server whatever the link does."""
    with server.client() as found:
        yield found


@pytest.fixture
def link(server: Server) -> Iterator[FaultyLink]:
    """What is between the server and a worker."""
    port = urlsplit(server.url).port
    assert port is not None
    with FaultyLink("127.0.0.1", port) as found:
        yield found


@pytest.fixture
def cut_off(server: Server, link: FaultyLink, tmp_path: Path) -> Iterator[RemoteWorker]:
    """A worker that may be cut off."""
    with RemoteWorker(
        link.through(server.url), tmp_path, "cut-off", place="anywhere", at="cut-off"
    ) as found:
        yield found


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that whoever reads it waits for."""
    found = tmp_path / "gate"
    os.mkfifo(found)
    return found


def incarnations(client: Client, name: str) -> list[dict[str, Any]]:
    return [each for each in client.items("/workers") if each["name"] == name]


def test_what_ran_starts_elsewhere_when_its_worker_is_killed(
    client: Client, server: Server, tmp_path: Path
) -> None:
    killed = RemoteWorker(server.url, tmp_path, "killed", place="pair")
    killed.start()
    run = start(client, "pair", command=STAYS_ONCE)
    with end_of(int(first_line(client, run))) as ended:
        killed.kill()
        with RemoteWorker(server.url, tmp_path, "heir", place="pair"):
            final = client.wait(run["id"], timeout_seconds=60)
        assert select.select([ended], [], [], 0)[0]

    assert (final["status"], final["attempt"]) == ("succeeded", 2)
    assert outcomes(client, run) == ["lost", "succeeded"]


def test_a_run_goes_on_when_its_worker_is_cut_off_for_less_than_a_lease(
    client: Client, cut_off: RemoteWorker, link: FaultyLink, gate: Path
) -> None:
    run = start(client, "anywhere", command=f"echo one; cat {gate}")
    first_line(client, run)
    link.fault = Fault.BLACK_HOLE
    link.wait_for(Fault.BLACK_HOLE)
    gate.write_text("two\n")
    link.fault = None
    final = client.wait(run["id"], timeout_seconds=60)

    assert (final["status"], final["attempt"]) == ("succeeded", 1)
    lines = client.call("GET", f"/runs/{run['id']}/logs")["items"]
    assert [line["text"] for line in lines] == ["one", "two"]
    assert len(incarnations(client, "cut-off")) >= 1


def test_a_tree_ends_before_its_run_starts_elsewhere_when_its_worker_is_cut_off_for_longer(
    client: Client, server: Server, cut_off: RemoteWorker, link: FaultyLink, tmp_path: Path
) -> None:
    run = start(client, "anywhere", command=STAYS_ONCE)
    with end_of(int(first_line(client, run))) as ended:
        link.fault = Fault.BLACK_HOLE
        select.select([ended], [], [])
        at_its_end = client.run(run["id"])
    with RemoteWorker(server.url, tmp_path, "heir", place="anywhere"):
        final = client.wait(run["id"], timeout_seconds=60)
    link.fault = None
    again = client.call("POST", "/tasks", body={
        "name": f"again-{run['id']}", "executor": "shell", "command": "true",
        "worker_selector": {"at": "cut-off"},
    })  # fmt: skip
    back = client.wait(client.trigger(str(again["id"]))["id"], timeout_seconds=60)

    assert link.effects(Fault.BLACK_HOLE) > 0
    assert (at_its_end["status"], at_its_end["attempt"]) == ("running", 1)
    assert outcomes(client, run) == ["lost", "succeeded"]
    assert back["status"] == "succeeded"
    assert back["worker_id"] != at_its_end["worker_id"]  # it came back as another
    assert final["worker_id"] not in {at_its_end["worker_id"], back["worker_id"]}


def test_nothing_is_lost_or_run_twice_when_answers_do_not_arrive(
    client: Client, cut_off: RemoteWorker, link: FaultyLink, tmp_path: Path
) -> None:
    effects = tmp_path / "effects"
    first = start(client, "anywhere", command=f"echo first >> {effects}")
    client.wait(first["id"], timeout_seconds=60)
    link.fault = Fault.DROP_REPLIES
    second = start(client, "anywhere", command=f"echo second >> {effects}")
    link.wait_for(Fault.DROP_REPLIES, effects=2)  # of the claim, and of a heartbeat
    is_claimed = client.run(second["id"])["status"] == "running"
    was_run = effects.read_text().split() == ["first", "second"]
    link.fault = None
    final = client.wait(second["id"], timeout_seconds=60)

    assert (is_claimed, was_run) == (True, False)
    assert (final["status"], final["attempt"]) == ("succeeded", 1)
    assert effects.read_text().split() == ["first", "second"]


@pytest.mark.parametrize("fault", [Fault.DOUBLE, Fault.REORDER])
def test_nothing_is_lost_or_run_twice_when_requests_and_answers_are_garbled(
    client: Client, cut_off: RemoteWorker, link: FaultyLink, tmp_path: Path, fault: Fault
) -> None:
    effects = tmp_path / "effects"
    note = f'echo "$TIDEMILL_RUN_ID $TIDEMILL_ATTEMPT" >> {effects}'
    first = start(client, "anywhere", command=note)
    client.wait(first["id"], timeout_seconds=60)
    link.fault = fault
    runs = [start(client, "anywhere", command=note) for _ in range(4)]
    link.wait_for(fault, effects=10)
    link.fault = None
    final = [client.wait(run["id"], timeout_seconds=60) for run in runs]
    attempts = [client.call("GET", f"/runs/{run['id']}/attempts")["items"] for run in runs]

    assert {run["status"] for run in final} == {"succeeded"}
    assert all(
        [each["outcome"] for each in found] == ["lost"] * (len(found) - 1) + ["succeeded"]
        for found in attempts
    )
    started = effects.read_text().splitlines()
    assert len(started) == len(set(started))
    assert {f"{run['id']} {run['attempt']}" for run in final} <= set(started)


def test_a_run_elsewhere_goes_on_when_its_server_is_killed_and_started_again(
    tmp_path: Path, gate: Path
) -> None:
    server = Server(tmp_path / "data", "--workers", "0", environment=LONG)
    with server:
        worker = RemoteWorker(server.url, tmp_path, "faithful", LONG, place="anywhere")
        again = Server(
            tmp_path / "data",
            "--workers",
            "0",
            port=urlsplit(server.url).port or 0,
            environment=LONG,
        )
        with worker, server.client() as client:
            run = start(client, "anywhere", command=f"echo one; cat {gate}")
            first_line(client, run)
            server.kill()
            with again:
                gate.write_text("two\n")
                final = client.wait(run["id"], timeout_seconds=60)
                worker.stop()

    assert (final["status"], final["attempt"]) == ("succeeded", 1)
