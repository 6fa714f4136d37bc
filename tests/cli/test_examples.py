"""The examples can be applied, and do what they show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.conftest import run_command

from tidemill.client.client import Client
from tidemill.testing.server import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finds the examples' Python, and has none of them yet."""
    with _running(tmp_path_factory.mktemp("home")) as running:
        yield running


def _running(home: Path) -> Server:
    environment = {
        "HOME": str(home),
        "TIDEMILL_WORKER__PYTHON_PATHS": f'["{EXAMPLES / "python"}"]',
    }
    return Server(home / "data", environment=environment)


def test_there_are_examples() -> None:
    assert len(FILES) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_is_applied_and_its_tasks_succeed(server: Server, file: Path) -> None:
    text = file.read_text().replace("http://127.0.0.1:8080", server.url)
    names = [task["name"] for task in yaml.safe_load(text)["tasks"]]
    dry = run_command("apply", "-f", "-", "--dry-run", server=server.url, stdin=text)
    done = run_command("apply", "-f", "-", server=server.url, stdin=text)

    assert dry.stdout.splitlines() == [f"created {name} (dry run)" for name in names]
    assert done.stdout.splitlines() == [f"created {name}" for name in names]
    with server.client() as client:
        for name in names:
            assert ended(client, name)["status"] == "succeeded"


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


def ended(client: Client, name: str) -> dict[str, object]:
    run = client.trigger(name)
    return client.wait(run["id"], timeout_seconds=60)
