"""The settings, their defaults and their bounds. One class per section of the reference.

A key whose work this version does not do is there and takes no value but its default, so that
nobody relies on what is not done.
"""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Unknown keys are errors, and a value is never changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _not_yet(reason: str) -> BeforeValidator:
    """Refuse whatever the key is set to."""

    def refuse(value: Any) -> None:
        raise ValueError(f"cannot be set in this version: {reason}")

    return BeforeValidator(refuse)


def _only(served: Any, reason: str) -> AfterValidator:
    """Refuse every value but the one that this version serves."""

    def check(value: Any) -> Any:
        if value != served:
            raise ValueError(f"this version serves {served!r} only: {reason}")
        return value

    return AfterValidator(check)


def _where(is_right: Callable[[Any], bool], message: str) -> AfterValidator:
    """Refuse a value of which `is_right` does not hold."""

    def check(value: Any) -> Any:
        if not is_right(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _is_sqlite_file(url: str) -> bool:
    return not url or (url.startswith("sqlite:///") and not url.endswith("/"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class DatabaseSettings(Section):
    """Where everything is kept."""

    # Empty: tidemill.db in the data directory, where a relative file is as well.
    url: Annotated[
        str, _where(_is_sqlite_file, "this version keeps everything in sqlite:///FILE only")
    ] = ""
    read_url: Annotated[None, _not_yet("SQLite has no replicas")] = None
    pool_size: Annotated[int, Field(ge=1, le=64)] = 2  # connections that read beside the writer
    require_tls: Annotated[bool, _only(False, "SQLite is a file, not a connection")] = False


class MessageQueueSettings(Section):
    """What carries runs to workers."""

    url: Annotated[str, _only("memory://", "everything runs in one process")] = "memory://"
    # Runs that may wait in the queue for each slot: what explain tells is computed with the same.
    prefetch: Annotated[int, _only(2, "the dispatcher hands out two runs for each slot")] = 2
    require_tls: Annotated[bool, _only(False, "memory:// is no connection")] = False


class CacheSettings(Section):
    """What is kept at hand."""

    url: Annotated[str, _only("memory://", "everything runs in one process")] = "memory://"
    l1_size: Annotated[None, _not_yet("no answer is cached")] = None
    ttl_seconds: Annotated[None, _not_yet("no answer is cached")] = None


class DispatcherSettings(Section):
    """How schedules are scanned."""

    scan_interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    scan_batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    scan_concurrency: Annotated[int, _only(1, "SQLite has one writer")] = 1
    strategy: str | dict[str, Any] = "queue"  # of tasks that name none
    horizon_seconds: Annotated[float, Field(gt=0, le=3_600)] = 5.0
    recovery_interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    claim_within_seconds: Seconds = 30.0


class WorkerSettings(Section):
    """What a worker offers."""

    name: str = ""  # empty: the host's name
    queues: Annotated[list[str], Field(min_length=1)] = ["default"]
    labels: dict[str, str] = {}
    max_concurrent_tasks: Annotated[int, Field(ge=1, le=10_000)] = 256
    heartbeat_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    lease_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    drain_seconds: Seconds = 30.0
    kill_grace_seconds: Seconds = 5.0
    python_paths: list[str] = []
    allowed_executors: list[str] = []  # empty: all
    allowed_networks: list[str] = []  # link-local and metadata addresses are closed but for these

    @model_validator(mode="after")
    def _a_lease_outlasts_a_lost_heartbeat(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds")
        return self


class ApiSettings(Section):
    """Where the API listens and what it accepts."""

    host: Annotated[
        str,
        _where(
            _is_loopback,
            "must be this machine only, as nobody has to log in yet; use 127.0.0.1",
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    cors_origins: list[str] = []
    rate_limit: Annotated[None, _not_yet("no rate is limited")] = None
    max_body_bytes: Positive = 1_048_576


class AuthSettings(Section):
    """Who may do what."""

    mode: Annotated[str, _only("off", "it listens to this machine only")] = "off"
    jwt_keys: Annotated[None, _not_yet("nobody logs in")] = None
    access_ttl_seconds: Annotated[None, _not_yet("nobody logs in")] = None
    refresh_ttl_seconds: Annotated[None, _not_yet("nobody logs in")] = None
    oidc: Annotated[None, _not_yet("nobody logs in")] = None


class RetentionSettings(Section):
    """How long history is kept."""

    runs_seconds: Seconds = 30 * 86_400


class LoggingSettings(Section):
    """What the processes say of themselves."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(Section):
    """All settings."""

    data_dir: Annotated[str, Field(min_length=1)] = "data"
    database: DatabaseSettings = DatabaseSettings()
    message_queue: MessageQueueSettings = MessageQueueSettings()
    cache: CacheSettings = CacheSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    retention: RetentionSettings = RetentionSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def database_file(self) -> Path:
        """The database's file, by the one path that every process knows it by."""
        named = self.database.url.removeprefix("sqlite:///") or "tidemill.db"
        return Path(self.data_dir).expanduser().joinpath(named).resolve()
