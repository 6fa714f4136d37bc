"""Settings whose effect can be seen from outside."""

import os
import sys
from pathlib import Path

import httpx2
import pytest

from tidemill.testing.server import Server


@pytest.mark.slow
def test_pages_of_the_origins_that_are_named_may_call_the_api(tmp_path: Path) -> None:
    setting = {"TIDEMILL_API__CORS_ORIGINS": '["https://console.example"]'}
    with Server(tmp_path / "data", environment=setting) as server:
        answers = [
            httpx2.options(
                f"{server.url}/api/v1/tasks",
                headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
                trust_env=False,
            )
            for origin in ("https://console.example", "https://elsewhere.example")
        ]

    allowed = [answer.headers.get("access-control-allow-origin") for answer in answers]
    assert allowed == ["https://console.example", None]


@pytest.mark.slow
def test_everything_is_in_the_database_that_is_named(tmp_path: Path) -> None:
    setting = {"TIDEMILL_DATABASE__URL": f"sqlite:///{tmp_path}/elsewhere/mine.db"}
    with Server(tmp_path / "data", environment=setting) as server, server.client() as client:
        client.call("POST", "/tasks", body={"name": "kept", "executor": "shell", "command": "true"})
    with Server(tmp_path / "other", environment=setting) as server, server.client() as client:
        names = [task["name"] for task in client.items("/tasks")]

    assert names == ["kept"]
    assert sorted(file.name for file in (tmp_path / "elsewhere").iterdir()) == [
        "mine.db",
        "mine.db.lock",
    ]
    assert not (tmp_path / "data").exists()


# Says that it is asked to end, if it is; tells the pipe when it would hear it.
LEFTOVER = """
import os, signal, sys
def heard(*_):
    open(sys.argv[2], "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, heard)
open(sys.argv[1], "w").write("ready")
signal.pause()
"""


@pytest.mark.slow
def test_what_a_finished_task_leaves_behind_has_the_grace_that_is_set(tmp_path: Path) -> None:
    script, ready, asked = tmp_path / "leftover.py", tmp_path / "ready", tmp_path / "asked"
    script.write_text(LEFTOVER)
    os.mkfifo(ready)
    command = f"{sys.executable} {script} {ready} {asked} & cat {ready}"
    none = {"TIDEMILL_WORKER__KILL_GRACE_SECONDS": "0"}
    with Server(tmp_path / "data", environment=none) as server, server.client() as client:
        task = {"name": "leaves", "executor": "shell", "command": command}
        client.call("POST", "/tasks", body=task)
        ended = client.wait(client.trigger("leaves")["id"], timeout_seconds=60)

    assert ended["status"] == "succeeded"
    assert not asked.exists()  # without any grace it is killed, and not asked


@pytest.mark.slow
def test_a_server_has_a_port_for_probes_where_one_is_set(tmp_path: Path) -> None:
    with Server(tmp_path / "data", environment={"TIDEMILL_OBSERVABILITY__PORT": "0"}) as server:
        answers = [
            httpx2.get(f"{url}{path}", trust_env=False)
            for url in (server.probes_url, server.url)
            for path in ("/health", "/ready", "/metrics", "/api/v1/tasks")
        ]

    assert server.probes_url != server.url
    assert [each.status_code for each in answers] == [200, 200, 200, 404, 200, 200, 200, 200]
