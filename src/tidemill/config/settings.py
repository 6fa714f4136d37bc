"""The settings, their defaults and their bounds. One class per section of the reference."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Unknown keys are errors, and a value is never changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(Section):
    """Where everything is kept."""

    url: str = ""  # empty: sqlite in the data directory


class MessageQueueSettings(Section):
    """What carries runs to workers."""

    url: str = "memory://"


class DispatcherSettings(Section):
    """How schedules are scanned."""

    scan_interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    scan_batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    recovery_interval_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    claim_within_seconds: Seconds = 30.0


class WorkerSettings(Section):
    """What a worker offers."""

    name: str = ""  # empty: the host's name
    queues: list[str] = ["default"]
    labels: dict[str, str] = {}
    max_concurrent_tasks: Annotated[int, Field(ge=1, le=10_000)] = 64
    heartbeat_seconds: Annotated[float, Field(gt=0)] = 2.0
    lease_seconds: Annotated[float, Field(ge=1)] = 10.0
    drain_seconds: Seconds = 30.0
    kill_grace_seconds: Seconds = 5.0
    python_paths: list[str] = []
    allowed_executors: list[str] = []  # empty: all
    allowed_networks: list[str] = []  # link-local and metadata addresses are closed but for these


class ApiSettings(Section):
    """Where the API listens and what it accepts."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    cors_origins: list[str] = []
    max_body_bytes: Positive = 1_048_576


class RetentionSettings(Section):
    """How long history is kept."""

    runs_seconds: Seconds = 30 * 86_400


class LoggingSettings(Section):
    """What the processes say of themselves."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(Section):
    """All settings."""

    data_dir: str = "data"
    database: DatabaseSettings = DatabaseSettings()
    message_queue: MessageQueueSettings = MessageQueueSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    retention: RetentionSettings = RetentionSettings()
    logging: LoggingSettings = LoggingSettings()
