"""The bodies that the API takes and gives, as the OpenAPI document shows them."""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tidemill.domain.artifact import CHUNK_BYTES
from tidemill.domain.duty import Duty
from tidemill.domain.expression_syntax import LONGEST
from tidemill.domain.flow_run import FlowStatus
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, TaskStatus
from tidemill.domain.task_run import AttemptOutcome, Hold, Trigger
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.health import BreakerState

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[^/\x00-\x1f\x7f]+$", min_length=1, max_length=200),
]
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Word = Annotated[str, StringConstraints(pattern=_WORD, max_length=100)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=10 * 366 * 86_400)]
Positive = Annotated[float, Field(gt=0, le=10 * 366 * 86_400)]
TaskId = Annotated[int, Field(ge=1, lt=2**62)]
TaskText = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,18}|name:.+)$", max_length=205)]
TaskRef = Annotated[
    TaskId | TaskText,
    Field(description="an id, or `name:NAME`", examples=[7, "name:nightly-report"]),
]
Key = Annotated[str, StringConstraints(min_length=1, max_length=255)]


def _is_written(value: Any) -> Any:
    if not isinstance(value, str) or not re.match(r"\d{4}-", value):
        raise ValueError("write an RFC 3339 time, for example 2026-12-01T09:00:00Z")
    return value


def _in_range(value: datetime) -> datetime:
    # What zones do is worked out year by year: later ones would cost much and mean little.
    if not 1970 <= value.year < 2200:
        raise ValueError("must lie between the years 1970 and 2199")
    return value.astimezone(UTC)


def _written(value: datetime) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03}Z"


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_is_written),
    AfterValidator(_in_range),
    PlainSerializer(_written, return_type=str),
]


def _can_be_handed_over(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value, separators=(",", ":"))) > _PARAMETERS_BYTES:
        raise ValueError(
            f"have at most {_PARAMETERS_BYTES} bytes as ASCII JSON; pass what is larger by name"
        )
    return value


# A task gets them as one variable, and no variable of a program may have more than twice this.
_PARAMETERS_BYTES = 65_536

Parameters = Annotated[
    dict[str, Any],
    AfterValidator(_can_be_handed_over),
    Field(description=f"at most {_PARAMETERS_BYTES} bytes as ASCII JSON"),
]


class Body(BaseModel):
    """Unknown fields are errors: a misspelt one must not be lost in silence.

    What was read is not changed: a default is shared by all bodies, and none of them needs a copy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self


class Dst(Body):
    """What a fixed time does where the clock jumps: `gap` skips it, `fold` brings it twice."""

    gap: Literal["run_after", "skip"] = "run_after"
    fold: Literal["first", "second", "both"] = "first"


class MisfireBody(Body):
    """What becomes of firings that come later than `grace_seconds` after their time."""

    policy: Literal["run_once", "skip", "run_all"] = "run_once"
    grace_seconds: Seconds = 60
    max_runs: Annotated[int, Field(ge=1, le=10_000)] = 100
    window_seconds: Seconds = 86_400


class RetryBody(Body):
    """Whether a failed attempt is followed by another, and after how many seconds."""

    max_retries: Annotated[int, Field(ge=0, le=1_000)] = 0
    delay_seconds: Seconds = 10
    backoff: Literal["fixed", "linear", "exponential"] = "exponential"
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    max_delay_seconds: Seconds = 3_600
    jitter: bool = True
    retry_on: Annotated[list[Label | int], Field(max_length=100)] = []
    never_retry_on: Annotated[list[Label | int], Field(max_length=100)] = []


class ConcurrencyBody(Body):
    """At most `limit` runs at once under `key`; without a key, of the task alone."""

    key: Label | None = None
    limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "ConcurrencyBody":
        if self.key is not None and self.limit is None:
            raise ValueError("a key needs a limit")
        return self


class DependencyBody(Body):
    """An upstream task and what its run in the same flow run has to come to."""

    task: TaskText
    condition: Literal["succeeded", "failed", "completed", "skipped"] = "succeeded"


class MapOverBody(Body):
    """One run for each item of the list that an upstream run returned, or has in `field`."""

    task: TaskText
    field: (
        Annotated[str, StringConstraints(pattern=r"^[^.]+(\.[^.]+)*$", max_length=200)] | None
    ) = None
    max_parallel: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_items: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    on_failure: Literal["continue", "stop"] = "continue"


class StrategyBody(BaseModel):
    """A strategy by its name, and beside it whatever settings it takes."""

    model_config = ConfigDict(extra="allow")

    name: Word


def _names_a_strategy(value: Any) -> Any:
    # Said once and for all: of a union, each branch would say why it is not the one.
    name = value.get("name") if isinstance(value, dict) else value
    if value is not None and not (isinstance(name, str) and re.fullmatch(_WORD, name)):
        raise ValueError("give a strategy's name, or an object with its `name` and its settings")
    return value


StrategyChoice = Annotated[Word | StrategyBody | None, BeforeValidator(_names_a_strategy)]


class TaskBody(Body):
    """A task's definition. Only name, executor and command are required."""

    name: Name
    namespace: Word = "default"
    description: Annotated[str, StringConstraints(max_length=10_000)] = ""
    executor: Word
    task_type: Word | None = None
    command: Annotated[str, StringConstraints(min_length=1, max_length=65_536)]
    arguments: dict[str, Any] | list[str] = {}
    schedule: Annotated[str, StringConstraints(min_length=1, max_length=1_000)] | None = None
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=100)] = "UTC"
    dst: Dst = Dst()
    misfire: MisfireBody = MisfireBody()
    overlap: Literal["allow", "skip", "queue", "cancel_running"] = "skip"
    jitter_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    start_at: Instant | None = None
    end_at: Instant | None = None
    priority: Priority = Priority.NORMAL
    status: TaskStatus = TaskStatus.ACTIVE
    retry: RetryBody = RetryBody()
    timeout_seconds: Positive | None = 3_600
    queue_timeout_seconds: Positive | None = None
    deadline_seconds: Positive | None = None
    flow_deadline_seconds: Positive | None = None
    concurrency: ConcurrencyBody = ConcurrencyBody()
    queue: Word = "default"
    worker_selector: Annotated[dict[Label, Label], Field(max_length=20)] = {}
    strategy: StrategyChoice = None
    dependencies: Annotated[list[DependencyBody], Field(max_length=1_000)] = []
    trigger_rule: Annotated[
        str,
        StringConstraints(min_length=1, max_length=LONGEST),
        Field(description="`all`, `any`, `none_failed`, or an expression over upstream runs"),
    ] = "all"
    map_over: MapOverBody | None = None
    tags: Annotated[list[Label], Field(max_length=50)] = []
    metadata: dict[str, Any] = {}

    # What the server says of a task comes back with an edited copy, and changes nothing.
    id: Annotated[int | None, Field(json_schema_extra={"readOnly": True})] = None
    version: Annotated[int | None, Field(json_schema_extra={"readOnly": True})] = None
    created_at: Annotated[Instant | None, Field(json_schema_extra={"readOnly": True})] = None
    updated_at: Annotated[Instant | None, Field(json_schema_extra={"readOnly": True})] = None
    last_run_at: Annotated[Instant | None, Field(json_schema_extra={"readOnly": True})] = None
    next_run_at: Annotated[Instant | None, Field(json_schema_extra={"readOnly": True})] = None

    @field_validator("task_type")
    @classmethod
    def _is_executors(cls, value: str | None, info: ValidationInfo) -> str | None:
        executor = info.data.get("executor", value)
        if value is not None and value != executor:
            raise ValueError(f"must be the executor's, {executor!r}, or be left out")
        return value

    @field_validator("end_at")
    @classmethod
    def _ends_after_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("start_at")
        if value is not None and start is not None and value <= start:
            raise ValueError("must lie after start_at")
        return value


class ApplyBody(Body):
    """Tasks as they are all to be.

    Of a task, `namespace` is that of the call where it is left out, and `status` then stays as it
    is. `prune` deletes those of `namespace` that were applied before and are not given any more;
    `dry_run` only tells.
    """

    tasks: Annotated[list[TaskBody], Field(min_length=1, max_length=100_000)]
    namespace: Word = "default"
    prune: bool = False
    dry_run: bool = False


class TriggerBody(Body):
    """How this one run differs from the task's definition, and when it may start."""

    parameters: Parameters = {}
    priority: Priority | None = None
    timeout_seconds: Positive | None = None
    run_at: Instant | None = None
    idempotency_key: Key | None = None


class RunItemBody(TriggerBody):
    """One of several triggers, and the task that it is for."""

    task: TaskRef


class RunsBody(Body):
    """Triggers that take effect together or not at all."""

    items: Annotated[list[RunItemBody], Field(min_length=1, max_length=1_000)]


class RetryFlowRunBody(Body):
    """Which versions of the tasks are run: those of `then`, or those that are in force `now`."""

    versions: Literal["then", "now"] = "then"


class BackfillBody(Body):
    """Make up for the fire times from `from`, inclusive, to `to`, exclusive.

    At most `max_parallel` of them are under way at once: runs, or flow runs from their beginning to
    their end where other tasks depend on this one.
    """

    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    max_parallel: Annotated[int, Field(ge=1, le=10_000)] | None = None
    dry_run: bool = False


class PreviewBody(Body):
    """A schedule of which the next `count` fire times after `after` are asked; null: now."""

    schedule: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=100)] = "UTC"
    dst: Dst = Dst()
    count: Annotated[int, Field(ge=1, le=1_000)] = 10
    after: Instant | None = None


class RunFilterBody(Body):
    """Runs that match everything that is given."""

    task_id: Annotated[int, Field(ge=1, lt=2**62)] | None = None
    status: RunStatus | None = None
    worker_id: Label | None = None
    trigger: Trigger | None = None
    scheduled_after: Instant | None = None
    scheduled_before: Instant | None = None
    flow_run_id: Label | None = None
    part_of: Annotated[int, Field(ge=1, lt=2**62)] | None = None
    namespace: Word | None = None


class BulkBody(Body):
    """What to do with many runs, named by their ids or by a filter; `dry_run` only tells."""

    action: Literal["cancel", "retry"]
    ids: Annotated[list[Annotated[int, Field(ge=1, lt=2**62)]], Field(max_length=1_000)] | None = (
        None
    )
    filter: RunFilterBody | None = None
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> "BulkBody":
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class WorkerBody(Body):
    """What a worker says of itself when it registers."""

    name: Name
    hostname: Label = "unknown"
    ip_address: Label | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    task_types: Annotated[list[Word], Field(max_length=100)] = []
    queues: Annotated[list[Word], Field(min_length=1, max_length=100)] = ["default"]
    labels: Annotated[dict[Label, Label], Field(max_length=50)] = {}
    max_concurrent_tasks: Annotated[int, Field(ge=1, le=10_000)] = 1
    version: Annotated[str, StringConstraints(max_length=100)] = ""
    metadata: dict[str, Any] = {}


class WorkerChange(Body):
    """What of a worker is to be different; what is left out or null stays."""

    labels: Annotated[dict[Label, Label], Field(max_length=50)] | None = None
    max_concurrent_tasks: Annotated[int, Field(ge=1, le=10_000)] | None = None
    metadata: dict[str, Any] | None = None


RunId = Annotated[int, Field(ge=1, lt=2**62)]
Fence = Annotated[int, Field(ge=1, lt=2**62)]
Lease = Annotated[float, Field(ge=1, le=10 * 366 * 86_400)]
LineNumber = Annotated[int, Field(ge=0, lt=2**62)]
Said = Annotated[str, StringConstraints(max_length=1_000_000)]
_ENCODED_CHUNK = -(-CHUNK_BYTES // 3) * 4  # characters of base64


class HeldBody(Body):
    """A run that the caller claimed, and the fence that it was given for it."""

    run_id: RunId
    fence: Fence


class HeartbeatBody(Body):
    """How many runs the worker that gives a sign of life holds.

    Leases of those in `runs` are renewed for `lease_seconds`, where they are held still.
    """

    current_task_count: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    lease_seconds: Lease = 10.0
    runs: Annotated[list[HeldBody], Field(max_length=10_000)] = []


class ClaimBody(Body):
    """Up to `limit` runs, as soon as there is one, for as long as `lease_seconds`.

    `number` grows with each claim of this worker. Sent once more, it gives what it gave before,
    as far as that is held still; a `limit` of 0 asks for that alone.
    """

    number: Annotated[int, Field(ge=1, lt=2**62)]
    limit: Annotated[int, Field(ge=0, le=1_000)] = 1
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    lease_seconds: Lease = 10.0


class LinesBody(Body):
    """Consecutive lines of one stream, each ended by a newline but perhaps the last."""

    run_id: RunId
    first_seq: LineNumber
    last_seq: LineNumber
    attempt: Annotated[int, Field(ge=1, le=1_000_000)]
    stream: Literal["stdout", "stderr", "log"]
    at: Instant
    text: Said


class OutputBody(HeldBody):
    """What one attempt said since the last report; `checkpoint` is for the one after it."""

    lines: Annotated[list[LinesBody], Field(max_length=1_000)] = []
    progress: dict[str, Any] | None = None
    checkpoint: Any = None


class OutcomeBody(Body):
    """What came of an attempt; `reason` is a stable code, and null where it succeeded."""

    succeeded: bool
    reason: Annotated[str, StringConstraints(max_length=200)] | None = None
    error_message: Said | None = None
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    result: Any = None
    exception_type: Annotated[str, StringConstraints(max_length=1_000)] | None = None


class EndingBody(HeldBody):
    """How an attempt ended, and what made it end; `log_seq` is the number of its last line."""

    cause: Literal["itself", "timeout", "deadline", "cancel", "drain"]
    outcome: OutcomeBody
    log_seq: LineNumber


class ReportBody(Body):
    """What attempts said, and how some of them ended."""

    outputs: Annotated[list[OutputBody], Field(max_length=10_000)] = []
    endings: Annotated[list[EndingBody], Field(max_length=10_000)] = []


class ChunkBody(Body):
    """A piece of what an attempt returned, in base64; `bytes` is how many the whole has."""

    fence: Fence
    bytes: Annotated[int, Field(ge=1, lt=2**62)]
    content: Annotated[
        str,
        StringConstraints(max_length=_ENCODED_CHUNK),
        Field(json_schema_extra={"contentEncoding": "base64"}),
    ]


class NoBody(Body):
    """Nothing to say; `{}` or no body at all."""


# answers


class TaskOut(BaseModel):
    """A task: its definition as it is in force, and what the server knows of it."""

    id: int
    name: str
    namespace: str
    description: str
    task_type: str
    executor: str
    command: str
    arguments: Any
    schedule: str | None
    timezone: str
    dst: dict[str, Any]
    misfire: dict[str, Any]
    overlap: str
    jitter_seconds: float
    start_at: AwareDatetime | None
    end_at: AwareDatetime | None
    priority: Priority
    status: TaskStatus
    retry: dict[str, Any]
    timeout_seconds: float | None
    queue_timeout_seconds: float | None
    deadline_seconds: float | None
    flow_deadline_seconds: float | None
    concurrency: dict[str, Any]
    queue: str
    worker_selector: dict[str, str]
    strategy: str | dict[str, Any] | None
    dependencies: list[dict[str, Any]]
    trigger_rule: str
    map_over: dict[str, Any] | None
    tags: list[str]
    metadata: dict[str, Any]
    version: int
    created_at: AwareDatetime
    updated_at: AwareDatetime
    last_run_at: AwareDatetime | None
    next_run_at: AwareDatetime | None


class AppliedOut(BaseModel):
    """What became of one task; `id` is null where it would be created."""

    name: str
    namespace: str
    fate: Literal["created", "updated", "unchanged", "deleted"]
    id: int | None
    version: int


class ApplyOut(BaseModel):
    """What became of each task, in the order given; those that were deleted come last."""

    items: list[AppliedOut]
    dry_run: bool


class RunOut(BaseModel):
    """One execution of a task, from its creation to its end."""

    id: int
    task_id: int
    task_name: str
    task_version: int
    namespace: str
    status: RunStatus
    reason: str | None
    trigger: Trigger
    scheduled_for: AwareDatetime
    not_before: AwareDatetime
    priority: Priority
    parameters: dict[str, Any]
    attempt: int
    max_attempts: int
    fence: int
    worker_id: str | None
    flow_run_id: str | None
    result: Any
    error_message: str | None
    exit_code: int | None
    missed_count: int
    coalesced_into: int | None
    range_from: AwareDatetime | None
    retry_of: int | None
    part_of: int | None
    shard_index: int | None
    shard_total: int | None
    progress: dict[str, Any] | None
    created_at: AwareDatetime
    dispatched_at: AwareDatetime | None
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None


class CallOut(BaseModel):
    """A flow run that an attempt of a run called, and waited for; `run_id` is its first run."""

    attempt: int
    flow_run_id: str
    run_id: int
    status: FlowStatus


class RunDetailOut(RunOut):
    """A run, and how it hangs together with others by calls.

    `called_by` is the run that called its flow run, and `calls` is what it called itself, the
    latest 100, newest first.
    """

    called_by: int | None
    calls: list[CallOut]


class MemberOut(BaseModel):
    """A run of a flow run, in short.

    `part_of` is the first of the runs that one became, its own included: one for each item, or for
    each shard; `shard_index` counts them from 0.
    """

    id: int
    task_id: int
    task_name: str
    status: RunStatus
    reason: str | None
    attempt: int
    part_of: int | None
    shard_index: int | None
    shard_total: int | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None


class EdgeOut(BaseModel):
    """What one run of a flow run waits for.

    `upstream_run_id` is null while no run of a task outside the flow run counts; `ended_as` is how
    the upstream run ended, and null until then.
    """

    upstream_task_id: int
    upstream_run_id: int | None
    downstream_run_id: int
    condition: Literal["succeeded", "failed", "completed", "skipped"]
    is_mapped_over: bool
    ended_as: RunStatus | None


class FlowRunSummaryOut(BaseModel):
    """The runs of one firing of connected tasks, `total` of them.

    `retry_of` is the flow run whose failed runs it runs again. It fails with the reason `deadline`
    where it had to have ended at `deadline_at`. Those of a backfill that take turns share
    `backfill_id`; while one waits for its turn, it is `waiting`. `called_by` is the run that called
    it and waits for its end.
    """

    id: str
    namespace: str
    root_task_id: int
    root_run_id: int
    trigger: Trigger
    scheduled_for: AwareDatetime
    status: FlowStatus
    reason: str | None
    retry_of: str | None
    backfill_id: str | None
    called_by: int | None
    total: int
    unfinished: int
    created_at: AwareDatetime
    deadline_at: AwareDatetime | None
    completed_at: AwareDatetime | None


class FlowRunOut(FlowRunSummaryOut):
    """A flow run with its graph, by pages: some of its runs, and the edges that lead into these.

    `critical_path` names the runs that the whole took so long for, `carried_over` the runs of
    earlier flow runs that need not run again in this one. `next_cursor` asks for the next runs, and
    is null on the last page: of up to 1,000 runs and 10,000 edges, the first page shows all.
    """

    started_at: AwareDatetime | None
    runs: list[MemberOut]
    carried_over: list[MemberOut]
    edges: list[EdgeOut]
    critical_path: list[int]
    next_cursor: str | None


class AttemptOut(BaseModel):
    """One try of a run; they are numbered from 1, and each is closed once."""

    attempt: int
    fence: int
    worker_id: str
    started_at: AwareDatetime
    completed_at: AwareDatetime | None
    outcome: AttemptOutcome | None
    exit_code: int | None
    error_message: str | None


class EventOut(BaseModel):
    """One fact of a run's life; `seq` counts them from 1 without a gap."""

    seq: int
    type: str
    at: AwareDatetime
    data: dict[str, Any]


class LogOut(BaseModel):
    """One line of a run's output, numbered across its attempts."""

    seq: int
    attempt: int
    stream: Literal["stdout", "stderr", "log"]
    at: AwareDatetime
    text: str


class WorkerOut(BaseModel):
    """A worker, what it offers, and when it last gave a sign of life."""

    id: str
    name: str
    hostname: str
    ip_address: str | None
    port: int | None
    task_types: list[str]
    queues: list[str]
    labels: dict[str, str]
    max_concurrent_tasks: int
    current_task_count: int
    status: WorkerStatus
    last_heartbeat: AwareDatetime
    registered_at: AwareDatetime
    version: str
    metadata: dict[str, Any]


class HeldOut(BaseModel):
    """A run that the worker holds; where it is `cancelling`, its end is asked for."""

    run_id: int
    status: RunStatus


class HeartbeatOut(WorkerOut):
    """The worker as it is known, and which of the runs that it named it holds still."""

    runs: list[HeldOut]


class LeasedRunOut(BaseModel):
    """A run as the worker that holds it needs it; `log_seq` is what its lines count on from."""

    id: int
    namespace: str
    task_id: int
    task_name: str
    task_type: str
    task_version: int
    lane: str
    status: RunStatus
    hold: Hold | None
    reason: str | None
    attempt: int
    max_attempts: int
    losses: int
    hand_backs: int
    fence: int
    concurrency_key: str | None
    concurrency_limit: int | None
    event_seq: int
    worker_id: str | None
    started_at: AwareDatetime | None
    scheduled_for: AwareDatetime
    not_before: AwareDatetime
    parameters: dict[str, Any]
    flow_run_id: str | None
    timeout_seconds: float | None
    queue_timeout_seconds: float | None
    deadline_at: AwareDatetime | None
    missed_count: int
    checkpoint: Any
    traceparent: str | None
    log_seq: int


class ShardOut(BaseModel):
    """Which part of the work is a run's own: number `index`, from 0, of `total`."""

    index: int
    total: int


class ClaimedOut(BaseModel):
    """A run that is the worker's now, what is to be run, and how long all of it may take."""

    run: LeasedRunOut
    definition: dict[str, Any]
    previous_success_at: AwareDatetime | None
    deadline_seconds: float | None
    shard: ShardOut


class ClaimsOut(BaseModel):
    """What was claimed, in the order in which it should start."""

    items: list[ClaimedOut]


class ReportedOut(BaseModel):
    """What became of the reports: those that are stale changed nothing."""

    accepted: int
    stale: int


class GateOut(BaseModel):
    """What one gate says: whether it lets the run pass, and why."""

    gate: str
    passes: bool
    detail: str


class ExplanationOut(BaseModel):
    """Why a run has started or has not: every gate's finding, and the first that blocks."""

    may_start: bool
    blocking: str | None
    since: AwareDatetime
    earliest_start: AwareDatetime | None
    gates: list[GateOut]


class FireOut(BaseModel):
    """A fire time, in UTC and on the schedule's clock; `note` tells of a gap or a fold."""

    at: AwareDatetime
    local: AwareDatetime
    note: str | None


class LedgerItemOut(BaseModel):
    """What became of one firing, or of `count` of them from `range_from` on."""

    scheduled_for: AwareDatetime
    fate: Literal["ran", "coalesced", "skipped", "missed"]
    reason: str | None
    run_id: int | None
    range_from: AwareDatetime | None
    count: int


class LedgerOut(BaseModel):
    """Every due firing counts in one of four sums; `next_from` is where the items go on."""

    due: int
    ran: int
    coalesced: int
    skipped: int
    missed: int
    items: list[LedgerItemOut]
    next_from: AwareDatetime | None


class VersionOut(BaseModel):
    """A definition that was in force, and from when on."""

    version: int
    created_at: AwareDatetime
    definition: dict[str, Any]


class QueueOut(BaseModel):
    """What waits and what runs in a queue, and how many runs it started each second of late."""

    name: str
    depth: int
    running: int
    oldest_age_seconds: float | None
    started_per_second: float


class StatusStatsOut(BaseModel):
    """Runs of one status: how many, how long they took on average, and the latest end."""

    status: RunStatus
    count: int
    mean_seconds: float | None
    latest_at: AwareDatetime | None


class StatsOut(BaseModel):
    """How a task's runs have gone since an instant."""

    since: AwareDatetime
    finished: int
    success_rate: float | None
    by_status: list[StatusStatsOut]


class IdsOut(BaseModel):
    """The ids of the new runs, in the order of the triggers."""

    ids: list[int]


class BackfillOut(BaseModel):
    """The fire times of the range, and the runs made for them; none where it was a dry run."""

    fire_times: list[AwareDatetime]
    run_ids: list[int]
    dry_run: bool


class BulkItemOut(BaseModel):
    """What came of one run: an HTTP status, its code, and the id of a new run."""

    id: int
    status: int
    code: str
    new_run_id: int | None


class BulkOut(BaseModel):
    """What came of each run."""

    items: list[BulkItemOut]
    dry_run: bool
    has_more: Annotated[bool, Field(description="the filter matches more: call again")]


class PlaceOut(BaseModel):
    """One place that is wrong, and what is wrong with it."""

    pointer: Annotated[
        str, Field(description="RFC 6901, into the body; or a query parameter's or header's name")
    ]
    message: str


class ProblemOut(BaseModel):
    """What went wrong (RFC 9457), and where."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[PlaceOut] = []


class ComponentOut(BaseModel):
    """How one part of the system is."""

    status: Literal["up", "down", "draining"]
    alive: int | None = None
    answers_ms: float | None = None
    detail: str | None = None
    circuit_breaker: BreakerState | None = None


class HealthOut(BaseModel):
    """The system is well when each of its parts is."""

    status: Literal["up", "degraded"]
    components: dict[str, ComponentOut]


class DutyOut(BaseModel):
    """What one dispatcher does for all, and which one that is, or was last."""

    duty: Duty
    is_held: bool
    holder: str | None
    since: AwareDatetime | None
    lease_expires_at: AwareDatetime | None


class SystemStatsOut(BaseModel):
    """What is unfinished, who works, and since when this process runs."""

    unfinished: dict[RunStatus, int]
    workers_alive: int
    duties: list[DutyOut]
    last_event_id: str
    version: str
    started_at: AwareDatetime
    uptime_seconds: float


class ProcessOut(BaseModel):
    """What this process takes of its machine."""

    cpu_seconds: float
    resident_bytes: int
    threads: int
    open_files: int


class ProbeOut(BaseModel):
    """A probe's answer where all is well."""

    status: Literal["up", "ready"]


T = TypeVar("T")


class Listed(BaseModel, Generic[T]):
    """One page; `next_cursor` asks for the next, and is null on the last."""

    items: list[T]
    next_cursor: str | None = None
