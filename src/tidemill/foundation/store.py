"""What the product asks of a database.

A use case is a plain function of a `Transaction`; `Store.transact` runs it as one transaction.
It may be run again from the start when the database asks for that, so it must change nothing but
the transaction. Each method is one statement for a whole batch, whatever its size.

All instants come from the database (`Transaction.now`), never from the caller's clock.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from tidemill.domain.artifact import Artifact, ArtifactId
from tidemill.domain.calls import LastRun
from tidemill.domain.dependency import Condition, Edge, Tally
from tidemill.domain.duty import Duty, DutyLease
from tidemill.domain.events import RunEvent
from tidemill.domain.flow_run import FlowRun, Member
from tidemill.domain.mapping import Source
from tidemill.domain.overlap import UnfinishedRun
from tidemill.domain.prepared_firing import PreparedFiring
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Priority, Task, TaskDefinition
from tidemill.domain.task_run import (
    InLine,
    LeasedRun,
    ReadyRun,
    RunAttempt,
    RunChange,
    RunHead,
    Shard,
    Success,
    TaskRun,
)
from tidemill.domain.worker import Worker
from tidemill.foundation.listing import (
    FlowRunFilter,
    LaneDepth,
    LedgerCount,
    Page,
    PageRequest,
    RunFilter,
    RunStats,
    TaskFilter,
    WorkerFilter,
)
from tidemill.foundation.wakeups import Topic

T = TypeVar("T")


class DueTask(msgspec.Struct, frozen=True):
    """A task whose time has come.

    It is plain where its next firing was prepared, is plain and in time, the following one is not
    due as well, no other run of the task is unfinished unless they may overlap, and no task depends
    on it.
    """

    id: int
    is_plain: bool


class TaskAdvance(msgspec.Struct, frozen=True):
    """Where a task's schedule stands after a firing."""

    task_id: int
    next_run_at: datetime | None
    last_run_at: datetime | None


class TaskEdge(msgspec.Struct, frozen=True):
    """One task names another as its upstream."""

    task_id: int
    upstream_task_id: int
    condition: Condition


class RunEnd(msgspec.Struct, frozen=True):
    """How a run ended; of a run that will never be there, without an id."""

    run_id: int | None
    status: RunStatus


class PlaceInFlow(msgspec.Struct, frozen=True):
    """What a run of a flow run finds there: the results of its upstream runs, by task, which part
    of a whole it is, and when the latest successful run of its task completed."""

    upstream: dict[str, Any]
    shard: Shard | None
    previous_success: datetime | None


class UpstreamEnd(msgspec.Struct, frozen=True):
    """How one of those runs stands that a waiting run waits for.

    `run_id` is None where there will never be one; `is_part` of what a run was split or mapped
    into. `result_bytes` is the size of its result, as it is kept.
    """

    downstream_run_id: int
    run_id: int | None
    task_name: str
    status: RunStatus
    reason: str | None
    is_part: bool
    result_bytes: int


class WaitingRun(msgspec.Struct, frozen=True):
    """As much of a waiting run as its expression sees."""

    id: int
    scheduled_for: datetime
    parameters: dict[str, Any]


class LogLines(msgspec.Struct, frozen=True):
    """Consecutive lines of one stream of a run; the fields are the columns of `run_logs`."""

    run_id: int
    first_seq: int
    last_seq: int
    attempt: int
    stream: str
    at: datetime
    text: str


class TaskVersion(msgspec.Struct, frozen=True):
    """A definition as it was in force; the fields are the columns of `task_versions`."""

    task_id: int
    version: int
    definition: TaskDefinition
    created_at: datetime


class EventPosition(msgspec.Struct, frozen=True, order=True):
    """A place in the order in which events were committed, which is not that of their ids.

    As text it is `12`, or `7-12` where the database numbers its transactions.
    """

    transaction: int = 0
    id: int = 0

    @classmethod
    def parse(cls, text: str) -> "EventPosition":
        """The inverse of `str`."""
        transaction, _, id = text.rpartition("-")
        return cls(int(transaction or 0), int(id))

    def __str__(self) -> str:
        return f"{self.transaction}-{self.id}" if self.transaction else str(self.id)


class StoredEvent(msgspec.Struct, frozen=True):
    """An event and its place among those of all runs."""

    position: EventPosition
    event: RunEvent


class AnswerKey(NamedTuple):
    """An idempotency key, within what it was given for."""

    scope: str
    key: str


class StoredAnswer(msgspec.Struct, frozen=True):
    """What was answered to the first call that carried an idempotency key."""

    scope: str
    key: str
    request_hash: str
    answer: Any
    created_at: datetime

    @property
    def name(self) -> AnswerKey:
        """What it is found by."""
        return AnswerKey(self.scope, self.key)


class Reads(Protocol):
    """Looking without locking. Decides nothing: what is read may be old already."""

    now: datetime

    def task(self, task_id: int, namespace: str | None = None) -> Task | None:
        """The task that was not deleted; in `namespace` only, where one is given."""

    def task_named(self, namespace: str, name: str) -> Task | None:
        """The task of this name that was not deleted."""

    def run(self, run_id: int, namespace: str | None = None) -> TaskRun | None:
        """One run; in `namespace` only, where one is given."""

    def definitions(
        self, keys: Collection[tuple[int, int]]
    ) -> Mapping[tuple[int, int], TaskDefinition]:
        """The definitions of (task id, version) pairs; a version never changes."""

    def flow_run(self, flow_run_id: str, namespace: str | None = None) -> FlowRun | None:
        """One flow run; in `namespace` only, where one is given."""

    def members(self, flow_run_id: str, after: int, limit: int) -> list[Member]:
        """Runs of a flow run with ids above `after`, in the order of their ids."""

    def members_by_id(self, run_ids: Collection[int]) -> dict[int, Member]:
        """These runs, of whatever flow runs."""

    def flow_run_started_at(self, flow_run_id: str) -> datetime | None:
        """When the first of its runs started."""

    def critical_path(self, flow_run_id: str) -> list[int]:
        """The runs that a flow run took as long for as it did, in the order of time.

        From the run that ended last back to the one of its upstream runs that ended last, and so
        on: had any of them been faster, so had the whole. Runs that never started took no time.
        What a run became waited for what the run did. Only its own runs count.
        """

    def upstream_counts(self, run_ids: Collection[int]) -> dict[int, int]:
        """How many edges lead into each of these runs that has any."""

    def carried_runs(self, flow_run_id: str, after: int, limit: int) -> list[Member]:
        """As `members`, of the runs of earlier flow runs that this one, which retries the last of
        them, carries over."""

    def edges_into(self, run_ids: Collection[int]) -> list[Edge]:
        """What each of these runs waited for, or still does."""

    def workers_alive(self) -> list[Worker]:
        """Workers that are active or draining."""

    def worker(self, worker_id: str) -> Worker | None:
        """One worker; locked, where this is a transaction."""

    def duties(self) -> list[DutyLease]:
        """Every duty that was ever taken, and by whom last."""

    def key_holders(self, keys: Collection[str]) -> dict[str, int]:
        """How many runs are dispatched, running or cancelling under each concurrency key."""

    def key_runners(self, keys: Collection[str]) -> dict[str, int]:
        """How many runs are running or cancelling under each concurrency key."""

    def runs_to_begin(
        self, run_ids: Collection[int], beside: Collection[int]
    ) -> tuple[list[TaskRun], set[int]]:
        """Those of these runs that wait for upstream runs still, or for the turn of their flow run,
        locked; and those of their tasks of which `unfinished_runs` knows a run that is not one of
        `beside`."""

    def unfinished_runs(self, task_ids: Collection[int]) -> list[UnfinishedRun]:
        """The unfinished runs of these tasks that a firing may meet, oldest first.

        Left out are backfills, runs that wait for others or for the turn of their flow run, and
        runs that were asked for at an hour still to come.
        """

    # lists, newest or smallest first as asked; every one by an index

    def list_tasks(self, wanted: TaskFilter, page: PageRequest) -> Page[Task]:
        """Tasks that were not deleted."""

    def list_runs(self, wanted: RunFilter, page: PageRequest) -> Page[TaskRun]:
        """Runs."""

    def list_flow_runs(self, wanted: FlowRunFilter, page: PageRequest) -> Page[FlowRun]:
        """Flow runs."""

    def list_workers(self, wanted: WorkerFilter, page: PageRequest) -> Page[Worker]:
        """Workers, by id, those that left included."""

    def list_versions(self, task_id: int, page: PageRequest) -> Page[TaskVersion]:
        """The versions of a task, newest first."""

    def attempts(self, run_id: int) -> list[RunAttempt]:
        """All attempts of a run, in order, the one under way included."""

    def run_events(self, run_id: int, after: int, limit: int) -> list[RunEvent]:
        """Events of a run with `seq` above `after`, in order."""

    def run_logs(self, run_id: int, after: int, limit: int) -> list[LogLines]:
        """Output of a run with lines above `after`, in order, at most `limit` rows."""

    def artifact(self, id: ArtifactId, namespace: str | None = None) -> Artifact | None:
        """What is known of a large result; in `namespace` only, where one is given."""

    def artifact_chunk(
        self, id: ArtifactId, number: int, namespace: str | None = None
    ) -> bytes | None:
        """The piece of this number, from 0, of a large result; as `artifact`."""

    def events_after(
        self, position: EventPosition, namespace: str | None, limit: int
    ) -> list[StoredEvent]:
        """Events of all runs, in the order in which they were committed: none will yet come before
        one that was told."""

    def last_event(self) -> EventPosition:
        """The place of the newest event that `events_after` would tell."""

    # summaries

    def ledger_counts(self, task_id: int, since: datetime, until: datetime) -> list[LedgerCount]:
        """What became of the firings with a row in [since, until)."""

    def ledger_rows(
        self, task_id: int, since: datetime, until: datetime, limit: int
    ) -> list[TaskRun]:
        """The rows of firings in [since, until), oldest first."""

    def run_stats(
        self, since: datetime, task_id: int | None = None, worker_id: str | None = None
    ) -> list[RunStats]:
        """Runs that ended since, by status, of one task or worker or of all."""

    def lane_depths(self) -> list[LaneDepth]:
        """Every lane in which something waits, runs or was lately started."""

    def ready_lanes(self) -> dict[str, int]:
        """Lanes that have ready runs, each with how many of its runs are dispatched."""

    def ready_before(self, run: TaskRun, limit: int) -> int:
        """How many ready runs of its lane start before this one, counted up to `limit`."""

    def running_counts(self) -> dict[str, int]:
        """How many runs each worker that has any holds a lease on."""

    def dispatched_lanes(self) -> dict[str, int]:
        """Lanes that have dispatched runs, each with how many."""

    def shards(self, run_ids: Collection[int]) -> dict[int, Shard]:
        """Which part of the work is whose, of those of these runs that are shards."""

    def status_counts(self) -> dict[RunStatus, int]:
        """How many runs are in each unfinished status."""


class Transaction(Reads, Protocol):
    """One transaction. Rows that it reads to change them are locked against others.

    `readied` counts, by lane, the runs that it made ready, that any worker of the lane may have,
    and that nobody has yet; CLAIMABLE is announced for them.
    """

    readied: Counter[str]

    def give_way(self) -> None:
        """Let others have a turn, and show that this goes on.

        Whoever works for long between two statements calls it: a database may end a transaction
        that is silent for seconds, as one whose process stands still.
        """

    def announce(self, *topics: Topic) -> None:
        """Wake the listeners of these topics once this is committed."""

    # tasks

    def due_tasks(self, limit: int) -> list[DueTask]:
        """Active tasks whose next_run_at has come, oldest first, locked; rows others hold are left
        out."""

    def next_due_at(self) -> datetime | None:
        """The earliest next_run_at of the active tasks."""

    def next_due_after(self, until: datetime) -> datetime | None:
        """The earliest next_run_at after this instant."""

    def unprepared_tasks(self, until: datetime, limit: int) -> list[Task]:
        """Active tasks that fire from now on up to `until` and whose next firing is not prepared,
        earliest first; rows others hold are left out."""

    def save_prepared(self, firings: Sequence[PreparedFiring]) -> None:
        """Keep these firings in place of earlier ones of their tasks."""

    def fire_plainly(
        self, task_ids: Collection[int], ranks: Mapping[Priority, datetime]
    ) -> list[tuple[str, bool]]:
        """Make a run of the next firing of each of these due tasks, which are locked and plain;
        of each, the lane, and whether it counts against a concurrency key.

        Each run is the one that `fired_run` describes, with the rank of its priority; RunCreated
        is told, the schedule moves on and `last_run_at` is now. A run that exists already is left
        as it is, and the schedule moves on.
        """

    def tasks(self, task_ids: Collection[int]) -> dict[int, Task]:
        """These tasks, locked in the order of their ids; deleted ones are left out."""

    def tasks_named(self, namespace: str, names: Collection[str]) -> dict[str, Task]:
        """The tasks of these names, locked; deleted ones are left out."""

    def tasks_in_force(self, task_ids: Collection[int]) -> dict[int, Task]:
        """These tasks, not locked; deleted ones are left out."""

    def tasks_in_force_named(self, namespace: str, names: Collection[str]) -> dict[str, Task]:
        """The tasks of these names, not locked; deleted ones are left out."""

    def note_last_run(self, task_ids: Collection[int]) -> None:
        """Set `last_run_at` of these tasks to now: a run of each was made."""

    def advance_tasks(self, advances: Sequence[TaskAdvance]) -> None:
        """Move schedules on."""

    def insert_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Store new tasks and their first versions; as they are then, in order.

        Raises Conflict where a name is taken.
        """

    def replace_tasks(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Store the second of each pair in place of the first, and its definition if the version
        is new.

        Raises VersionMismatch where a row is not at the first one's version any more, and Conflict
        where the second has another name that is taken.
        """

    def delete_tasks(self, task_ids: Collection[int]) -> None:
        """Mark as deleted: their names are free again, their history stays."""

    def lock_dependencies(self, namespaces: Collection[str]) -> None:
        """Until the commit nobody else who calls this changes what depends on what there.

        Whoever does, calls it before all else that locks: so they wait for one another in a row,
        and never in a circle.
        """

    def upstream_edges(self, namespace: str) -> dict[int, list[int]]:
        """Every dependency of a namespace: task id → the ids of its upstream tasks."""

    def replace_dependencies(
        self, namespace: str, task_ids: Collection[int], edges: Sequence[TaskEdge]
    ) -> None:
        """Store `edges`, and forget all that those of `task_ids` depended on before."""

    def task_calls(self, namespace: str) -> dict[int, int]:
        """Who calls whom in a namespace: task id → the id of the task that it calls."""

    def add_task_calls(self, namespace: str, calls: Mapping[int, int]) -> None:
        """Store which task calls which."""

    def forget_task_calls(self, task_ids: Collection[int]) -> None:
        """These call no task any more."""

    # flow runs

    def task_edges_below(self, task_ids: Collection[int]) -> list[TaskEdge]:
        """Every edge into these tasks, and into all that can be reached downstream from them."""

    def open_flow_runs(self, flow_runs: Sequence[FlowRun], tallies: Sequence[Tally]) -> None:
        """Store new flow runs, and the tallies of what waits in them."""

    def flow_runs(self, flow_run_ids: Collection[str]) -> dict[str, FlowRun]:
        """These flow runs, locked: nobody else counts in them until the commit."""

    def count_down(self, ended: Mapping[str, int]) -> dict[str, FlowRun]:
        """Of each of these flow runs so many runs have ended, where it has not itself; all as they
        stand then, locked: nobody else counts in them until the commit."""

    def unfinished_members(self, flow_run_ids: Collection[str]) -> list[int]:
        """The runs of these flow runs that have not ended, in the order of their ids."""

    def save_flow_runs(self, flow_runs: Sequence[FlowRun]) -> None:
        """Store the status, counts, deadline and end of flow runs."""

    def carry_over(self, flow_run_id: str, run_ids: Collection[int]) -> None:
        """Note that a flow run carries these runs over: they are kept as long as it is."""

    def overdue_flow_runs(self, limit: int) -> list[str]:
        """Flow runs past their deadline of which a run has not ended and nobody holds it, the
        longest overdue first."""

    def idle_runs_of(self, flow_run_ids: Collection[str]) -> list[RunHead]:
        """The heads of the unfinished runs of these flow runs that nobody holds, locked."""

    def open_calls(self, run_ids: Collection[int]) -> list[str]:
        """The flow runs that these runs called and that have not ended, in the order of ids."""

    def tasks_calling(self, flow_run_ids: Collection[str]) -> set[tuple[str, int]]:
        """Each of these flow runs with the task of the run that called it, and with those of the
        runs that called for that one, and so on upwards."""

    def overlooked_calls(self, limit: int) -> list[FlowRun]:
        """Called flow runs that have ended, while the attempt that they are for still waits."""

    def last_runs_of(self, flow_run_ids: Collection[str]) -> list[LastRun]:
        """The runs of these flow runs on which no other in them depends, in the order of parts."""

    def keep_backfill(self, backfill_id: str, max_parallel: int) -> None:
        """Store a backfill whose flow runs take turns."""

    def waiting_backfills(self) -> list[str]:
        """The backfills of which flow runs wait for their turn."""

    def next_flow_runs(self, backfill_ids: Collection[str]) -> list[FlowRun]:
        """For each of these backfills, as many of the flow runs that wait for their turn as may
        be under way beside those that are: those of the earliest fire times, locked.

        Until the commit nobody else counts what is under way of these backfills to decide.
        """

    def forget_backfills(self, backfill_ids: Collection[str]) -> None:
        """Delete those of these backfills of which no flow run waits."""

    def runs_without_turn(self, flow_run_ids: Collection[str]) -> list[int]:
        """The runs of these flow runs that are held for TURN."""

    def end_edges(self, ends: Sequence[RunEnd]) -> tuple[list[Edge], dict[int, Tally]]:
        """Count the edges from these runs, once each; those that were counted by this call, and
        the tallies, as they were before, of whoever of their downstream runs still waits."""

    def add_edges(self, edges: Sequence[Edge]) -> None:
        """Store further edges."""

    def open_edges_from(self, run_ids: Collection[int]) -> list[Edge]:
        """The edges from these runs that are not yet counted."""

    def open_edges_below(self, run_ids: Collection[int]) -> list[Edge]:
        """Every edge not yet counted that can be reached downstream from these runs."""

    def outside_edges(self, limit: int) -> list[tuple[Edge, RunEnd]]:
        """Edges from outside their flow run whose upstream task has finished a run for the same
        or a later period, each with its latest: of one that was split or mapped, and of which all
        parts have ended, the first."""

    def further_parts(self, run_ids: Collection[int]) -> dict[int, list[RunEnd]]:
        """Of those of these runs that are the first of several, the others."""

    def take_outside_edges(self, found: Sequence[tuple[Edge, RunEnd]]) -> list[Edge]:
        """Count these, once each; those that were counted by this call."""

    def edges_from_outside(self, task_ids: Collection[int]) -> list[Edge]:
        """Edges that wait for a run of one of these tasks, outside their flow runs."""

    def tallies(self, run_ids: Collection[int]) -> dict[int, Tally]:
        """The tallies of those of these runs that still wait."""

    def save_tallies(self, tallies: Collection[Tally]) -> None:
        """Store what was counted."""

    def forget_tallies(self, run_ids: Collection[int]) -> None:
        """These wait no longer."""

    def upstream_ends(self, run_ids: Collection[int]) -> list[UpstreamEnd]:
        """What these runs wait for, as it stands, in the order of parts.

        A run counts as what its edge was counted as; until then it has its own status.
        """

    def results(self, run_ids: Collection[int]) -> dict[int, Any]:
        """The results of these runs."""

    def waiting_runs(self, run_ids: Collection[int]) -> dict[int, WaitingRun]:
        """What the expressions of these runs see of them, not locked."""

    def unhandled_ends(self, flow_run_ids: Collection[str]) -> dict[str, dict[str, int]]:
        """For each flow run, how many of its runs ended in which status with no run downstream
        of them that was to start because, or in spite, of it.

        A run that was skipped because its expression could not be told counts as failed.
        """

    def places_in_flow(self, run_ids: Collection[int]) -> dict[int, PlaceInFlow]:
        """For each of these runs, all in flow runs, its place there: the result of an upstream run
        that was split or mapped is a list of those of all parts, in their order.

        A part has those of the whole.
        """

    def map_sources(self, run_ids: Collection[int]) -> dict[int, Source]:
        """What each of these runs is mapped over."""

    def items_not_started(self, run_ids: Collection[int]) -> list[TaskRun]:
        """What has never started of the parts that one of these runs, which are in flow runs, is
        another of; locked."""

    # runs

    def insert_runs(self, runs: Sequence[TaskRun]) -> list[TaskRun]:
        """Store new runs and the events that led to them; returns them with their ids, in order.

        A run whose (task_id, trigger_key, scheduled_for) exists already is left out: the firing
        was made before.
        """

    def runs(self, run_ids: Collection[int], namespace: str | None = None) -> dict[int, TaskRun]:
        """These runs, locked; in `namespace` only, where one is given."""

    def run_heads(self, run_ids: Collection[int]) -> dict[int, RunHead]:
        """The heads of these runs, locked."""

    def change_runs(self, changes: Sequence[RunChange]) -> None:
        """Apply guarded changes and append their events; at most one change per run.

        Raises ConcurrentChange where a row is no longer what `before` says.
        """

    def bound_runs(self, run_ids: Collection[int]) -> list[TaskRun]:
        """Those of these dispatched runs that have a concurrency key or a deadline, locked."""

    def claim(
        self, run_ids: Collection[int], worker_id: str, until: datetime | None
    ) -> list[LeasedRun]:
        """Give those of these runs that are dispatched to a worker; as they are then, in any order.

        Each is running, its attempt and fence are one higher, its lease ends at `until`, or it
        has none, and what
        the attempt before left of reason, error and exit code is gone; the attempt is stored and
        RunStarted told. The others are left as they are.
        """

    def claim_unbound(
        self, run_ids: Collection[int], worker_id: str, until: datetime
    ) -> list[LeasedRun]:
        """As `claim`, but for those that have a concurrency key or a deadline."""

    def first_in_line(self, lane: str, limit: int) -> list[InLine]:
        """The ready runs of a lane that should start first and are not overdue, in order."""

    def claim_ready(
        self, lane: str, worker_id: str, until: datetime, at_most: int
    ) -> list[LeasedRun]:
        """Dispatch and claim ready runs of a lane at once, those first that should start first.

        As `claim`, for an active worker only, and with RunDispatched told as well. Runs with a
        concurrency key, and those that are overdue, are left; so are those that others hold.
        """

    def record_successes(self, successes: Sequence[Success]) -> tuple[list[RunHead], set[int]]:
        """End the running runs that are held with these fences; as they are then, in any order,
        and those of their tasks of which other runs are held for OVERLAP or CATCH_UP.

        Each has succeeded, with the result, exit code and number of its last line, and no error;
        its attempt is closed and RunFinished told. The others are left as they are. At most one
        success for each run.
        """

    def runs_of_tasks(
        self, task_ids: Collection[int], statuses: Collection[RunStatus]
    ) -> list[TaskRun]:
        """Runs of these tasks in these statuses, locked."""

    def due_holds(self, limit: int) -> list[TaskRun]:
        """Pending and retrying runs held for TIME whose not_before has come."""

    def next_hold_ends_at(self) -> datetime | None:
        """The earliest not_before of the runs held for TIME."""

    def has_ready_runs(self, lanes: Collection[str]) -> bool:
        """Whether any of these lanes has a ready run."""

    def ready_runs(self, lane: str, limit: int) -> list[ReadyRun]:
        """Pending runs without a hold, by rank, then scheduled_for, locked."""

    def dispatch(self, runs: Sequence[ReadyRun | RunHead]) -> None:
        """Mark these runs, which are ready and locked, as dispatched and tell RunDispatched."""

    def runs_to_place(self, lane: str, limit: int) -> list[TaskRun]:
        """As `ready_runs`, the whole rows; those that others hold are left out."""

    def dispatched_runs(self, lanes: Collection[str]) -> list[TaskRun]:
        """The dispatched runs of these lanes, locked; those that others hold are left out."""

    def lanes_dispatched_before(self, before: datetime) -> list[str]:
        """Lanes with a run that was dispatched before this instant and is still not claimed."""

    def dispatched_before(self, lane: str, before: datetime, limit: int) -> list[TaskRun]:
        """Such runs of a lane, the oldest first, locked; those that others hold are left out."""

    def take_turns(self, lane: str, count: int) -> int:
        """Take so many of a lane's turns, for ever; the number of the first, from 0."""

    def held_for_tasks(self, task_ids: Collection[int]) -> list[TaskRun]:
        """Runs of these tasks held for OVERLAP or CATCH_UP, oldest scheduled_for first."""

    def tasks_waited_for_in_vain(self, task_ids: Collection[int] | None = None) -> list[int]:
        """Those of these tasks, or of all, of which runs are held for OVERLAP or CATCH_UP though no
        other is unfinished."""

    def held_for_keys(self, room: Mapping[str, int]) -> list[TaskRun]:
        """For each key, as many of its runs held for LIMIT as there is room, by rank, then id."""

    def held_keys(self) -> dict[str, int]:
        """Concurrency keys under which runs are held for LIMIT, each with their largest limit."""

    def previous_successes(self, task_ids: Collection[int]) -> dict[int, datetime]:
        """When the latest successful run of each task completed."""

    def expired_leases(self, limit: int) -> list[TaskRun]:
        """Runs whose lease is over."""

    def runs_held_by(self, worker_ids: Collection[str]) -> list[TaskRun]:
        """Runs that these workers hold a lease on."""

    def overdue_runs(self, limit: int) -> list[TaskRun]:
        """Not yet running, and past their queue_deadline_at or deadline_at."""

    def stuck_dispatches(self, before: datetime, limit: int) -> list[TaskRun]:
        """Dispatched before this instant and still not claimed."""

    # attempts, leases, output

    def close_attempts(self, ended: Sequence[RunAttempt]) -> None:
        """Write how attempts ended, each once; one that is closed already stays as it is."""

    def renew_leases(
        self, worker_id: str, fences: Mapping[int, int], until: datetime
    ) -> dict[int, RunStatus]:
        """Extend the leases still held with these fences (run id → fence); their statuses."""

    def append_logs(self, lines: Sequence[LogLines]) -> None:
        """Store output; what is there already under the same number stays."""

    def last_log_seqs(self, run_ids: Collection[int]) -> dict[int, int]:
        """The number of the last line stored of each of these runs that has any."""

    def keep_artifact(self, artifact: Artifact) -> None:
        """Store what is known of a large result; what is there already stays as it is."""

    def keep_chunk(self, id: ArtifactId, number: int, content: bytes) -> None:
        """Store a piece of it; what is there already under this number stays as it is."""

    def note_progress(self, run_id: int, **columns: Any) -> None:
        """Set columns of a run that its life does not turn on; no event is told."""

    # workers

    def save_worker(self, worker: Worker) -> None:
        """Insert or replace."""

    def delete_worker(self, worker_id: str) -> None:
        """Forget it."""

    def silent_workers(self, before: datetime) -> list[Worker]:
        """Active or draining workers whose last heartbeat is older than this instant."""

    # duties

    def take_duty(self, duty: Duty, holder: str, until: datetime) -> int | None:
        """Make a duty that nobody has, or whose lease is over, this holder's until then.

        Its fence, one higher than that of the holder before; None where somebody has it. Until the
        commit nobody else takes it.
        """

    def renew_duty(self, duty: Duty, fence: int, until: datetime) -> bool:
        """Extend the lease that was taken with this fence and is not over; whether there is one.

        Until the commit nobody else takes it: what this transaction does as well, its holder does.
        """

    def give_up_duty(self, duty: Duty, fence: int) -> None:
        """End the lease that was taken with this fence now; one that is over stays as it is."""

    # a clock that was set

    def date_leases(self, after: datetime, until: datetime) -> None:
        """Let the leases that end later than `after` end at `until`."""

    def date_heartbeats(self, after: datetime) -> None:
        """Let the active or draining workers that were heard of later than `after` be so now."""

    # idempotency

    def hold_keys(self, keys: Collection[AnswerKey]) -> set[AnswerKey]:
        """Keep everybody else from holding these until the commit; those that are held so.

        The others somebody has, whose answer is not stored yet. Does not wait.
        """

    def stored_answers(self, keys: Collection[AnswerKey]) -> dict[AnswerKey, StoredAnswer]:
        """What was answered to these within their 24 hours."""

    def replace_answer(self, answer: StoredAnswer) -> None:
        """Keep this one in place of what its key has; the caller has seen to it that nobody else
        does so meanwhile."""

    def store_answers(self, answers: Sequence[StoredAnswer]) -> None:
        """Keep answers under keys that have none within its 24 hours."""

    # history

    def prune(self, completed_before: datetime, limit: int) -> int:
        """Delete up to `limit` finished runs and all that belongs to them; how many went."""

    def prune_workers(self, gone_before: datetime) -> int:
        """Delete workers that left or were lost, and were last heard of before this instant."""

    def prune_answers(self, created_before: datetime) -> int:
        """Delete stored answers older than this instant."""


class Store(Protocol):
    """A database that holds everything."""

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        """Run `body` as one transaction and return what it returns, once that is durable.

        Raises whatever `body` raises, with nothing changed, and Unavailable where the database
        does not answer or is full.
        """

    async def read(self, body: Callable[[Reads], T]) -> T:
        """Run `body` on a snapshot, beside whatever is being written."""

    async def check(self) -> None:
        """Raises Unavailable where `transact` would, or the schema is not right; changes nothing.

        Whoever stops waiting for it leaves nothing behind.
        """

    async def close(self) -> None:
        """Finish what was begun; may be called twice."""
