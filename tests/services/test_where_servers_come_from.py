"""Where the programs are found, and what is said where they are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.testing.pytest_plugin import Services
from tidemill.testing.server import StartFailed
from tidemill.testing.services import Postgres, Redis, ServiceMissing
from tidemill.testing.services.ports import ReservedPort
from tidemill.testing.services.programs import InContainer, OnMachine, find_programs

# An engine that has no containers, and runs what it is told to run as it is.
ENGINE = """#!/bin/sh
echo "$@" >> {asked}
[ "$1" = run ] || exit 0
for argument; do
  shift
  case $argument in
    --entrypoint=*) program=${{argument#--entrypoint=}} ;;
    an/image) break ;;
  esac
done
exec "$program" "$@"
"""


def executable(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_of_several_versions_the_highest_is_taken(tmp_path: Path) -> None:
    for version in ("9", "15", "16"):
        executable(tmp_path / version / "bin" / "a-server")
    (tmp_path / "17" / "bin").mkdir(parents=True)

    found = find_programs("a-server", [f"{tmp_path}/*/bin"], "an/image")
    assert found == OnMachine(tmp_path / "16" / "bin")


def test_what_is_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "a-server")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_programs("a-server", [], "an/image") == OnMachine(tmp_path)


def test_an_engine_that_does_not_run_is_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "docker", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ServiceMissing, match="a-server is neither on this machine nor"):
        find_programs("a-server", [], "an/image")


def test_an_engine_runs_what_the_machine_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    services.get(Redis)  # the machine has it, or this is not run
    asked = tmp_path / "asked"
    engine = executable(tmp_path / "docker", ENGINE.format(asked=asked))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_programs("a-server", [], "an/image")
    monkeypatch.undo()
    server = Redis()
    server.programs = InContainer(str(engine), "an/image")
    with server:
        server.pause()
        server.resume()
        server.kill()
        server.start()
        directory = server.data.parent
    lines = asked.read_text().splitlines()

    assert found == InContainer(str(engine), "an/image")
    assert [line.split()[0] for line in lines] == [
        "info", "run", "pause", "unpause", "rm", "run", "rm"
    ]  # fmt: skip
    name = next(word for word in lines[1].split() if word.startswith("--name=tidemill-"))
    assert lines[2].split()[1] == name.removeprefix("--name=")
    assert f"--volume={directory}:{directory}" in lines[1]
    assert not directory.exists()


NEEDS_REDIS = """
pytest_plugins = ["tidemill.testing.pytest_plugin"]

def test_redis(redis_url):
    raise AssertionError("it was run")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "exit_code", "ends"),
    [({}, 0, "1 skipped"), ({"CI": "true"}, 1, "1 error")],
    ids=["on a developer's machine", "in CI"],
)
def test_a_test_without_its_server_is_reported_as_not_run_and_fails_in_ci(
    tmp_path: Path, environment: dict[str, str], exit_code: int, ends: str
) -> None:
    (tmp_path / "test_redis.py").write_text(NEEDS_REDIS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_redis.py"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == exit_code, done.stdout
    assert ends in done.stdout.splitlines()[-1]
    assert "redis-server is neither on this machine nor" in done.stdout


def test_a_port_is_one_servers_alone_and_none_that_a_client_may_be_given() -> None:
    ports = [ReservedPort() for _ in range(50)]
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    assert len({port.number for port in ports}) == 50
    assert max(port.number for port in ports) < lowest_outgoing
    for port in ports:
        port.close()


def test_a_server_that_does_not_start_says_what_it_wrote(services: Services) -> None:
    with pytest.raises(StartFailed, match="no_such_setting"):
        services.get(lambda: Postgres(settings=("no_such_setting=1",)))
