"""`apply`, `diff` and `export`: tasks as files, and files as tasks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.conftest import Command

from tidemill.client.client import Client

NAMESPACE = "files"
TASKS = """
tasks:
  - name: load
    executor: shell
    command: load.sh
    schedule: "0 3 * * *"
    timezone: Europe/Berlin
    start_at: 2026-01-01T00:00:00+01:00
    dependencies: [{task: "name:extract"}]
  - name: extract
    executor: shell
    command: extract
    arguments: {argv: ["--all"], environment: {LEVEL: "3"}}
    retry: {max_retries: 2}
    status: paused
"""


@pytest.fixture(autouse=True)
def empty_namespace(client: Client) -> Iterator[None]:
    """Nothing is left of these tests."""
    yield
    found = list(client.items("/tasks", namespace=NAMESPACE))
    for task in sorted(found, key=lambda task: not task["dependencies"]):
        client.call("DELETE", f"/tasks/{task['id']}")


@pytest.fixture
def files(tidemill: Command, tmp_path: Path) -> Command:
    """`tidemill VERB -f …` with these contents."""

    def call(verb: str, contents: str, *more: str) -> object:
        return tidemill(verb, "-f", "-", "-n", NAMESPACE, *more, stdin=contents)

    return call


def lines(done: object) -> list[str]:
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    return sorted(done.stdout.splitlines())  # type: ignore[attr-defined]


def test_applying_creates_then_leaves_alone_then_changes(files: Command, client: Client) -> None:
    assert lines(files("apply", TASKS)) == ["created extract", "created load"]
    assert lines(files("apply", TASKS)) == ["unchanged extract", "unchanged load"]
    changed = TASKS.replace("load.sh", "load.sh --fast")
    assert lines(files("apply", changed)) == ["changed load", "unchanged extract"]

    stored = {task["name"]: task for task in client.items("/tasks", namespace=NAMESPACE)}
    assert stored["load"]["command"] == "load.sh --fast"
    assert stored["load"]["version"] == 2
    assert stored["extract"]["status"] == "paused"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(files: Command, client: Client) -> None:
    said = lines(files("apply", TASKS, "--dry-run"))

    assert said == ["created extract (dry run)", "created load (dry run)"]
    assert list(client.items("/tasks", namespace=NAMESPACE)) == []


def test_what_was_exported_can_be_applied_and_changes_nothing(
    files: Command, tidemill: Command
) -> None:
    files("apply", TASKS)
    tidemill("task", "create", "by-hand", "--command", "true", "-n", NAMESPACE)
    as_yaml = tidemill("export", "-n", NAMESPACE).stdout
    as_json = tidemill("export", "-n", NAMESPACE, "-o", "json").stdout

    unchanged = ["unchanged by-hand", "unchanged extract", "unchanged load"]
    assert lines(files("apply", as_yaml)) == unchanged
    assert lines(files("apply", as_json)) == unchanged
    different = files("diff", as_yaml)
    assert (different.returncode, different.stdout) == (0, "")


def test_pruning_deletes_what_was_applied_before_and_nothing_else(
    files: Command, tidemill: Command, client: Client
) -> None:
    files("apply", TASKS)
    tidemill("task", "create", "by-hand", "--command", "true", "-n", NAMESPACE)
    files("apply", tidemill("export", "-n", NAMESPACE).stdout)
    extract = yaml.safe_dump(yaml.safe_load(TASKS)["tasks"][1])

    dry = lines(files("apply", extract, "--prune", "--dry-run"))
    assert dry == ["deleted load (dry run)", "unchanged extract (dry run)"]
    assert lines(files("apply", extract, "--prune")) == ["deleted load", "unchanged extract"]
    left = {task["name"] for task in client.items("/tasks", namespace=NAMESPACE)}
    assert left == {"by-hand", "extract"}


def test_a_difference_is_shown_line_by_line(files: Command) -> None:
    files("apply", TASKS)
    different = files("diff", TASKS.replace("load.sh", "load.sh --fast"))

    assert different.returncode == 1
    assert "-command: load.sh\n+command: load.sh --fast\n" in different.stdout


def test_a_task_that_somebody_paused_stays_paused(
    files: Command, tidemill: Command, client: Client
) -> None:
    files("apply", TASKS)
    tidemill("task", "pause", "load", "-n", NAMESPACE)

    assert "unchanged load" in lines(files("apply", TASKS))
    assert lines(files("apply", TASKS.replace("load.sh", "other.sh"))) == [
        "changed load", "unchanged extract",
    ]  # fmt: skip
    stored = client.call("GET", "/tasks/name:load", params={"namespace": NAMESPACE})
    assert (stored["command"], stored["status"]) == ("other.sh", "paused")


def test_tasks_of_one_name_in_two_namespaces_are_two_tasks(files: Command, client: Client) -> None:
    task = {"name": "same", "executor": "shell", "command": "true"}
    both = [task, task | {"namespace": f"{NAMESPACE}-2"}]
    said = lines(files("apply", yaml.safe_dump(both)))
    client.call("DELETE", "/tasks/name:same", params={"namespace": f"{NAMESPACE}-2"})

    assert said == ["created same", "created same"]


@pytest.mark.parametrize(
    ("contents", "hint"),
    [
        ("", "there is no task"),
        ("just words", "`tasks` must be a list"),
        ("tasks: {}", "`tasks` must be a list"),
        ("tasks: []\nmore: 1", "nothing may stand beside `tasks`"),
        ("- 7", "task 1 is no mapping with a name"),
        ("{name: a, executor: shell, command: 'true', comand: b}", "/comand: is no field"),
        ("{name: a, executor: shell, command: 'true', 7: b}", "/7: is no field"),
        ("{name: a, executor: shell, command: [1]}", "$.command"),
        ("{name: a, executor: shell, command: x, schedule: '61 * * * *'}", "61 in minute"),
        ("[{name: a, executor: shell, command: x}, {name: a}]", "Object missing required"),
        ("{name: a, executor: shell, command: x, start_at: 2026-01-01 00:00:00}", "start_at"),
        ("&a [*a]", "holds what JSON cannot"),
        ("{name: \x01}", "is not YAML"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing_and_says_where(
    files: Command, client: Client, contents: str, hint: str
) -> None:
    done = files("apply", contents)

    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert list(client.items("/tasks", namespace=NAMESPACE)) == []


def test_tasks_that_wait_for_each_other_are_refused(files: Command) -> None:
    circle = TASKS.replace("retry:", 'dependencies: [{task: "name:load"}]\n    retry:')
    done = files("apply", circle)

    assert done.returncode == 2
    assert "these tasks would wait for each other: load → extract → load" in done.stderr


def test_a_file_is_applied_wholly_or_not_at_all(files: Command, client: Client) -> None:
    wrong = TASKS.replace("name:extract", "name:nobody").replace(
        "executor: shell", "executor: x", 1
    )
    done = files("apply", wrong)

    assert done.returncode == 2
    assert "task 'load': no task 'name:nobody'" in done.stderr
    assert "task 'load': no executor 'x'" in done.stderr
    assert list(client.items("/tasks", namespace=NAMESPACE)) == []
