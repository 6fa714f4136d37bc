"""Branches by what upstream runs returned, from a file to the ends of the runs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.conftest import Command

from tidemill.client.client import Client

GOOD = "upstream.branch-check.result.rows > 0".replace(".branch-check", '["branch-check"]')
RESULT = """echo '::result:: {"rows": 3, "file": "a b"}'"""
SAY = ["-c", 'import sys, json; print("::result:: " + json.dumps(sys.argv[1:]))']


def after(**fields: Any) -> dict[str, Any]:
    return {"executor": "shell", "dependencies": [{"task": "name:branch-check"}], **fields}


TASKS = [
    {"name": "branch-check", "executor": "shell", "command": RESULT},
    after(
        name="branch-load",
        command="python3",
        arguments=[*SAY, '${{ parameters.upstream["branch-check"].file }}', "of ${{ run.id }}"],
        trigger_rule=GOOD,
    ),
    after(name="branch-complain", command="true", trigger_rule=f"!({GOOD})"),
    after(
        name="branch-odd",
        command="true",
        arguments=['${{ parameters.upstream["branch-check"].day }}'],
        retry={"max_retries": 3, "delay_seconds": 0},
    ),
    after(name="branch-wrong", command="true", trigger_rule=GOOD.replace("rows", "lines")),
]


@pytest.fixture
def applied(tidemill: Command, client: Client) -> Iterator[str]:
    """The tasks are there, as a file says them."""
    text = yaml.safe_dump({"tasks": TASKS})
    done = tidemill("apply", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    yield text
    for task in reversed(TASKS):
        client.call("DELETE", f"/tasks/name:{task['name']}")


def test_one_branch_runs_and_what_it_is_given_is_filled_in(applied: str, client: Client) -> None:
    root = client.trigger("branch-check")
    found = client.call("GET", f"/flow-runs/{root['flow_run_id']}")
    ended = {
        each["task_name"]: client.wait(each["id"], timeout_seconds=60) for each in found["runs"]
    }

    load = ended["branch-load"]
    assert (load["status"], load["result"]) == ("succeeded", ["a b", f"of {load['id']}"])
    complain = ended["branch-complain"]
    assert (complain["status"], complain["reason"]) == ("skipped", "upstream")
    odd = ended["branch-odd"]
    assert (odd["status"], odd["reason"], odd["attempt"]) == ("failed", "template", 1)
    assert "has no field 'day'; its fields: rows, file" in odd["error_message"]
    wrong = ended["branch-wrong"]
    assert (wrong["status"], wrong["reason"]) == ("skipped", "expression")
    assert "has no field 'lines'; its fields: rows, file" in wrong["error_message"]


def test_an_expression_is_exported_as_it_was_applied(applied: str, tidemill: Command) -> None:
    same = tidemill("diff", "-f", "-", stdin=applied)
    assert (same.returncode, same.stdout) == (0, "")
    exported = yaml.safe_load(tidemill("export").stdout)["tasks"]
    rules = {each["name"]: each.get("trigger_rule") for each in exported}
    assert rules["branch-load"] == GOOD
    other = applied.replace("rows > 0", "rows > 1")
    changed = tidemill("diff", "-f", "-", stdin=other)
    assert changed.returncode == 1
    assert "rows > 1" in changed.stdout


def test_an_expression_or_a_placeholder_that_is_wrong_is_one_clear_line(
    tidemill: Command, client: Client
) -> None:
    wrong = [
        ({"trigger_rule": "upstream.x.status =="}, "trigger_rule", "at character 21"),
        ({"command": "echo ${{ parameters.day }}"}, "command", "TIDEMILL_PARAMETERS"),
        ({"arguments": ["${{ secrets.key }}"]}, "arguments/0", "there are `parameters` and `run`"),
    ]
    for change, place, said in wrong:
        task = {"name": "branch-refused", "executor": "shell", "command": "true"} | change
        refused = tidemill("apply", "-f", "-", stdin=json.dumps({"tasks": [task]}))
        assert refused.returncode != 0
        assert place in refused.stderr
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
    names = [each["name"] for each in client.items("/tasks")]
    assert "branch-refused" not in names
