"""Exit codes that scripts rely on, and what stands on stdout and stderr with each."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from tests.conftest import Command, command_environment, run_command

from tidemill.client.client import Client
from tidemill.testing.server import Server

_numbers = itertools.count(1)


def define(client: Client, command: str, **fields: object) -> str:
    """A shell task of a name of its own."""
    name = f"exits-{next(_numbers)}"
    body = {"name": name, "executor": "shell", "command": command, **fields}
    client.call("POST", "/tasks", body=body)
    return name


def said_in_one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of stderr, nothing being on stdout."""
    assert done.stdout == ""
    assert done.stderr.startswith("tidemill: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_an_awaited_run_gives_zero_when_it_succeeds(client: Client, tidemill: Command) -> None:
    done = tidemill("task", "trigger", define(client, "echo out; echo err >&2"), "--wait")

    assert done.returncode == 0, done.stderr


def test_an_awaited_run_gives_one_when_it_fails(client: Client, tidemill: Command) -> None:
    done = tidemill("task", "trigger", define(client, "exit 3"), "--wait")

    assert done.returncode == 1
    assert "exit_code: exit code 3" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["nosuch"], "tidemill --help"),
        (["task", "lst"], 'Did you mean "list"?'),
        (["task", "list", "--bogus"], "tidemill task list --help"),
        (["task", "trigger"], "TASK"),
        (["run", "get", "seven"], "seven"),
        (["task", "list", "-o", "xml"], "xml"),
        (["task", "list", "--server", "127.0.0.1:8080"], "is no URL of a server"),
        (["task", "list", "--server", "http://[::1"], "is no URL of a server"),
        (["task", "trigger", "x", "-p", "word"], "must be NAME=VALUE"),
        (["schedule", "next", "61 * * * *"], "61 in minute must lie in 0-59"),
        (["apply", "-f", "/nonexistent.yaml"], "cannot read /nonexistent.yaml"),
        (["import", "crontab", "/nonexistent"], "cannot read /nonexistent"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_two(arguments: list[str], hint: str) -> None:
    done = run_command(*arguments)

    assert done.returncode == 2
    assert hint in said_in_one_line(done)


def test_what_the_server_finds_wrong_is_bad_usage_too(tidemill: Command) -> None:
    done = tidemill("run", "list", "--limit", "0")

    assert done.returncode == 2
    assert "limit" in said_in_one_line(done)


def test_what_is_not_there_gives_three(tidemill: Command) -> None:
    done = tidemill("task", "get", "no-such-task")

    assert done.returncode == 3
    assert "no task" in said_in_one_line(done)


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """The URL of a server that gives everybody the same answer."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_not_allowed_gives_four() -> None:
    problem = {"title": "Forbidden", "status": 403, "detail": "you may not read tasks"}
    with answering(403, json.dumps(problem)) as url:  # as the API will once people log in
        done = run_command("task", "list", server=url)

    assert done.returncode == 4
    assert said_in_one_line(done) == "tidemill: you may not read tasks\n"


@pytest.mark.parametrize("status", [200, 404, 502])
def test_what_is_no_tidemill_counts_as_unreachable(status: int) -> None:
    with answering(status, "<h1>another program</h1>") as url:
        done = run_command("task", "list", server=url)

    assert done.returncode == 7
    assert f"what answers at {url} is no Tidemill: {status}" in said_in_one_line(done)


def test_a_taken_name_gives_five(client: Client, tidemill: Command) -> None:
    done = tidemill("task", "create", define(client, "true"), "--command", "true")

    assert done.returncode == 5
    assert said_in_one_line(done)


@pytest.mark.parametrize("following", [[], ["--follow"]])
def test_a_wait_that_takes_too_long_gives_six(
    client: Client, tidemill: Command, following: list[str]
) -> None:
    name = define(client, "sleep 600")
    done = tidemill("task", "trigger", name, "--wait", *following, "--timeout", "0.3")
    for run in client.call("GET", f"/tasks/name:{name}/runs")["items"]:
        client.call("POST", f"/runs/{run['id']}/cancel")

    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith("tidemill: run ")


def test_a_server_that_is_down_gives_seven() -> None:
    done = run_command("task", "list")

    assert done.returncode == 7
    assert "no server answers at http://127.0.0.1:9" in said_in_one_line(done)


def test_ctrl_c_gives_a_hundred_and_thirty_and_no_traceback(
    client: Client, shared_server: Server
) -> None:
    name = define(client, "echo started; sleep 600")
    command = [sys.executable, "-m", "tidemill", "task", "trigger", name, "--follow"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment(shared_server.url),
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        assert waiting.stdout.readline() == "started\n"
        waiting.send_signal(signal.SIGINT)
        stderr = waiting.stderr.read()
    for run in client.call("GET", f"/tasks/name:{name}/runs")["items"]:
        client.call("POST", f"/runs/{run['id']}/cancel")

    assert waiting.returncode == 130
    assert "Traceback" not in stderr


def test_a_reader_that_has_enough_hears_no_complaint(client: Client, shared_server: Server) -> None:
    run = client.trigger(define(client, "seq 1 20000"))
    client.wait(run["id"], timeout_seconds=60)
    piped = subprocess.run(
        ["bash", "-c", f"tidemill run logs {run['id']} | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=command_environment(shared_server.url),
    )

    assert piped.stdout == "1\n0\n"
    assert piped.stderr == ""


def test_a_file_that_is_no_yaml_says_where(tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text("tasks: [\n  name")
    done = run_command("apply", "-f", str(file))

    assert done.returncode == 2
    assert "is not YAML: expected ',' or ']', but got '<stream end>' in line 2" in (
        said_in_one_line(done)
    )
