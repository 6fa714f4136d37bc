"""What works where no server runs, and what a command does not wait for."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Command, command_environment, run_command

from tidemill import __version__


def test_an_expression_shows_when_it_fires_without_a_server() -> None:
    done = run_command(
        "schedule", "next", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "2", "-o", "json",
        "--after", "2026-03-28T12:00:00+00:00",
    )  # fmt: skip

    first, second = json.loads(done.stdout)
    assert first["local"] == "2026-03-29T03:00:00+02:00"
    assert first["note"].startswith("moved out of a gap")
    assert (second["at"], second["note"]) == ("2026-03-30T00:30:00Z", None)


def test_the_version_is_told_without_importing_the_command_line() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tidemill", "--version"],
        capture_output=True,
        text=True,
    )

    assert told.stdout == f"tidemill {__version__}\n"
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert not imported & {"cyclopts", "rich", "httpx2", "msgspec", "tidemill.cli.app"}


@pytest.mark.parametrize(
    "arguments", [["task", "list"], ["run", "logs", "1"], ["task", "trigger", "x", "--follow"]]
)
def test_a_remote_command_imports_nothing_of_the_server(arguments: list[str]) -> None:
    program = (
        "import sys; from tidemill.cli.app import run; code = run(sys.argv[1:]);"
        "print(*sorted(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=command_environment("http://127.0.0.1:9"),
    )

    imported = set(done.stdout.split())
    assert done.returncode == 7
    assert {"httpx2", "tidemill.client.client"} <= imported
    servers = {"sqlalchemy", "fastapi", "uvicorn", "pydantic", "alembic", "yaml", "psutil"}
    assert not imported & (servers | {"tidemill.container", "tidemill.application"})


def test_help_names_every_command_with_what_it_does() -> None:
    alone, asked = run_command(), run_command("--help")

    assert alone.returncode == asked.returncode == 0
    assert alone.stdout == asked.stdout
    assert "Make the server's tasks be those of a file" in asked.stdout
    assert "tidemill up --demo" in asked.stdout


def test_completion_loads_in_bash_and_completes() -> None:
    script = """
        source <(tidemill completion bash)
        complete -p tidemill
        COMP_WORDS=(tidemill task tri); COMP_CWORD=2; _tidemill; echo "${COMPREPLY[@]}"
        COMP_WORDS=(tidemill task trigger x --fol); COMP_CWORD=4; _tidemill; echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=command_environment("")
    )

    assert done.stderr == ""
    assert done.stdout.splitlines()[0].endswith("-F _tidemill tidemill")
    assert done.stdout.splitlines()[1:] == ["trigger", "--follow"]


def test_completion_is_there_for_zsh_and_fish() -> None:
    zsh, fish = run_command("completion", "zsh"), run_command("completion", "fish")

    assert zsh.stdout.startswith("#compdef tidemill")
    assert "complete -c tidemill" in fish.stdout
    assert "trigger" in zsh.stdout
    assert "trigger" in fish.stdout


def test_the_schema_is_brought_up_to_date_and_back(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    missing = run_command("db", "check", *place)
    upgraded = run_command("db", "upgrade", *place)
    checked = run_command("db", "check", *place)
    current = run_command("db", "current", *place)
    downgraded = run_command("db", "downgrade", "base", *place)
    again = run_command("db", "check", *place)

    assert (missing.returncode, checked.returncode, again.returncode) == (1, 0, 1)
    assert upgraded.stdout == current.stdout
    assert downgraded.stdout == "base\n"


def test_a_revision_or_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    nothing = run_command("db", "downgrade", "base", *place)
    run_command("db", "upgrade", *place)
    unknown = run_command("db", "downgrade", "9999", *place)

    assert (nothing.returncode, unknown.returncode) == (3, 2)
    assert "9999" in unknown.stderr
    assert unknown.stderr.count("\n") == 1


def test_the_statements_of_the_schema_can_be_read_and_run(tmp_path: Path) -> None:
    statements = run_command("db", "sql").stdout
    with sqlite3.connect(tmp_path / "made.db") as database:
        database.executescript(statements)
        found = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    database.close()

    assert {"tasks", "task_runs", "run_events", "alembic_version"} <= found


def test_the_doctor_says_that_there_is_no_server() -> None:
    done = run_command("doctor")

    assert done.returncode == 1
    assert "FAIL  server: no server answers at http://127.0.0.1:9\n" in done.stdout
    assert "ok    machine: " in done.stdout


def test_the_doctor_finds_all_well_beside_a_server(tidemill: Command) -> None:
    done = tidemill("doctor")

    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout


def test_a_server_is_meant_by_the_current_context(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path), "TIDEMILL_SERVER": ""}

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_command(*arguments, environment=home)

    call("context", "create", "here", "--server", "http://127.0.0.1:7")
    call("context", "create", "there", "--server", "http://127.0.0.1:8")
    by_first = call("doctor").stdout
    call("context", "use", "there")
    by_current = call("doctor").stdout
    by_flag = call("doctor", "--server", "http://127.0.0.1:6").stdout
    listed = json.loads(call("context", "list", "-o", "json").stdout)
    call("context", "delete", "there")
    by_default = call("doctor").stdout

    told = [
        re.findall(r"http://127.0.0.1:(\d+)", each)[0]
        for each in (by_first, by_current, by_flag, by_default)
    ]
    assert told == ["7", "8", "6", "8080"]
    assert [(each["name"], each["current"]) for each in listed] == [
        ("here", False), ("there", True),
    ]  # fmt: skip


def test_a_context_that_is_not_there_or_no_url_is_refused(tmp_path: Path) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    unknown = run_command("context", "use", "nowhere", environment=home)
    no_url = run_command("context", "create", "x", "--server", "here:80", environment=home)
    (tmp_path / "tidemill").mkdir()
    (tmp_path / "tidemill" / "contexts.toml").write_text("current = 7")
    broken = run_command("context", "list", environment=home)

    assert (unknown.returncode, no_url.returncode, broken.returncode) == (3, 2, 2)
    assert "contexts.toml" in broken.stderr
