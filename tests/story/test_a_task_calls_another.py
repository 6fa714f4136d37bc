"""One task calls another and waits for it; meanwhile nobody needs to be there."""

import os
from pathlib import Path
from typing import Any

import pytest

from tidemill.client.client import Client
from tidemill.testing.server import Server


def define(client: Client, **fields: Any) -> None:
    client.call("POST", "/tasks", body=fields)


def until_it_has_started(client: Client, run_id: int) -> None:
    for name, _ in client.stream(f"/runs/{run_id}/events"):
        if name == "RunStarted":
            return


@pytest.mark.slow
def test_a_run_that_waits_for_what_it_called_outlives_the_server(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slots = {"TIDEMILL_WORKER__MAX_CONCURRENT_TASKS": "1"}
    server = Server(tmp_path / "data", environment=slots)
    with server, server.client() as client:
        answer = f'echo "::result:: \\"$(cat {gate})\\""'
        define(client, name="answer", executor="shell", command=answer)
        define(client, name="ask", executor="task", command="name:answer", arguments={"of": 1})
        asking = client.trigger("ask")["id"]
        with gate.open("w"):  # until it is read: by then what was called runs
            [call] = client.run(asking)["calls"]
            assert client.run(call["run_id"])["called_by"] == asking
            explained = client.call("GET", f"/runs/{asking}/explain")["gates"][0]["detail"]
            server.kill()
    assert f"it waits for flow run {call['flow_run_id']}" in explained

    with server, server.client() as client:
        with gate.open("w") as said:
            said.write("42")
        asked = client.wait(asking, timeout_seconds=60)
        called = client.run(call["run_id"])
        attempts = client.call("GET", f"/runs/{asking}/attempts")["items"]
        [found] = client.items("/flow-runs", called_by=asking)

    assert (asked["status"], asked["result"], asked["attempt"]) == ("succeeded", "42", 1)
    assert [each["worker_id"] for each in attempts] == ["dispatcher"]
    assert (called["trigger"], called["parameters"]) == ("call", {"of": 1})
    assert (called["attempt"], called["called_by"]) == (2, asking)  # its worker was killed
    assert (found["id"], found["status"]) == (call["flow_run_id"], "succeeded")


def test_a_run_that_waits_is_cancelled_with_what_it_called(client: Client) -> None:
    define(client, name="long", executor="shell", command="sleep 600")
    define(client, name="short-of-time", executor="task", command="name:long")
    waiting = client.trigger("short-of-time")["id"]
    until_it_has_started(client, waiting)
    called = client.run(waiting)["calls"][0]["run_id"]
    until_it_has_started(client, called)
    client.call("POST", f"/runs/{waiting}/cancel")

    assert client.wait(waiting, timeout_seconds=60)["status"] == "cancelled"
    assert client.run(called)["status"] == "cancelled"
    client.call("DELETE", "/tasks/name:short-of-time")
    client.call("DELETE", "/tasks/name:long")
