"""One task returns a list, another works off each item of it, a third gathers what came of them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tidemill.client.client import Client

SPLIT = {"name": "list-split", "command": """echo '::result:: {"files": ["a", "b", "c"]}'"""}
PROCESS = {
    "name": "list-process",
    # Of the parameters the item alone, doubled: "a" → "aa"
    "command": r"""
        item=$(printf %s "$TIDEMILL_PARAMETERS" | sed 's/.*"item":"\([^"]*\)".*/\1/')
        echo "::result:: \"$item$item\""
    """,
    "dependencies": [{"task": "name:list-split"}],
    "map_over": {"task": "name:list-split", "field": "files", "max_parallel": 2},
}
MERGE = {
    "name": "list-merge",
    "command": """echo "::result:: $TIDEMILL_PARAMETERS" """,
    "dependencies": [{"task": "name:list-process"}],
}


@pytest.fixture
def tasks(client: Client) -> Iterator[dict[str, Any]]:
    """The three, by name, as the server shows them."""
    made = [
        client.call("POST", "/tasks", body={"executor": "shell"} | each)
        for each in (SPLIT, PROCESS, MERGE)
    ]
    yield {each["name"]: each for each in made}
    for each in reversed(made):
        client.call("DELETE", f"/tasks/{each['id']}")


def test_each_item_of_a_list_has_its_run_and_the_results_come_together_in_order(
    client: Client, tasks: dict[str, Any]
) -> None:
    assert tasks["list-process"]["map_over"] == {
        "task": "name:list-split", "field": "files", "max_parallel": 2, "max_items": 1000,
        "on_failure": "continue",
    }  # fmt: skip
    flow_run_id = client.trigger("list-split")["flow_run_id"]
    opened = client.call("GET", f"/flow-runs/{flow_run_id}")
    assert opened["total"] == 3
    [merging] = [run["id"] for run in opened["runs"] if run["task_name"] == "list-merge"]

    merged = client.wait(merging)

    assert merged["result"] == {"upstream": {"list-process": ["aa", "bb", "cc"]}}
    found = client.call("GET", f"/flow-runs/{flow_run_id}")
    assert (found["status"], found["total"], found["unfinished"]) == ("succeeded", 5, 0)
    items = [run for run in found["runs"] if run["part_of"] is not None]
    assert [(run["shard_index"], run["shard_total"]) for run in items] == [(0, 3), (1, 3), (2, 3)]
    assert {run["part_of"] for run in items} == {items[0]["id"]}
    [into_items] = [edge for edge in found["edges"] if edge["is_mapped_over"]]
    assert into_items["downstream_run_id"] == items[0]["id"]
    assert len([e for e in found["edges"] if e["downstream_run_id"] == merging]) == 3
    path = found["critical_path"]
    assert (path[0], path[-1]) == (found["root_run_id"], merging)
    assert path[1] in {run["id"] for run in items}
    asked = client.call("GET", f"/runs/{items[2]['id']}")
    assert asked["parameters"] == {"item": "c", "item_index": 2, "item_total": 3}
