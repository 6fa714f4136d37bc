"""Each verb of the command line does its work on a real server."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tidemill.cli.app import NOUNS, run
from tidemill.client.client import Client
from tidemill.testing.server import Server

Call = Callable[..., Any]

DAY = ("--from", "2026-01-01T00:00:00+00:00", "--to", "2026-01-02T00:00:00+00:00")
ELSEWHERE = {  # what has tests of its own, most of them without a server
    "schedule next", "import crontab", "config show", "config check", "context list",
    "context create", "context use", "context delete", "db upgrade", "db current", "db check",
    "db downgrade", "db sql",
}  # fmt: skip
HERE = {
    *(f"task {verb}" for verb in NOUNS["task"][1]),
    *(f"run {verb}" for verb in NOUNS["run"][1]),
    *(f"worker {verb}" for verb in NOUNS["worker"][1]),
    *(f"flow-run {verb}" for verb in NOUNS["flow-run"][1]),
    "queue list",
}


@pytest.fixture
def call(
    shared_server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Carry out a command in this process; what it printed, read as JSON where it is."""
    monkeypatch.setenv("TIDEMILL_SERVER", shared_server.url)

    def carry_out(*words: object, code: int = 0) -> Any:
        found = run([*map(str, words), "-o", "json"])
        printed = capsys.readouterr()
        assert found == code, printed.err
        return json.loads(printed.out) if printed.out else None

    return carry_out


def test_every_verb_is_tried_somewhere() -> None:
    there_are = {f"{noun} {verb}" for noun, (_, verbs) in NOUNS.items() for verb in verbs}

    assert there_are == HERE | ELSEWHERE


def test_a_task_from_its_creation_to_its_end(call: Call) -> None:
    call("task", "create", "verbs", "--command", "echo hi", "--schedule", "0 0 * * *")
    assert call("task", "get", "verbs")["command"] == "echo hi"
    assert "verbs" in [task["name"] for task in call("task", "list")]
    assert len(call("task", "preview", "verbs", "--count", 3)) == 3
    assert call("task", "pause", "verbs")["status"] == "paused"
    assert call("task", "resume", "verbs")["status"] == "active"
    assert call("task", "explain", "verbs")["gates"][0]["gate"] == "status"
    made = call("task", "backfill", "verbs", *DAY, "--dry-run")
    assert made["fire_times"] == ["2026-01-01T00:00:00.000Z"]
    triggered = call("task", "trigger", "verbs", "--wait", "-p", "day=1", "-p", "who=me")
    assert triggered["parameters"] == {"day": 1, "who": "me"}
    assert [each["id"] for each in call("task", "runs", "verbs")] == [triggered["id"]]
    assert call("task", "ledger", "verbs")["due"] == 0
    assert call("task", "stats", "verbs")["finished"] == 1
    assert [each["version"] for each in call("task", "versions", "verbs")] == [1]
    call("task", "delete", "verbs")
    call("task", "get", "verbs", code=3)


def test_a_run_from_its_trigger_to_its_retry(call: Call) -> None:
    call("task", "create", "verbs-of-runs", "--command", "echo hi; exit 3")
    run = call("task", "trigger", "verbs-of-runs")["id"]
    assert call("run", "wait", run, code=1)["status"] == "failed"
    assert call("run", "get", run)["exit_code"] == 3
    assert call("run", "result", run) is None
    assert run in [each["id"] for each in call("run", "list", "--status", "failed")]
    assert [line["text"] for line in call("run", "logs", run)] == ["hi"]
    assert call("run", "events", run)[-1]["type"] == "RunFinished"
    assert [each["outcome"] for each in call("run", "attempts", run)] == ["failed"]
    assert call("run", "explain", run)["may_start"] is False
    again = call("run", "retry", run)["id"]
    call("run", "wait", again, code=1)
    call("run", "cancel", again, code=5)
    call("task", "delete", "verbs-of-runs")


def test_a_flow_run_from_its_beginning_to_its_end(call: Call, client: Client) -> None:
    call("task", "create", "verbs-first", "--command", "sleep 600")
    dependencies = [{"task": "name:verbs-first"}]
    body = {"name": "verbs-then", "executor": "shell", "command": "true"}
    client.call("POST", "/tasks", body=body | {"dependencies": dependencies})
    flow_run = call("task", "trigger", "verbs-first")["flow_run_id"]
    assert flow_run in [each["id"] for each in call("flow-run", "list", "--status", "running")]
    found = call("flow-run", "get", flow_run)
    assert [run["status"] for run in found["runs"]][1] == "waiting"
    assert [edge["condition"] for edge in found["edges"]] == ["succeeded"]
    call("flow-run", "cancel", flow_run)
    call("run", "wait", found["root_run_id"], code=1)
    assert call("flow-run", "get", flow_run)["status"] == "cancelled"
    again = call("flow-run", "retry", flow_run, "--versions", "now")
    assert (again["retry_of"], again["status"]) == (flow_run, "running")
    call("flow-run", "retry", again["id"], code=5)
    call("flow-run", "retry", flow_run, "--versions", "never", code=2)
    call("flow-run", "cancel", again["id"])
    call("task", "delete", "verbs-then")
    call("task", "delete", "verbs-first")


def test_a_worker_from_its_registration_to_its_drain(call: Call, client: Client) -> None:
    body = {"name": "verbs", "task_types": ["other"], "max_concurrent_tasks": 1}
    worker = client.call("POST", "/workers", body=body)["id"]
    assert worker in [each["id"] for each in call("worker", "list")]
    assert call("worker", "get", worker)["name"] == "verbs"
    assert call("worker", "drain", worker)["status"] == "draining"
    call("worker", "delete", worker, code=5)  # not before it is gone
    assert "default" in [queue["name"] for queue in call("queue", "list")]
