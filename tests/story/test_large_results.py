"""A result of any size is passed on: as a file to whoever depends on it, and whole to people."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import run_command

from tidemill.client.client import Client
from tidemill.testing.server import Server

BYTES = 3_000_000
FILL = f"printf '\"'; head -c {BYTES - 2} /dev/zero | tr '\\0' x; printf '\"'"
TELL = """printf '{"path": "%s", "bytes": %d}' "$1" "$(wc -c < "$1")" > "$TIDEMILL_RESULT_FILE" """
MAKE = {"name": "large-make", "command": f'({FILL}) > "$TIDEMILL_RESULT_FILE"'}
COUNT = {
    "name": "large-count",
    "command": "sh",
    "arguments": ["-c", TELL, "sh", '${{ parameters.upstream["large-make"].path }}'],
    "dependencies": [{"task": "name:large-make"}],
}


@pytest.fixture
def _tasks(client: Client) -> Iterator[None]:
    made = [
        client.call("POST", "/tasks", body={"executor": "shell"} | each) for each in (MAKE, COUNT)
    ]
    yield
    for each in reversed(made):
        client.call("DELETE", f"/tasks/{each['id']}")


@pytest.mark.usefixtures("_tasks")
def test_a_large_result_is_a_file_for_its_dependent_and_whole_for_people(
    client: Client, shared_server: Server
) -> None:
    opened = client.trigger("large-make")
    runs = client.call("GET", f"/flow-runs/{opened['flow_run_id']}")["runs"]
    ended: dict[str, Any] = {
        run["task_name"]: client.wait(run["id"], timeout_seconds=60) for run in runs
    }
    made, counted = ended["large-make"], ended["large-count"]
    printed = run_command("run", "result", str(made["id"]), server=shared_server.url)
    small = run_command("run", "result", str(counted["id"]), server=shared_server.url)

    assert (made["status"], made["result"]) == (
        "succeeded", {"$artifact": {"id": f"{made['id']}-{made['fence']}", "bytes": BYTES}},
    )  # fmt: skip
    assert (counted["status"], counted["result"]["bytes"]) == ("succeeded", BYTES)
    assert not Path(counted["result"]["path"]).exists()
    assert json.loads(printed.stdout) == "x" * (BYTES - 2)
    assert json.loads(small.stdout) == counted["result"]
    assert b"".join(client.result(made["id"])) == printed.stdout.rstrip().encode()
