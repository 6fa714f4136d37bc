"""A crontab is taken over: shown, imported paused, resumed, and run as cron would have run it."""

import getpass
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Command

from tidemill.client.client import Client

NAMESPACE = "crontabs"
CRONTAB = r"""# what a person might have
MAILTO=somebody
SHELL=/bin/bash
GREETING = "good  day"
HOME=@HOME@

CRON_TZ=Asia/Tokyo
30 6 * * mon-fri  echo "${BASH_VERSION:+bash} $GREETING $(pwd) $(date -d @0 +\%Y)"; cat%one%two
@reboot  start-something
0 0 31 2 *  never
nonsense
"""


@pytest.fixture
def crontab(tmp_path: Path, client: Client) -> Iterator[Path]:
    file = tmp_path / "mine"
    file.write_text(CRONTAB.replace("@HOME@", str(tmp_path)))
    yield file
    for task in list(client.items("/tasks", namespace=NAMESPACE)):
        client.call("DELETE", f"/tasks/{task['id']}")


def fates(done: "subprocess.CompletedProcess[str]") -> list[tuple[int, str]]:
    assert done.returncode == 0, done.stderr
    return [(row["line"], row["fate"]) for row in json.loads(done.stdout)]


def test_each_line_is_imported_or_refused_with_a_reason(
    crontab: Path, tidemill: Command, client: Client
) -> None:
    call = ("import", "crontab", str(crontab), "-n", NAMESPACE)
    tried = tidemill(*call, "--dry-run", "-o", "json")
    before = list(client.items("/tasks", namespace=NAMESPACE))
    imported = tidemill(*call, "-o", "json")
    again = tidemill(*call, "-o", "json")
    table = tidemill(*call)

    refused = [(9, "refused"), (10, "refused"), (11, "refused")]
    assert fates(tried) == fates(imported) == [(8, "imported"), *refused]
    assert before == []
    assert fates(again) == [(8, "exists"), *refused]
    assert all(row["reason"] for row in json.loads(again.stdout))
    assert "@reboot is no time" in table.stdout
    assert table.stderr.startswith("11 lines: 1 exists, 3 refused, 5 setting, 1 comment, 1 blank")


def test_an_imported_entry_runs_as_cron_would_have_run_it(
    crontab: Path, tidemill: Command, client: Client
) -> None:
    tidemill("import", "crontab", str(crontab), "-n", NAMESPACE)
    [task] = client.items("/tasks", namespace=NAMESPACE)
    resumed = json.loads(
        tidemill("task", "resume", task["name"], "-n", NAMESPACE, "-o", "json").stdout
    )
    run = tidemill("task", "trigger", task["name"], "-n", NAMESPACE, "--wait", "--follow")

    assert (task["status"], resumed["status"]) == ("paused", "active")
    assert task["timezone"] == "Asia/Tokyo"
    assert resumed["next_run_at"].endswith("T21:30:00.000Z")  # 06:30 in Tokyo
    assert run.stdout.splitlines() == [f"bash good  day {crontab.parent} 1970", "one", "two"]
    assert run.returncode == 0


def test_entries_of_another_user_are_refused(tmp_path: Path, tidemill: Command) -> None:
    file = tmp_path / "system"
    me = getpass.getuser()
    file.write_text(f"@daily {me} one\n@daily somebody-else two\n")
    done = tidemill("import", "crontab", str(file), "--users", "--dry-run", "-o", "json")

    assert fates(done) == [(1, "imported"), (2, "refused")]
    assert json.loads(done.stdout)[1]["reason"] == (
        f"runs as somebody-else; the worker runs as {me}"
    )


def test_a_name_for_the_tasks_can_be_given(tmp_path: Path, tidemill: Command) -> None:
    file = tmp_path / "x"
    file.write_text("@daily backup\n")
    done = tidemill("import", "crontab", str(file), "--name", "old host", "--dry-run", "-o", "json")

    assert json.loads(done.stdout)[0]["task"].startswith("old-host-backup-")
