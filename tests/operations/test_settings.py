"""Settings: which source wins, and what is said of a wrong one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.config.load import load_settings
from tidemill.errors import InvalidSettings


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a settings file."""

    def write(text: str) -> Path:
        file = tmp_path / "tidemill.toml"
        file.write_text(text)
        return file

    return write


def refusals(environment: dict[str, str], config_file: Path | None = None) -> dict[str, str]:
    """What is said, by key."""
    with pytest.raises(InvalidSettings) as refused:
        load_settings(environment, config_file=config_file)
    return {problem.pointer: problem.message for problem in refused.value.problems}


def test_each_source_gives_way_to_the_one_before_it(toml: Callable[[str], Path]) -> None:
    file = toml(
        "[api]\nport = 2\nmax_body_bytes = 2\n[worker]\nname = 'file'\n"
        "[profiles.production.api]\nport = 1\nmax_body_bytes = 1\n"
        "[profiles.production.worker]\nname = 'profile'\nmax_concurrent_tasks = 1\n"
    )
    environment = {
        "TIDEMILL_ENV": "production",
        "TIDEMILL_API__PORT": "3",
        "TIDEMILL_API__MAX_BODY_BYTES": "3",
    }
    settings = load_settings(environment, config_file=file, flags={"api.port": 4})

    assert settings.api.port == 4  # the flag
    assert settings.api.max_body_bytes == 3  # the environment
    assert settings.worker.name == "file"
    assert settings.worker.max_concurrent_tasks == 1  # the profile
    assert settings.worker.lease_seconds == 10  # the default


def test_a_profile_that_nobody_chose_has_no_effect(toml: Callable[[str], Path]) -> None:
    file = toml("[profiles.production.api]\nport = 1\n")

    assert load_settings({}, config_file=file).api.port == 8080


def test_a_profile_that_is_not_there_is_refused(toml: Callable[[str], Path]) -> None:
    file = toml("[profiles.production]\n[profiles.test]\n")

    said = refusals({"TIDEMILL_ENV": "prod"}, file)
    assert said == {"TIDEMILL_ENV": "no profile 'prod'; there are: production, test"}


@pytest.mark.parametrize("text", ["profiles = 3", "[profiles]\nproduction = 3"])
def test_profiles_that_are_no_tables_are_refused(toml: Callable[[str], Path], text: str) -> None:
    assert list(refusals({"TIDEMILL_ENV": "production"}, toml(text))) == ["profiles"]


def test_the_environment_names_the_file(toml: Callable[[str], Path]) -> None:
    file = toml("[api]\nport = 9\n")

    assert load_settings({"TIDEMILL_CONFIG": str(file)}).api.port == 9


def test_lists_and_tables_are_read_from_the_environment() -> None:
    settings = load_settings(
        {"TIDEMILL_WORKER__QUEUES": '["a", "b"]', "TIDEMILL_WORKER__LABELS__ZONE": "north"}
    )

    assert settings.worker.queues == ["a", "b"]
    assert settings.worker.labels == {"zone": "north"}


def test_a_value_is_read_from_a_file_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("from-a-file\n")
    settings = load_settings({"TIDEMILL_WORKER__NAME_FILE": str(tmp_path / "name")})

    assert settings.worker.name == "from-a-file"


def test_a_value_and_its_file_are_not_both_taken(tmp_path: Path) -> None:
    said = refusals({"TIDEMILL_WORKER__NAME": "a", "TIDEMILL_WORKER__NAME_FILE": str(tmp_path)})

    assert said == {"TIDEMILL_WORKER__NAME_FILE": "is set beside the value itself; leave one out"}


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_value_whose_file_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "value"
    if content is not None:
        file.write_bytes(content)

    assert list(refusals({"TIDEMILL_WORKER__NAME_FILE": str(file)})) == [
        "TIDEMILL_WORKER__NAME_FILE"
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("TIDEMILL_API__PROT", "api.port"),
        ("TIDEMILL_PORT", "api.port"),
        ("TIDEMILL_DATADIR", "data_dir"),
        ("TIDEMILL_WORKERS__PYTHON_PATH", "worker.python_paths"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_one_is_named(name: str, near: str) -> None:
    (said,) = refusals({name: "1"}).values()

    assert said == f"is no known setting; did you mean {near}?"


def test_everything_that_is_wrong_is_said_at_once(toml: Callable[[str], Path]) -> None:
    file = toml("[api]\nport = 99999\nhsot = 'x'\n[worker]\nlease_seconds = 'long'\n")

    said = refusals({"TIDEMILL_NOSUCH": "1", "TIDEMILL_WORKER__NAME_FILE": "/nosuch"}, file)
    assert set(said) == {
        "TIDEMILL_NOSUCH", "TIDEMILL_WORKER__NAME_FILE",
        "api.port", "api.hsot", "worker.lease_seconds",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATABASE__URL", "mysql://localhost/tidemill"),
        ("DATABASE__URL", "sqlite:///"),
        ("DATABASE__READ_URL", "sqlite:///other.db"),
        ("DATABASE__URL", "postgresql://user:secret@host:port/tidemill"),
        ("DATABASE__READ_URL", "postgresql://host:port/tidemill"),
        ("MESSAGE_QUEUE__URL", "redis://host:port"),
        ("DATABASE__POOL_SIZE", "0"),
        ("DATABASE__REQUIRE_TLS", "true"),
        ("MESSAGE_QUEUE__URL", "kafka://localhost"),
        ("MESSAGE_QUEUE__PREFETCH", "5"),
        ("CACHE__URL", "redis://localhost"),
        ("CACHE__L1_SIZE", "100"),
        ("CACHE__TTL_SECONDS", "5"),
        ("DISPATCHER__SCAN_CONCURRENCY", "2"),
        ("DISPATCHER__HORIZON_SECONDS", "0"),
        ("WORKER__HEARTBEAT_SECONDS", "inf"),
        ("WORKER__QUEUES", "[]"),
        ("API__HOST", "0.0.0.0"),
        ("API__HOST", "example.org"),
        ("API__RATE_LIMIT", "10"),
        ("AUTH__MODE", "jwt"),
        ("AUTH__JWT_KEYS", "[]"),
        ("AUTH__ACCESS_TTL_SECONDS", "1"),
        ("AUTH__REFRESH_TTL_SECONDS", "1"),
        ("AUTH__OIDC", "{}"),
        ("DATA_DIR", ""),
    ],
)
def test_a_value_that_cannot_be_served_is_refused_under_its_key(key: str, value: str) -> None:
    said = refusals({f"TIDEMILL_{key}": value})

    assert list(said) == [key.lower().replace("__", ".")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATABASE__URL", "sqlite:///other.db"),
        ("DATABASE__REQUIRE_TLS", "false"),
        ("MESSAGE_QUEUE__URL", "memory://"),
        ("CACHE__URL", "memory://"),
        ("API__HOST", "::1"),
        ("API__HOST", "localhost"),
        ("AUTH__MODE", "off"),
    ],
)
def test_a_value_that_says_what_is_done_anyway_is_taken(key: str, value: str) -> None:
    load_settings({f"TIDEMILL_{key}": value})


def test_a_lease_that_one_late_heartbeat_ends_is_refused() -> None:
    said = refusals({"TIDEMILL_WORKER__LEASE_SECONDS": "3"})

    assert said == {"worker": "lease_seconds must be at least twice heartbeat_seconds"}


def test_a_sealed_value_is_refused() -> None:
    said = refusals({"TIDEMILL_WORKER__NAME": "enc:v1:abc"})

    assert said == {"worker.name": "sealed values cannot be opened by this version"}


def test_what_a_task_is_given_is_no_setting() -> None:
    load_settings({"TIDEMILL_RUN_ID": "1", "TIDEMILL_PARAMETERS": "{}"})


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("", "data/tidemill.db"),
        ("sqlite:///other.db", "data/other.db"),
        ("sqlite:////var/lib/other.db", None),
    ],
)
def test_a_relative_database_is_in_the_data_directory(
    tmp_path: Path, url: str, file: str | None
) -> None:
    settings = load_settings(
        {"TIDEMILL_DATABASE__URL": url, "TIDEMILL_DATA_DIR": str(tmp_path / "data")}
    )

    expected = Path("/var/lib/other.db") if file is None else tmp_path / file
    assert settings.database_file == expected.resolve()
