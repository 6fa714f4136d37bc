"""Data on stdout in the format that was asked for, messages on stderr, colour for people only."""

import itertools
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.conftest import Command, command_environment, run_command

from tidemill.client.client import Client
from tidemill.testing.server import Server

_numbers = itertools.count(1)


@pytest.fixture
def task(client: Client) -> str:
    """The name of a task."""
    name = f"shown-{next(_numbers)}"
    body = {"name": name, "executor": "shell", "command": "echo out; echo err >&2", "tags": [name]}
    client.call("POST", "/tasks", body=body)
    return name


def test_a_list_is_printed_in_every_format(tidemill: Command, task: str) -> None:
    printed = {
        format: tidemill("task", "list", "--tag", task, "-o", format).stdout
        for format in ("table", "json", "jsonl", "yaml", "name")
    }

    head, row = printed["table"].splitlines()
    assert (head.split()[0], row.split()[0]) == ("NAME", task)
    assert [each["name"] for each in json.loads(printed["json"])] == [task]
    assert json.loads(printed["jsonl"])["name"] == task
    assert [each["name"] for each in yaml.safe_load(printed["yaml"])] == [task]
    assert printed["name"] == f"{task}\n"


def test_one_thing_is_printed_in_every_format(tidemill: Command, task: str) -> None:
    printed = {
        format: tidemill("task", "get", task, "-o", format).stdout
        for format in ("table", "json", "jsonl", "yaml", "name")
    }

    assert f"name                   {task}\n" in printed["table"]
    assert json.loads(printed["json"])["name"] == task
    assert json.loads(printed["jsonl"])["name"] == task
    assert yaml.safe_load(printed["yaml"])["name"] == task
    assert printed["name"] == f"{task}\n"


def test_names_can_be_handed_to_the_next_command(
    client: Client, tidemill: Command, task: str
) -> None:
    run = client.trigger(task)
    client.wait(run["id"], timeout_seconds=60)
    printed = tidemill("task", "runs", task, "-o", "name").stdout

    assert printed == f"{run['id']}\n"


def test_workers_and_queues_are_listed_and_looked_at_by_what_the_list_names(
    tidemill: Command,
) -> None:
    worker, *_ = tidemill("worker", "list", "--status", "active", "-o", "name").stdout.split()
    queues = json.loads(tidemill("queue", "list", "-o", "json").stdout)

    assert json.loads(tidemill("worker", "get", worker, "-o", "json").stdout)["id"] == worker
    assert "default" in [queue["name"] for queue in queues]


def test_stdout_and_stderr_of_a_run_are_kept_apart(
    client: Client, tidemill: Command, task: str
) -> None:
    run = client.trigger(task)
    client.wait(run["id"], timeout_seconds=60)
    plain = tidemill("run", "logs", str(run["id"]))
    lines = tidemill("run", "logs", "-f", str(run["id"]), "-o", "jsonl").stdout.splitlines()

    assert (plain.stdout, plain.stderr) == ("out\n", "err\n")
    assert {(line["stream"], line["text"]) for line in map(json.loads, lines)} == {
        ("stdout", "out"),
        ("stderr", "err"),
    }


def test_there_is_no_colour_off_a_terminal() -> None:
    assert "\x1b" not in run_command("--help").stdout


def test_there_is_colour_on_a_terminal_but_not_with_no_color() -> None:
    assert "\x1b[" in on_a_terminal({})
    assert "\x1b[3" not in on_a_terminal({"NO_COLOR": "1"})


def on_a_terminal(environment: dict[str, str]) -> str:
    """What `tidemill --help` prints where a person sees it."""
    ours, theirs = pty.openpty()
    given = command_environment("http://127.0.0.1:9") | {"TERM": "xterm-256color"} | environment
    with subprocess.Popen(
        [sys.executable, "-m", "tidemill", "--help"], stdout=theirs, env=given
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := read_terminal(ours):
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    return seen.decode()


def read_terminal(terminal: int) -> bytes:
    """What comes next; nothing once the other side is closed, which Linux calls an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


def test_output_and_progress_are_shown_while_a_task_runs(
    client: Client, shared_server: Server, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    body = {
        "name": f"gated-{next(_numbers)}",
        "executor": "python",
        "command": "gated_tasks:report",
        "arguments": {"gate": str(gate)},
    }
    task = client.call("POST", "/tasks", body=body)
    command = [sys.executable, "-m", "tidemill", "task", "trigger", task["name"], "--wait"]
    with subprocess.Popen(
        [*command, "--follow", "--timeout", "120"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment(shared_server.url),
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        live = [following.stdout.readline(), following.stderr.readline()]
        live.append(following.stderr.readline())
        [run] = client.call("GET", f"/tasks/{task['id']}/runs")["items"]
        gate.write_text("let go")
        rest = following.stdout.read(), following.stderr.read()

    assert live == ["started\n", f"run {run['id']} of {task['name']}\n", "50% half-way\n"]
    assert run["status"] == "running"
    assert rest == ("result  let go\n", f"100% done\nrun {run['id']} succeeded\n")
    assert following.returncode == 0


def test_a_stream_on_which_nothing_comes_ends_on_time(client: Client) -> None:
    body = {"name": f"silent-{next(_numbers)}", "executor": "shell", "command": "sleep 600"}
    run = client.trigger(str(client.call("POST", "/tasks", body=body)["id"]))
    with pytest.raises(TimeoutError):
        list(client.stream(f"/runs/{run['id']}/logs?follow=1", timeout_seconds=0.2))

    assert client.call("POST", f"/runs/{run['id']}/cancel")["status"] != "succeeded"
