"""The examples can be applied, and do what they show."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import run_command

from tidemill.client.client import Client
from tidemill.testing.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
DIGEST = EXAMPLES / "python" / "digest.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finds the examples' Python, and has none of them yet."""
    with _running(tmp_path_factory.mktemp("home")) as running:
        yield running


def _running(home: Path, slots: int = 256) -> Server:
    environment = {
        "HOME": str(home),
        "TIDEMILL_WORKER__PYTHON_PATHS": f'["{EXAMPLES / "python"}"]',
        "TIDEMILL_WORKER__MAX_CONCURRENT_TASKS": str(slots),
    }
    return Server(home / "data", environment=environment)


def test_there_are_examples() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_is_applied_and_its_tasks_succeed(server: Server, file: Path) -> None:
    text = text_of(file, server)
    tasks = yaml.safe_load(text)["tasks"]
    names = [task["name"] for task in tasks]
    dry = run_command("apply", "-f", "-", "--dry-run", server=server.url, stdin=text)
    done = run_command("apply", "-f", "-", server=server.url, stdin=text)

    assert dry.stdout.splitlines() == [f"created {name} (dry run)" for name in names]
    assert done.stdout.splitlines() == [f"created {name}" for name in names]
    with server.client() as client:
        for task in tasks:
            if "dependencies" not in task:
                assert ended(client, task["name"])["status"] == "succeeded"


def test_the_tasks_of_an_example_that_depend_on_one_another_run_in_one_flow_run(
    tmp_path: Path,
) -> None:
    with _running(tmp_path) as server, server.client() as client:
        run_command("apply", "-f", str(EXAMPLES / "python" / "words.yaml"), server=server.url)
        root = client.trigger("fetch-text")
        found = client.call("GET", f"/flow-runs/{root['flow_run_id']}")
        last = found["runs"][-1]
        assert last["task_name"] == "report-words"
        told = client.wait(last["id"], timeout_seconds=60)["result"]
        found = client.call("GET", f"/flow-runs/{root['flow_run_id']}")

    assert told == "2 lines; the most frequent word is 'the'"
    assert found["status"] == "succeeded"
    assert [run["status"] for run in found["runs"]] == ["succeeded"] * 4
    assert len(found["critical_path"]) == 3


def test_a_digest_is_downloaded_split_mapped_merged_and_told(tmp_path: Path) -> None:
    with _running(tmp_path) as server, server.client() as client:
        run_command("apply", "-f", "-", server=server.url, stdin=text_of(DIGEST, server))
        runs = flow_of(client, "download-tasks")
        output = list(client.items(f"/runs/{runs['notify'][0]['id']}/logs"))

    assert {name: {run["status"] for run in of} for name, of in runs.items()} == {
        "download-tasks": {"succeeded"},
        "split-tasks": {"succeeded"},
        "ask-for-stats": {"succeeded"},
        "merge-stats": {"succeeded"},
        "notify": {"succeeded"},
        "notify-of-failure": {"skipped"},
    }
    assert len(runs["ask-for-stats"]) == 6  # as many as there are tasks
    told = runs["merge-stats"][0]["result"]
    assert set(told["of"]) == set(runs)
    assert told["of"]["download-tasks"] == 1
    [line] = [each["text"] for each in output]
    assert line == f"{told['runs']} runs ended, most of them of {told['busiest']}"


def test_a_flow_is_called_for_each_item_where_workers_have_a_single_slot(tmp_path: Path) -> None:
    with _running(tmp_path, slots=1) as server, server.client() as client:
        run_command("apply", "-f", str(EXAMPLES / "call.yaml"), server=server.url)
        runs = flow_of(client, "list-words")["check-each-word"]
        called = [client.run(run["calls"][0]["run_id"]) for run in runs]

    # As many bytes as {"word":"tide","upstream":{}} has, …
    assert [run["result"] for run in runs] == [
        {"judge-word": {"bytes": size}} for size in (29, 29, 30)
    ]
    assert {run["worker_id"] for run in runs} == {"dispatcher"}
    assert [run["parameters"] for run in called] == [
        {"word": word} for word in ("tide", "mill", "wheel")
    ]
    assert [run["called_by"] for run in called] == [run["id"] for run in runs]
    assert [call["flow_run_id"] for run in runs for call in run["calls"]] == [
        run["flow_run_id"] for run in called
    ]


def test_whoever_waits_for_a_digest_is_told_that_there_is_none(tmp_path: Path) -> None:
    with _running(tmp_path) as server, server.client() as client:
        text = text_of(DIGEST, server).replace("/tasks?limit=50", "/not-there")
        run_command("apply", "-f", "-", server=server.url, stdin=text)
        runs = flow_of(client, "download-tasks")

    assert {name: [run["status"] for run in of] for name, of in runs.items()} == {
        "download-tasks": ["failed"],
        "split-tasks": ["skipped"],
        "ask-for-stats": ["skipped"],
        "merge-stats": ["skipped"],
        "notify": ["skipped"],
        "notify-of-failure": ["succeeded"],
    }


def test_a_large_result_is_summed_up_by_its_dependent(tmp_path: Path) -> None:
    with _running(tmp_path) as server, server.client() as client:
        run_command("apply", "-f", str(EXAMPLES / "large.yaml"), server=server.url)
        runs = flow_of(client, "export-rows")

    [exported], [summed] = runs["export-rows"], runs["sum-rows"]
    assert exported["result"]["$artifact"]["bytes"] > 500_000
    assert (summed["status"], summed["result"]) == ("succeeded", 5_000_050_000)


def flow_of(client: Client, root: str) -> dict[str, list[dict[str, Any]]]:
    """The runs of one flow run once all have ended, by task."""
    path = f"/flow-runs/{client.trigger(root)['flow_run_id']}"
    while unfinished := [
        run for run in client.call("GET", path)["runs"] if run["completed_at"] is None
    ]:  # a mapped run becomes several meanwhile
        client.wait(unfinished[-1]["id"], timeout_seconds=60)
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in client.call("GET", path)["runs"]:
        runs.setdefault(run["task_name"], []).append(client.run(run["id"]))
    return runs


def text_of(file: Path, server: Server) -> str:
    """An example that speaks to this server."""
    return file.read_text().replace("http://127.0.0.1:8080", server.url)


def ended(client: Client, name: str) -> dict[str, Any]:
    run = client.trigger(name)
    return client.wait(run["id"], timeout_seconds=60)
