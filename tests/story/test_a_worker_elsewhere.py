"""A worker that reaches nothing but the API runs what the server hands out."""

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.processes import end_of
from tests.remote_workers import LEASES, RemoteWorker, first_line, outcomes, start

from tidemill.client.client import Client
from tidemill.testing.server import Server, StartFailed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a worker of its own."""
    data_dir = tmp_path_factory.mktemp("server") / "data"
    with Server(data_dir, "--workers", "0", environment=LEASES) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as found:
        yield found


@pytest.fixture(scope="module")
def elsewhere(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteWorker]:
    """The worker that most of these tests share."""
    directory = tmp_path_factory.mktemp("elsewhere")
    with RemoteWorker(server.url, directory, "elsewhere", place="elsewhere") as found:
        yield found


def test_a_command_runs_elsewhere_and_its_output_is_seen_while_it_runs(
    client: Client, elsewhere: RemoteWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    run = start(
        client,
        "elsewhere",
        command=f"echo one; cat {gate}; echo '::result:: {{\"n\": 1}}'",
    )
    seen = first_line(client, run)
    status = client.run(run["id"])["status"]
    gate.write_text("two\n")
    ended = client.wait(run["id"], timeout_seconds=60)
    lines = client.call("GET", f"/runs/{run['id']}/logs")["items"]

    assert (seen, status) == ("one", "running")
    assert (ended["status"], ended["result"]) == ("succeeded", {"n": 1})
    assert [line["text"] for line in lines][:2] == ["one", "two"]
    worker = client.call("GET", f"/workers/{ended['worker_id']}")
    assert (worker["name"], worker["ip_address"]) == ("elsewhere", "127.0.0.1")


def test_a_function_runs_elsewhere_and_knows_its_run(
    client: Client, elsewhere: RemoteWorker
) -> None:
    run = start(client, "elsewhere", executor="python", command="sample_tasks:about")
    ended = client.wait(run["id"], timeout_seconds=60)

    assert ended["status"] == "succeeded"
    assert ended["result"]["run_id"] == run["id"]
    assert ended["progress"] == {"fraction": 0.5, "message": "half-way"}


def test_a_checkpoint_reaches_the_next_attempt_elsewhere(
    client: Client, elsewhere: RemoteWorker
) -> None:
    retry = {"max_retries": 1, "delay_seconds": 0}
    run = start(client, "elsewhere", executor="python", command="sample_tasks:resume", retry=retry)
    ended = client.wait(run["id"], timeout_seconds=60)

    assert (ended["status"], ended["result"], ended["attempt"]) == ("succeeded", {"done": 3}, 2)


def test_a_run_elsewhere_is_cancelled_with_its_processes(
    client: Client, elsewhere: RemoteWorker
) -> None:
    run = start(client, "elsewhere", command="echo $$; exec sleep 600")
    with end_of(int(first_line(client, run))) as ended:
        client.call("POST", f"/runs/{run['id']}/cancel")
        final = client.wait(run["id"], timeout_seconds=60)
        assert select.select([ended], [], [], 0)[0]

    assert final["status"] == "cancelled"


def test_a_worker_elsewhere_that_is_stopped_hands_back_what_runs(
    client: Client, server: Server, tmp_path: Path
) -> None:
    first = RemoteWorker(server.url, tmp_path, "first", place="pair")
    second = RemoteWorker(server.url, tmp_path, "second", place="pair")
    with first:
        run = start(
            client, "pair", command="echo $$; [ $TIDEMILL_ATTEMPT -ge 2 ] || exec sleep 600"
        )
        first_line(client, run)
        holder = client.run(run["id"])["worker_id"]
        with second:
            code = first.stop()
            final = client.wait(run["id"], timeout_seconds=60)

    assert code == 0
    assert (final["status"], final["attempt"]) == ("succeeded", 2)
    assert outcomes(client, run) == ["handed_back", "succeeded"]
    assert client.call("GET", f"/workers/{holder}")["status"] == "offline"
    assert "Traceback" not in first.log


def test_a_worker_elsewhere_that_is_drained_by_hand_is_given_nothing_more(
    client: Client, server: Server, tmp_path: Path
) -> None:
    with (
        RemoteWorker(server.url, tmp_path, "tired", place="two"),
        RemoteWorker(server.url, tmp_path, "fresh", place="two"),
    ):
        names = {each["name"]: each["id"] for each in client.items("/workers", status="active")}
        client.call("POST", f"/workers/{names['tired']}/drain")
        runs = [start(client, "two", command="true") for _ in range(3)]
        ended = [client.wait(run["id"], timeout_seconds=60) for run in runs]
        tired = client.call("GET", f"/workers/{names['tired']}")

    assert {run["worker_id"] for run in ended} == {names["fresh"]}
    assert tired["status"] == "draining"


def test_a_worker_elsewhere_imports_neither_database_nor_web_framework(
    server: Server, tmp_path: Path
) -> None:
    worker = RemoteWorker(server.url, tmp_path, "light", place="light")
    imported = worker.start()
    worker.stop()

    assert "tidemill" in imported
    assert not {"sqlalchemy", "alembic", "fastapi", "starlette", "uvicorn", "asyncpg", "redis",
                "aio_pika", "psutil", "cyclopts"} & set(imported)  # fmt: skip


def test_a_worker_whose_server_does_not_answer_says_so_in_one_line(tmp_path: Path) -> None:
    worker = RemoteWorker("http://127.0.0.1:9", tmp_path, "alone")
    with pytest.raises(StartFailed):
        worker.start()
    worker.stop()

    assert worker.log.startswith("tidemill: http://127.0.0.1:9")
    assert len(worker.log.splitlines()) == 1


def test_two_workers_of_one_name_do_not_share_a_data_directory(
    server: Server, tmp_path: Path
) -> None:
    second = RemoteWorker(server.url, tmp_path, "same")
    with RemoteWorker(server.url, tmp_path, "same"), pytest.raises(StartFailed):
        second.start()

    assert "another process uses" in second.log


def test_a_large_result_is_passed_on_from_one_run_to_the_next(
    client: Client, elsewhere: RemoteWorker
) -> None:
    of_python = {"executor": "python", "worker_selector": {"place": "elsewhere"}}
    first = {"name": "gives", "command": "odd_tasks:give_long", "arguments": {"length": 2_000_000}}
    then = {"name": "reads", "command": "odd_tasks:read_upstream"}
    client.call("POST", "/tasks", body=of_python | first)
    client.call(
        "POST", "/tasks", body=of_python | then | {"dependencies": [{"task": "name:gives"}]}
    )
    root = client.trigger("gives")
    runs = client.call("GET", f"/flow-runs/{root['flow_run_id']}")["runs"]
    [reading] = [run["id"] for run in runs if run["task_name"] == "reads"]
    read = client.wait(reading, timeout_seconds=60)

    assert read["status"] == "succeeded", read
    assert read["result"]["length"] == 2_000_000
    assert read["result"]["$artifact"]["bytes"] == 2_000_002
    assert not Path(read["result"]["path"]).exists()
