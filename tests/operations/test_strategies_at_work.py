"""Strategies, from the API to the process of a task."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tidemill.client.client import Client
from tidemill.testing.server import Server

TELL_SHARD = 'echo "::result:: [$TIDEMILL_SHARD_INDEX, $TIDEMILL_SHARD_TOTAL]"'


def ended_parts(client: Client, first: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a run once each has ended."""
    client.wait(first["id"])
    parts = list(client.items("/runs", part_of=first["id"], sort="id"))
    return [client.wait(part["id"]) for part in parts]


def test_each_shard_of_a_run_does_its_part_of_the_work(client: Client) -> None:
    three = {"name": "shard", "count": 3}
    strategy = {"name": "composite", "strategies": [three, "round_robin"]}
    task = {"name": "sharded", "executor": "shell", "command": TELL_SHARD, "strategy": strategy}
    created = client.call("POST", "/tasks", body=task)
    try:
        parts = ended_parts(client, client.trigger("sharded"))
    finally:
        client.call("DELETE", f"/tasks/{created['id']}")

    assert created["strategy"] == strategy
    assert [part["result"] for part in parts] == [[0, 3], [1, 3], [2, 3]]
    assert [part["shard_index"] for part in parts] == [0, 1, 2]


@pytest.mark.slow
def test_two_workers_take_turns_and_both_get_what_is_broadcast(tmp_path: Path) -> None:
    by_turns = {"TIDEMILL_DISPATCHER__STRATEGY": "round_robin"}
    with (
        Server(tmp_path / "data", "--workers", "2", environment=by_turns) as server,
        server.client() as client,
    ):
        for name, strategy in (("usual", None), ("all", "broadcast")):
            task = {"name": name, "executor": "shell", "command": "true", "strategy": strategy}
            client.call("POST", "/tasks", body=task)
        runs = [client.wait(client.trigger("usual")["id"]) for _ in range(6)]
        parts = ended_parts(client, client.trigger("all"))
        workers = {worker["id"] for worker in client.items("/workers")}

    assert Counter(run["worker_id"] for run in runs) == dict.fromkeys(workers, 3)
    assert {part["worker_id"] for part in parts} == workers
    assert [part["status"] for part in parts] == ["succeeded"] * 2
