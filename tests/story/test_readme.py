"""The README's commands are carried out as they stand there, in their order."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.client.client import Client

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
CRONTAB = "MAILTO=me\n*/5 * * * * df -h\n@reboot start-something\n"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A directory in which the commands work, and a person whose crontab can be listed."""
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    lists = tmp_path / "bin" / "crontab"
    lists.parent.mkdir()
    lists.write_text(f"#!/bin/sh\ncat <<'END'\n{CRONTAB}END\n")
    lists.chmod(0o755)
    return tmp_path


@pytest.fixture
def server(desk: Path) -> Iterator[str]:
    """The URL of what `make run` starts, on a port of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TIDEMILL_", "MAKE"))}
    given = {"TIDEMILL_API__PORT": "0", "TIDEMILL_DATA_DIR": str(desk / "data")}
    with subprocess.Popen(
        ["make", "--no-print-directory", "run"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        env=inherited | given,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        yield running.stdout.readline().split(" ready at ")[1].split()[0]
        os.killpg(running.pid, signal.SIGTERM)
        running.stdout.read()  # ends once the last process that could write to it is gone


def blocks() -> list[tuple[str, str]]:
    """The fenced blocks: language and text."""
    text = (REPOSITORY / "README.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_quick_start_does_what_it_says(desk: Path, server: str) -> None:
    with Client(server) as client:
        wait_for_a_scheduled_run(client)
    said = "".join(
        carry_out(language, text, desk, server)
        for language, text in blocks()
        if text not in {"make run\n", "make test\n"}  # one is running, the other runs this
    )

    listed = [line.split() for line in said.splitlines()]
    assert any(words[1:3] == ["demo-heartbeat", "succeeded"] for words in listed if words)
    assert "step 3\n" in said
    for fate in ("created say-the-time (dry run)", "created say-the-time"):
        assert f"{fate}\n" in said
    assert 'result  {"rows": 42}' in said
    assert "@reboot is no time" in said
    assert any(words[0].startswith("my-df-") for words in listed if words)
    assert "succeeded {'rows': 42}\n" in said


def wait_for_a_scheduled_run(client: Client) -> None:
    """Return once a task has run by itself."""
    for name, event in client.stream("/events"):
        if name == "RunFinished" and client.run(event["run_id"])["task_name"] == "demo-heartbeat":
            return


def carry_out(language: str, text: str, desk: Path, server: str) -> str:
    """What a block prints, where it is not a file to be written."""
    if language == "yaml":
        (desk / "tasks.yaml").write_text(text)
        return ""
    command = {"sh": ["bash", "-e"], "python": [".venv/bin/python", "-"]}[language]
    done = subprocess.run(
        command,
        input=text,
        cwd=desk,
        capture_output=True,
        text=True,
        env={
            "PATH": f"{desk / 'bin'}:/usr/bin:/bin",
            "HOME": str(desk),
            "TIDEMILL_SERVER": server,
        },
    )
    assert done.returncode == 0, (text, done.stderr)
    return done.stdout
