"""A task: what may be run and when. Its definition is versioned; a version never changes."""

import json
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec

from tidemill.domain.dependency import Condition, Rule
from tidemill.domain.schedule import Schedule, ScheduleSpec, compile_schedule


class TaskStatus(StrEnum):
    """Whether a task fires by itself."""

    ACTIVE = "active"
    PAUSED = "paused"  # fires nothing; may still be triggered


class Priority(StrEnum):
    """Which of two ready runs starts first; the levels are one ageing step apart."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def level(self) -> int:
        return _LEVELS[self]


_LEVELS = {Priority.LOW: 0, Priority.NORMAL: 1, Priority.HIGH: 2, Priority.CRITICAL: 3}


class DstPolicy(msgspec.Struct, frozen=True):
    """What a fixed-time rule does where the local clock jumps."""

    gap: Literal["run_after", "skip"] = "run_after"
    fold: Literal["first", "second", "both"] = "first"


class Misfire(msgspec.Struct, frozen=True):
    """What becomes of firings that could not be turned into runs in time."""

    policy: Literal["run_once", "skip", "run_all"] = "run_once"
    grace_seconds: float = 60.0
    max_runs: int = 100
    window_seconds: float = 86_400.0


class Retry(msgspec.Struct, frozen=True):
    """When a failed attempt is followed by another, and how long after.

    `retry_on` and `never_retry_on` name reasons (`http_status`), exit codes (`75` or `"75"`) or
    exception types (`builtins.ValueError`, or the bare name); an empty `retry_on` means all.
    """

    max_retries: int = 0
    delay_seconds: float = 10.0
    backoff: Literal["fixed", "linear", "exponential"] = "exponential"
    factor: float = 2.0
    max_delay_seconds: float = 3_600.0
    jitter: bool = True
    retry_on: list[str | int] = []
    never_retry_on: list[str | int] = []


class Concurrency(msgspec.Struct, frozen=True):
    """At most `limit` runs that share `key` at once; without a key the task is its own key."""

    key: str | None = None
    limit: int | None = None


class Dependency(msgspec.Struct, frozen=True):
    """An edge to an upstream task and what its run must come to."""

    task: str  # "name:NAME" or the id in digits
    condition: Condition = "succeeded"


class MapOver(msgspec.Struct, frozen=True):
    """A run for each item of the list that an upstream run returned, in place of one run."""

    task: str  # as it stands in `dependencies`
    field: str | None = None  # where in the result the list is, as `page.files`; None: it is it
    max_parallel: int | None = None  # items of one flow run at once
    max_items: int = 1_000
    on_failure: Literal["continue", "stop"] = "continue"  # of the items that have not started


# The executor of a task that calls another one, and waits for it without a worker.
CALL = "task"

# A strategy by its name alone, or `{"name": …}` with its settings.
StrategyChoice = str | dict[str, Any]


class TaskDefinition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a version of a task says."""

    name: str
    namespace: str = "default"
    description: str = ""
    task_type: str
    executor: str
    command: str
    arguments: Any = {}
    schedule: str | None = None
    timezone: str = "UTC"
    dst: DstPolicy = DstPolicy()
    misfire: Misfire = Misfire()
    overlap: Literal["allow", "skip", "queue", "cancel_running"] = "skip"
    jitter_seconds: float = 0.0
    start_at: datetime | None = None
    end_at: datetime | None = None
    priority: Priority = Priority.NORMAL
    retry: Retry = Retry()
    timeout_seconds: float | None = 3_600.0
    queue_timeout_seconds: float | None = None
    deadline_seconds: float | None = None
    flow_deadline_seconds: float | None = None
    concurrency: Concurrency = Concurrency()
    queue: str = "default"
    worker_selector: dict[str, str] = {}
    strategy: StrategyChoice | None = None  # None: the dispatcher's own
    dependencies: list[Dependency] = []
    trigger_rule: Rule = "all"
    map_over: MapOver | None = None
    tags: list[str] = []
    metadata: dict[str, Any] = {}

    @property
    def called_task(self) -> str | None:
        """The task that it calls, named as in `dependencies`; None where it calls none."""
        return self.command if self.executor == CALL else None

    @property
    def names_others(self) -> bool:
        """Whether what it says is about other tasks as well."""
        return bool(self.dependencies) or self.called_task is not None


# In `metadata`: that a task was applied, and goes once it is no longer among what is.
APPLIED_MARK = {"managed_by": "tidemill apply"}


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it stands: its definition in force and where its schedule is."""

    id: int
    version: int
    status: TaskStatus
    definition: TaskDefinition
    anchor_at: datetime  # start of `@every` and `@after`; moves when the schedule is edited
    next_run_at: datetime | None  # the earliest fire time not yet accounted for
    paused_at: datetime | None = None  # since when fire times are missed without a row yet
    last_run_at: datetime | None = None  # when a run was last made, by its schedule or by hand
    created_at: datetime
    updated_at: datetime
    has_dependents: bool = False  # other tasks name it as their upstream

    @property
    def edition(self) -> str:
        """What an edit is based on: the version, and whether it is paused; `3` or `3-paused`."""
        return f"{self.version}" if self.status is TaskStatus.ACTIVE else f"{self.version}-paused"

    @property
    def key(self) -> str:
        """A name that lives as long as the task, for hash-spread times and jitter."""
        return f"{self.definition.namespace}/{self.definition.name}"

    @property
    def schedule(self) -> Schedule | None:
        """When it fires. `@after` knows one time at most: the next counts from a run's end."""
        schedule = schedule_of(self.definition, self.anchor_at)
        if schedule is None or schedule.kind != "after":
            return schedule
        return schedule.only_at(self.next_run_at)

    def next_after_end(self, ended_at: datetime) -> datetime | None:
        """The next time of an `@after` schedule, which counts from a run's end."""
        schedule = schedule_of(self.definition, ended_at)
        if schedule is None or schedule.kind != "after":
            return None
        return schedule.next_after(ended_at)


def schedule_of(definition: TaskDefinition, anchor_at: datetime) -> Schedule | None:
    """The compiled schedule of a definition, or None where it has none; raises InvalidInput."""
    if definition.schedule is None:
        return None
    return compile_schedule(
        ScheduleSpec(
            expression=definition.schedule,
            timezone=definition.timezone,
            gap=definition.dst.gap,
            fold=definition.dst.fold,
            anchor_at=anchor_at,
            start_at=definition.start_at,
            end_at=definition.end_at,
            hash_key=f"{definition.namespace}/{definition.name}",
        )
    )


_LARGEST_ID = 2**63 - 1


def parse_task_key(key: int | str) -> int | str | None:
    """An id, the name of `name:NAME`, or None where it can be neither."""
    if isinstance(key, str) and key.startswith("name:"):
        return key.removeprefix("name:")
    if isinstance(key, str) and not key.isdecimal():
        return None
    return int(key) if int(key) <= _LARGEST_ID else None


QUEUE = "queue"  # the strategy that chooses nobody: any free worker takes the run

_REMEMBERED = 4_096  # lanes


class Lane(msgspec.Struct, frozen=True):
    """Which workers can take a run; as text, `queue/task_type[~strategy][@worker][/selector]`.

    A lane with a worker is that worker's alone. Beside a strategy the worker was chosen at
    dispatch, and the choice is void once the dispatch is withdrawn; without one the run is bound
    to it for as long as it is there.
    """

    queue: str
    task_type: str
    selector: dict[str, str]
    strategy: str | None = None  # asked at dispatch; None: the dispatcher's own
    worker_id: str | None = None

    def __str__(self) -> str:
        strategy = "" if self.strategy is None else f"~{self.strategy}"
        worker = "" if self.worker_id is None else f"@{quote(self.worker_id, safe='')}"
        lane = f"{self.queue}/{self.task_type}{strategy}{worker}"
        if not self.selector:
            return lane
        return f"{lane}/{json.dumps(self.selector, sort_keys=True, separators=(',', ':'))}"

    @property
    def is_open(self) -> bool:
        """Whether any worker that serves it may take its ready runs, unless all runs ask a
        strategy by default."""
        is_asked_for = self.worker_id is None and self.strategy not in (None, QUEUE)
        return self.task_type != CALL and not is_asked_for


def lane_of(definition: TaskDefinition) -> str:
    """Runs of one lane can be taken by the same workers, and ask the same kind of strategy."""
    choice = definition.strategy
    return str(
        Lane(
            definition.queue,
            definition.task_type,
            definition.worker_selector,
            None if choice is None else strategy_name(choice),
        )
    )


def strategy_name(choice: StrategyChoice) -> str:
    """The name in a choice."""
    return choice if isinstance(choice, str) else str(choice["name"])


@lru_cache(_REMEMBERED)
def parse_lane(lane: str) -> Lane:
    """The parts of a lane."""
    queue, kind, *selector = lane.split("/", 2)
    kind, _, worker_id = kind.partition("@")
    task_type, _, strategy = kind.partition("~")
    return Lane(
        queue,
        task_type,
        json.loads(selector[0]) if selector else {},
        strategy or None,
        unquote(worker_id) or None,
    )


def lane_to_wait_in(lane: str) -> str:
    """The lane of a run of `lane` whose dispatch is withdrawn: nobody is chosen for it any more."""
    parsed = parse_lane(lane)
    if parsed.worker_id is None or parsed.strategy is None:
        return lane
    return str(msgspec.structs.replace(parsed, worker_id=None))


def lane_bound_as(bound: str, lane: str) -> str:
    """`lane`, for that worker alone that runs of the lane `bound` are bound to, if they are."""
    parsed = parse_lane(bound)
    if parsed.worker_id is None or parsed.strategy is not None:
        return lane
    return str(msgspec.structs.replace(parse_lane(lane), strategy=None, worker_id=parsed.worker_id))


def lanes_it_came_from(lane: str) -> set[str]:
    """The lanes that runs of `lane` may have waited in to be dispatched."""
    parsed = parse_lane(lane)
    if parsed.strategy is None:
        return {lane}
    asked = msgspec.structs.replace(parsed, worker_id=None)
    return {lane, str(asked), str(msgspec.structs.replace(asked, strategy=None))}


def lane_without_worker(lane: str) -> str:
    """The lane of a run of `lane`, which names a worker, once that worker is gone.

    What was bound to it asks nobody again: any worker that matches takes it.
    """
    parsed = parse_lane(lane)
    return str(msgspec.structs.replace(parsed, worker_id=None, strategy=parsed.strategy or QUEUE))


def concurrency_key_of(task_id: int, concurrency: Concurrency) -> str | None:
    """The key whose holders are counted, or None where nothing is limited."""
    if concurrency.limit is None:
        return None
    return concurrency.key or f"task:{task_id}"
