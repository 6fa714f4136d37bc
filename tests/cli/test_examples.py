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
    """A server that finds the examples' Python."""
    home = tmp_path_factory.mktemp("home")
    environment = {
        "HOME": str(home),
        "TIDEMILL_WORKER__PYTHON_PATHS": f'["{EXAMPLES / "python"}"]',
    }
    with Server(home / "data", environment=environment) as running:
        yield running


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


def ended(client: Client, name: str) -> dict[str, object]:
    run = client.trigger(name)
    return client.wait(run["id"], timeout_seconds=60)
