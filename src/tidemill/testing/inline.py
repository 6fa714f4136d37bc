"""The use cases on a database in memory, under a clock that a test moves: no loop, no thread.

scheduler = InlineScheduler()
task = scheduler.create(schedule="@every 10s")
scheduler.pass_time(10)
scheduler.fire()
[run] = scheduler.runs()
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from tidemill.application.claim_runs import claim_runs
from tidemill.application.define_task import create_task
from tidemill.application.dispatch_ready_runs import Dispatched, dispatch_ready_runs
from tidemill.application.fire_due_tasks import Fired, fire_due_tasks
from tidemill.application.manage_workers import register_worker
from tidemill.application.prepare_firings import prepare_firings
from tidemill.application.record_outcomes import Recorded, record_outcomes
from tidemill.application.recover_lost_runs import Recovered, recover_lost_runs
from tidemill.application.renew_leases import renew_leases
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.events import RunEvent
from tidemill.domain.outcome import Outcome, success
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task import Task, TaskStatus
from tidemill.domain.task_run import LeasedRun, RunAttempt, TaskRun
from tidemill.foundation.control_plane import AttemptReport, Cause, ClaimedRun, Renewal
from tidemill.foundation.listing import PageRequest, RunFilter
from tidemill.foundation.store import Reads, Transaction
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import FakeClock

P = ParamSpec("P")
T = TypeVar("T")

LEASE = timedelta(seconds=10)
BATCH = 500


class InlineStore(Protocol):
    """A store whose transactions are done when the call returns."""

    def transact_now(self, body: Callable[[Transaction], T]) -> T: ...

    def read_now(self, body: Callable[[Reads], T]) -> T: ...


class InlineScheduler:
    """Every arrow of the story as one call, at the instant that `clock` shows.

    Where it `prepares`, what comes due while time passes was prepared before.
    """

    def __init__(
        self,
        *,
        prepares: bool = False,
        clock: FakeClock | None = None,
        store: InlineStore | None = None,
    ) -> None:
        self.prepares = prepares
        self.strategies = built_in_strategies()
        self.clock = clock or FakeClock()
        self.store = store or InlineSqliteStore(self.clock, MemoryWakeups(), schema=empty_schema())

    def do(
        self,
        use_case: Callable[Concatenate[Transaction, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run a use case as one transaction."""
        return self.store.transact_now(
            lambda transaction: use_case(transaction, *arguments, **named)
        )

    def look(self, body: Callable[[Reads], T]) -> T:
        """Read what is committed."""
        return self.store.read_now(body)

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds go by."""
        if self.prepares:
            self.do(prepare_firings, timedelta(seconds=seconds), BATCH)
        self.clock.advance(timedelta(seconds=seconds))

    # tasks

    def create(
        self, name: str = "a-task", *, status: TaskStatus = TaskStatus.ACTIVE, **fields: Any
    ) -> Task:
        """Define a task; what is not said is what the builders say."""
        return self.do(create_task, definition(name, **fields), self.strategies.check, status)

    def task(self, task: Task) -> Task:
        """The task as it stands now; KeyError where it was deleted."""
        return self.store.transact_now(lambda t: t.tasks([task.id]))[task.id]

    # the story

    def fire(self, limit: int = BATCH) -> Fired:
        """Fire what is due."""
        return self.do(fire_due_tasks, limit, self.strategies)

    def trigger(self, task: Task, **wish: Any) -> TaskRun:
        """Ask for one run."""
        return self.do(trigger_runs, [TriggerRequest(task=task.id, **wish)])[0]

    def dispatch(self, limit: int = BATCH) -> Dispatched:
        """Hand ready runs over."""
        return self.do(dispatch_ready_runs, limit, self.strategies)

    def register(self, worker_id: str = "worker-1", **fields: Any) -> str:
        """Let a worker in; its id."""
        return self.do(register_worker, worker(worker_id, **fields)).id

    def claim(self, *run_ids: int, worker_id: str = "worker-1") -> list[ClaimedRun]:
        """Take these runs for a worker."""
        return self.do(claim_runs, worker_id, run_ids, LEASE)

    def start(self, run: TaskRun, worker_id: str = "worker-1") -> LeasedRun:
        """Dispatch what is ready and claim this run; the run as it was claimed."""
        self.dispatch()
        [claimed] = self.claim(run.id, worker_id=worker_id)
        return claimed.run

    def renew(self, *held: LeasedRun, worker_id: str = "worker-1") -> Renewal:
        """A heartbeat that keeps these runs."""
        return self.do(renew_leases, worker_id, {run.id: run.fence for run in held}, LEASE)

    def record(
        self, held: LeasedRun, outcome: Outcome | None = None, cause: Cause = "itself"
    ) -> Recorded:
        """Report how the attempt of a claimed run ended; without an outcome it succeeded."""
        report = AttemptReport(held.id, held.fence, cause, outcome or success(), 0)
        return self.do(record_outcomes, [report])

    def recover(self, expected: datetime | None = None) -> Recovered:
        """One sweep; `expected` is what the clock should show."""
        return self.do(
            recover_lost_runs,
            BATCH,
            claim_within=timedelta(seconds=30),
            silent_after=LEASE,
            expected=expected,
        )

    # what is there

    def runs(self, task: Task | None = None, **wanted: Any) -> list[TaskRun]:
        """Runs in the order of their ids; those of one task where one is given."""
        filter_ = RunFilter(task_id=task.id if task else None, **wanted)
        return self.look(lambda reads: reads.list_runs(filter_, PageRequest("id", 1_000_000)).items)

    def run(self, run: LeasedRun | int) -> TaskRun:
        """The run as it stands now."""
        found = self.look(lambda reads: reads.run(run if isinstance(run, int) else run.id))
        assert found is not None
        return found

    def events(self, run: LeasedRun) -> Sequence[RunEvent]:
        """All that was told of a run."""
        return self.look(lambda reads: reads.run_events(run.id, 0, 1_000_000))

    def attempts(self, run: LeasedRun) -> Sequence[RunAttempt]:
        """All attempts of a run."""
        return self.look(lambda reads: reads.attempts(run.id))
