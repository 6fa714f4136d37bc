"""The settings, their defaults and their bounds. One class per section of the reference.

A key whose work this version does not do is there and takes no value but its default, so that
nobody relies on what is not done.
"""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

_POSTGRES = ("postgresql://", "postgres://")
_ENCRYPTED = ("sslmode=require", "sslmode=verify-ca", "sslmode=verify-full")

_MEBIBYTE = 1024 * 1024
_LARGEST_ARTIFACT = 1024 * _MEBIBYTE

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


def _is_database(url: str) -> bool:
    if url.startswith(_POSTGRES):
        return _is_readable(url)
    return not url or (url.startswith("sqlite:///") and not url.endswith("/"))


def _is_queue(url: str) -> bool:
    brokers = ("redis://", "rediss://", "amqp://", "amqps://")
    return url in {"", "memory://", "postgres://"} or (
        url.startswith(brokers) and _is_readable(url)
    )


def _is_replica(url: str | None) -> bool:
    return url is None or (url.startswith(_POSTGRES) and _is_readable(url))


def _is_readable(url: str) -> bool:
    """Whether its parts can be told apart: drivers would quote it, password included."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _encrypts(required: bool, info: ValidationInfo) -> bool:
    if required and not any(mode in info.data.get("url", "") for mode in _ENCRYPTED):
        raise ValueError("needs a PostgreSQL url that ends in ?sslmode=verify-full (or require)")
    return required


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
        str, _where(_is_database, "must be sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    ] = ""
    # A replica: lists and what people look at come from there; what decides never does.
    read_url: Annotated[
        str | None, _where(_is_replica, "must be postgresql://…, a replica of a PostgreSQL url")
    ] = None
    # PostgreSQL: connections of this process; SQLite: those that read beside the writer.
    pool_size: Annotated[int | None, Field(ge=1, le=64)] = None  # null: as many as the role needs
    require_tls: Annotated[bool, AfterValidator(_encrypts)] = False

    @property
    def is_postgres(self) -> bool:
        """Whether it is a database that processes share."""
        return self.url.startswith(_POSTGRES)


class MessageQueueSettings(Section):
    """What carries runs to workers."""

    # Empty: memory:// with SQLite, and the database itself (postgres://) with PostgreSQL.
    url: Annotated[
        str,
        _where(_is_queue, "must be memory://, postgres://, redis(s)://HOST or amqp(s)://HOST"),
    ] = ""
    # Runs that may wait in the queue for each slot: what explain tells is computed with the same.
    prefetch: Annotated[int, _only(2, "the dispatcher hands out two runs for each slot")] = 2
    require_tls: bool = False  # refuse a broker that is not reached by TLS


class CacheSettings(Section):
    """What is kept at hand."""

    url: Annotated[str, _only("memory://", "everything runs in one process")] = "memory://"
    l1_size: Annotated[None, _not_yet("no answer is cached")] = None
    ttl_seconds: Annotated[None, _not_yet("no answer is cached")] = None


class DispatcherSettings(Section):
    """How schedules are scanned."""

    scan_interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    scan_batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    scan_concurrency: Annotated[int, _only(1, "one look at a time is quick enough")] = 1
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
    # A result above 256 KiB is stored beside its run, up to this; a longer one fails the attempt.
    max_artifact_bytes: Annotated[int, Field(ge=0, le=_LARGEST_ARTIFACT)] = 64 * _MEBIBYTE
    max_upstream_bytes: Annotated[int, Field(ge=0)] = 256 * _MEBIBYTE  # fetched for one run

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
    # Of a result that a worker elsewhere stores beside its run.
    max_artifact_bytes: Annotated[int, Field(ge=0, le=_LARGEST_ARTIFACT)] = 64 * _MEBIBYTE


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


class ObservabilitySettings(Section):
    """Where a process is asked how it is: `/health`, `/ready`, `/metrics`, and nothing else."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int | None, Field(ge=0, le=65_535)] = None  # null: only an API is asked


class CircuitBreakerSettings(Section):
    """When calls to a database or broker that is away fail at once, and how soon one is tried."""

    failure_threshold: Positive = 3  # calls in a row that reach nothing
    reset_seconds: Annotated[float, Field(gt=0, le=10)] = 0.5  # doubles while it stays away, up to
    longest_reset_seconds: Annotated[float, Field(gt=0, le=10)] = 2.0

    @model_validator(mode="after")
    def _the_longest_is_no_shorter_than_the_first(self) -> Self:
        if self.longest_reset_seconds < self.reset_seconds:
            raise ValueError("longest_reset_seconds must be at least reset_seconds")
        return self


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
    observability: ObservabilitySettings = ObservabilitySettings()
    circuit_breaker: CircuitBreakerSettings = CircuitBreakerSettings()

    @property
    def database_name(self) -> str:
        """What to call it to people."""
        return "of database.url" if self.database.is_postgres else self.database_file.name

    @property
    def database_file(self) -> Path:
        """The database's file, by the one path that every process knows it by."""
        url = "" if self.database.is_postgres else self.database.url
        named = url.removeprefix("sqlite:///") or "tidemill.db"
        return Path(self.data_dir).expanduser().joinpath(named).resolve()
