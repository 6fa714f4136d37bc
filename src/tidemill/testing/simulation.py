"""The production use cases under a virtual clock, with seeded crashes, delays and reordering.

Nothing here waits or sleeps: an agenda of what happens when is worked off in order of virtual
time, and everything random comes from one seed, so that a seed that fails, fails again.

    Simulation(seed=7).run()

raises `Violation` where an invariant of the product's semantics does not hold (the numbers in the
messages are theirs).
"""

import heapq
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from tidemill.application.backfill_task import backfill_task
from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.claim_runs import claim_runs
from tidemill.application.define_task import create_task, delete_task, replace_task
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.fire_due_tasks import fire_due_tasks
from tidemill.application.go_on import report_and_go_on
from tidemill.application.manage_workers import drain_worker, register_worker, sign_off_worker
from tidemill.application.next_in_line import claim_next
from tidemill.application.pause_task import pause_task, resume_task
from tidemill.application.prepare_firings import prepare_firings
from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.recover_lost_runs import recover_lost_runs, recover_unpublished_runs
from tidemill.application.renew_leases import renew_leases
from tidemill.application.retry_flow_run import Versions, retry_flow_run
from tidemill.application.retry_runs import retry_runs
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.dependency import RULES, Condition, Edge, Tally, Verdict
from tidemill.domain.events import EventType, RunEvent
from tidemill.domain.flow_run import FlowRun, FlowStatus
from tidemill.domain.gates import serving_workers
from tidemill.domain.lease import MAX_LOSSES, stop_before
from tidemill.domain.mapping import NoItems, Source, items_of
from tidemill.domain.new_run import SCHEDULE_KEY
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import FINAL, LEASED, RunStatus, may_follow
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task import (
    CALL,
    Concurrency,
    Dependency,
    MapOver,
    Misfire,
    Retry,
    StrategyChoice,
    Task,
    TaskDefinition,
    parse_lane,
    schedule_of,
)
from tidemill.domain.task_run import CALLER, AttemptOutcome, LeasedRun, TaskRun, Trigger
from tidemill.errors import Conflict, InvalidInput, KeyReused, NotFound
from tidemill.foundation.control_plane import AttemptReport, Cause, ClaimedRun
from tidemill.foundation.listing import FlowRunFilter, PageRequest, RunFilter
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.store import Transaction
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import FakeClock

_SLOTS = 3  # of each worker
LEASE = timedelta(seconds=10)
HEARTBEAT = timedelta(seconds=2)
CLAIM_WITHIN = timedelta(seconds=8)
BATCH = 50

_STRATEGIES: tuple[StrategyChoice, ...] = (
    "queue", "queue", "queue", "round_robin", "least_loaded", "affinity", "broadcast",
    {"name": "affinity", "key": "shared"},
    {"name": "shard", "count": 3},
    {"name": "composite", "strategies": ["least_loaded", "round_robin"]},
    {"name": "composite", "strategies": [{"name": "shard", "count": 2}, "affinity"]},
)  # fmt: skip
# Expressions, and the same as the checks understand them: by the status of the first upstream task.
_EXPRESSIONS: dict[str, Callable[[str], bool]] = {
    '{first}.status == "succeeded"': lambda status: status == "succeeded",
    '{first}.status in ["failed", "skipped"]': lambda status: status in {"failed", "skipped"},
    '{first}.status != "succeeded" || {first}.result == null': lambda _: True,
    "{first}.result.rows > 1": lambda _: False,  # it cannot be told
}
_WHOLE = [each for each in _STRATEGIES if not built_in_strategies().build(each).splits]
_WORST_FIRST = ("failed", "timed_out", "cancelled", "skipped", "succeeded")  # of parts
_SCHEDULES = ("@every 7s", "@every 13s", "*/20 * * * * *", "* * * * *", "@after 9s", "@at", None)


class Violation(AssertionError):
    """An invariant does not hold."""


class Simulation:
    """One seed's story: some tasks, two dispatchers, three workers, and what goes wrong."""

    def __init__(self, seed: int, *, minutes: float = 4.0) -> None:
        self.seed = seed
        self.random = random.Random(seed)  # noqa: S311 - a story, not a secret
        self.clock = FakeClock()
        self.checks = _Checks()
        self.store = InlineSqliteStore(
            self.clock, MemoryWakeups(), [self.checks], schema=empty_schema()
        )
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._count = 0
        self._end = self.clock.now() + timedelta(minutes=minutes)
        self.workers = [_Worker(self, number) for number in range(3)]
        self._tasks: dict[int, list[tuple[datetime, Task | None]]] = {}
        self.strategies = built_in_strategies()
        self.strategies.set_default(self.random.choice(_STRATEGIES))
        self._run_of_key: dict[tuple[int, str], int] = {}
        self._bounds: dict[str, int] = {}  # of the flow runs of each backfill
        self.is_calm = False  # after the end nothing goes wrong any more

    def run(self) -> None:
        """Work off the agenda to its end, let everything settle, and check what is left."""
        for _ in range(self.random.randint(1, 5)):
            self._create_task()
        for number in range(2):
            self._start_dispatcher(number)
        for each in self.workers:
            each.start()
        self.later(self._between(1, 5), self._operate)
        self._work_off(lambda: self.clock.now() >= self._end)
        self.is_calm = True
        for task_id in list(self._tasks):
            self._pause(task_id)
        self._give_up_waiting()
        patience = self.clock.now() + timedelta(minutes=30)
        self._work_off(lambda: self._is_settled() or self.clock.now() >= patience)
        self._check_at_rest()

    # the agenda

    def later(self, after: timedelta, act: Callable[[], None]) -> None:
        """Do this then."""
        self._count += 1
        heapq.heappush(self._agenda, (self.clock.now() + after, self._count, act))

    def _work_off(self, is_over: Callable[[], bool]) -> None:
        while self._agenda and not is_over():
            at, _, act = heapq.heappop(self._agenda)
            self.clock.advance(max(at - self.clock.now(), timedelta(0)))
            act()

    def _between(self, least: float, most: float) -> timedelta:
        return timedelta(seconds=self.random.uniform(least, most))

    def is_unlucky(self, chance: float) -> bool:
        """Whether something with this chance goes wrong now."""
        return not self.is_calm and self.random.random() < chance

    def some_result(self) -> Any:
        """What a run returns: mostly a list, which others may be mapped over."""
        if self.random.random() < 0.1:
            return {"no": "list"}
        return [self.random.randint(0, 9) for _ in range(self.random.randint(0, 5))]

    # dispatchers

    def _start_dispatcher(self, number: int) -> None:
        for step in (self._fire, self._prepare, self._dispatch, self._recover):
            self.later(self._between(0, 0.5), partial(self._loop, step))

    def _loop(self, step: Callable[[], None]) -> None:
        pause = self._between(0.05, 1.5)
        if self.is_unlucky(0.01):
            pause = self._between(5, 150)  # killed, and started again after a while
        elif not self.is_unlucky(0.02):
            step()
        self.later(pause, partial(self._loop, step))

    def _fire(self) -> None:
        fired = self.store.transact_now(
            partial(fire_due_tasks, limit=BATCH, strategies=self.strategies)
        )
        self._publish(fired.messages)

    def _prepare(self) -> None:
        horizon = self._between(0.5, 30)
        self.store.transact_now(partial(prepare_firings, horizon=horizon, limit=BATCH))

    def _dispatch(self) -> None:
        dispatched = self.store.transact_now(
            partial(dispatch_ready_runs, limit=BATCH, strategies=self.strategies)
        )
        self._publish(dispatched.messages)
        if not dispatched.has_more:
            self._check_nobody_waits_for_the_gone(self.store.read_now(lambda r: r.ready_lanes()))

    def _publish(self, messages: Sequence[RunMessage]) -> None:
        for message in messages:
            self._send(message)
        if messages and self.is_unlucky(0.03):  # no word of whether the broker has them
            run_ids = [run_id for message in messages for run_id in message.run_ids]
            self.store.transact_now(partial(recover_unpublished_runs, run_ids=run_ids))

    def _send(self, message: RunMessage) -> None:
        serving = [each for each in self.workers if each.serves(message)]
        if not serving or self.is_unlucky(0.05):
            return  # lost
        copies = 2 if self.is_unlucky(0.05) else 1
        for _ in range(copies):
            delay = self._between(0, 6) if self.is_unlucky(0.1) else self._between(0, 0.1)
            chosen = self.random.choice(serving)
            self.later(delay, partial(chosen.receive, message))

    def _recover(self) -> None:
        self.store.transact_now(
            partial(recover_lost_runs, limit=BATCH, claim_within=CLAIM_WITHIN, silent_after=LEASE)
        )
        self._check_nobody_waits_for_the_gone(self.store.read_now(lambda r: r.dispatched_lanes()))
        self._check_callers()
        overdue = self.store.transact_now(lambda t: t.overdue_flow_runs(BATCH))
        self._demand(not overdue, 15, f"something of the overdue flow runs {overdue} may yet start")

    def _check_nobody_waits_for_the_gone(self, lanes: Collection[str]) -> None:
        """None of these lanes is that of a worker that takes no more, or was silent for a lease."""
        named = [lane for lane in lanes if parse_lane(lane).worker_id is not None]
        if not named:
            return
        workers = self.store.read_now(lambda reads: reads.workers_alive())
        for lane in named:
            self._demand(bool(serving_workers(lane, workers)), 24, f"runs wait in {lane}")

    def _check_callers(self) -> None:
        """Whoever waits for what it called has just one flow run that has not ended, and holds no
        lease; no more of them wait under a key than it allows."""
        wanted = RunFilter(status=tuple(LEASED), worker_id=CALLER)
        page = PageRequest("id", 1_000_000)
        callers = self.store.read_now(lambda r: r.list_runs(wanted, page)).items
        waiting: dict[str, list[TaskRun]] = {}
        for run in callers:
            called = self._called_by(run)
            latest = [each for each in called if each.called_by_attempt == run.attempt]
            is_open = [each.completed_at is None for each in called]
            self._demand(
                len(latest) == 1 and latest[0].completed_at is None and sum(is_open) == 1,
                15,
                f"run {run.id} waits in attempt {run.attempt} for {called}",
            )
            self._demand(run.lease_expires_at is None, 20, f"run {run.id} has a lease")
            if run.concurrency_key is not None:
                waiting.setdefault(run.concurrency_key, []).append(run)
        for key, runs in waiting.items():
            most = max(run.concurrency_limit or 0 for run in runs)
            self._demand(len(runs) <= most, 38, f"{len(runs)} runs wait under {key!r}")

    def _called_by(self, run: TaskRun) -> list[FlowRun]:
        wanted, page = FlowRunFilter(called_by=run.id), PageRequest("id", 1_000_000)
        return self.store.read_now(lambda r: r.list_flow_runs(wanted, page)).items

    # people

    def _operate(self) -> None:
        if self.is_calm:
            return
        act = self.random.choice(
            (self._create_task, self._trigger, self._trigger, self._edit, self._pause_one,
             self._resume_one, self._cancel_one, self._delete_one, self._backfill, self._retry_one,
             self._retry_flow_run)
        )  # fmt: skip
        act()
        self.later(self._between(1, 20), self._operate)

    def _create_task(self) -> None:
        wanted = self._definition(f"task-{len(self._tasks) + 1}", list(self._tasks))

        def create(wanted: TaskDefinition) -> Task:
            return self.store.transact_now(lambda t: create_task(t, wanted, lambda d: ()))

        made = self._unless_in_a_circle(create, wanted)
        self._note(made.id, made)

    def _unless_in_a_circle(
        self, define: Callable[[TaskDefinition], Task], wanted: TaskDefinition
    ) -> Task:
        """Define a task; where it would start itself again by a call, one that names no other."""
        try:
            return define(wanted)
        except InvalidInput as error:
            said = [problem.message for problem in error.problems]
            is_circle = all("start one another without end" in each for each in said)
            self._demand(is_circle, 37, f"{wanted.name} was refused: {said}")
        plain = definition(wanted.name)
        said_alone = {
            name: getattr(plain, name)
            for name in (
                "executor", "task_type", "command", "dependencies", "trigger_rule", "map_over"
            )
        }  # fmt: skip
        return define(msgspec.structs.replace(wanted, **said_alone))

    def _definition(self, name: str, older: Sequence[int]) -> TaskDefinition:
        """Of a task that may depend on those of these that are still there."""
        choose = self.random.choice
        dependencies = self._dependencies(older) if self.random.random() < 0.5 else []
        map_over = self._map_over(dependencies)
        rule = self._expression(dependencies) if dependencies and self._is_rare() else None
        if rule is not None:
            dependencies = [msgspec.structs.replace(d, condition="completed") for d in dependencies]
        concurrency = choose((Concurrency(), Concurrency(limit=1), Concurrency("shared", 2)))
        strategies = _WHOLE if map_over else _STRATEGIES
        called = self._called(older)
        if called and concurrency.key is not None:
            concurrency = Concurrency()  # with what it calls it would wait for itself
        return definition(
            name,
            **({"executor": CALL, "command": called} if called else {}),
            schedule=self._schedule(),
            dependencies=dependencies,
            trigger_rule=rule or choose(("all", "none_failed") if map_over else ("all", *RULES)),
            map_over=map_over,
            overlap=choose(("allow", "skip", "queue", "cancel_running")),
            misfire=Misfire(choose(("skip", "run_once", "run_all")), 5, 10, 120),
            jitter_seconds=choose((0, 0, 3)),
            retry=Retry(max_retries=choose((0, 2)), delay_seconds=2),
            timeout_seconds=choose((3, 20, 3_600)),
            queue_timeout_seconds=choose((None, None, 20)),
            deadline_seconds=choose((None, None, 60)),
            flow_deadline_seconds=choose((None, None, 90)),
            concurrency=concurrency,
            strategy=None if called else choose((None, *strategies)),
        )

    def _called(self, task_ids: Sequence[int]) -> str | None:
        """One of these that is still there, for a task to call."""
        alive = [task_id for task_id in task_ids if self._tasks[task_id][-1][1] is not None]
        return str(self.random.choice(alive)) if alive and self.random.random() < 0.25 else None

    def _map_over(self, dependencies: Sequence[Dependency]) -> MapOver | None:
        lists = [each.task for each in dependencies if each.condition == "succeeded"]
        if not lists or self.random.random() < 0.4:
            return None
        choose = self.random.choice
        return MapOver(
            choose(lists),
            max_parallel=choose((None, 2, 3)),
            max_items=choose((1_000, 1_000, 1_000, 4)),
            on_failure=choose(("continue", "stop")),
        )

    def _is_rare(self) -> bool:
        return self.random.random() < 0.2

    def _expression(self, dependencies: Sequence[Dependency]) -> str:
        """One about the first of these."""
        task = self._tasks[int(dependencies[0].task)][-1][1]
        assert task is not None
        shape = self.random.choice(list(_EXPRESSIONS))
        return shape.replace("{first}", f'upstream["{task.definition.name}"]')

    def _dependencies(self, task_ids: Sequence[int]) -> list[Dependency]:
        alive = [task_id for task_id in task_ids if self._tasks[task_id][-1][1] is not None]
        chosen = self.random.sample(alive, min(len(alive), self.random.randint(1, 2)))
        conditions: tuple[Condition, ...] = ("succeeded", "succeeded", "failed", "completed")
        return [Dependency(str(each), self.random.choice(conditions)) for each in chosen]

    def _schedule(self) -> str | None:
        chosen = self.random.choice(_SCHEDULES)
        if chosen != "@at":
            return chosen
        return f"@at {(self.clock.now() + self._between(1, 60)).isoformat()}"

    def _some_task(self) -> int | None:
        alive = [task_id for task_id, story in self._tasks.items() if story[-1][1] is not None]
        return self.random.choice(alive) if alive else None

    def _trigger(self) -> None:
        task_id = self._some_task()
        if task_id is None:
            return
        key = self.random.choice((None, "a", "b"))
        later = self.clock.now() + self._between(1, 60) if self.random.random() < 0.2 else None
        wish = TriggerRequest(task=task_id, idempotency_key=key, run_at=later)
        try:
            [run] = self.store.transact_now(partial(trigger_runs, requests=[wish]))
            if self.is_unlucky(0.2):  # its answer got lost: it asks again
                [run] = self.store.transact_now(partial(trigger_runs, requests=[wish]))
        except KeyReused:
            return  # another hour was asked for under this key
        if key is not None:
            known = self._run_of_key.setdefault((task_id, key), run.id)
            self._demand(known == run.id, 8, f"key {key} of task {task_id} made run {run.id} too")

    def _backfill(self) -> None:
        task_id = self._some_task()
        if task_id is None:
            return
        until = self.clock.now()
        since = until - self._between(1, 60)
        bound = self.random.choice((None, 1, 3))
        try:
            made = self.store.transact_now(
                lambda t: backfill_task(t, task_id, since, until, max_parallel=bound)
            )
        except InvalidInput:
            return  # it has no fire times of its own
        for run in made.runs:
            if bound is not None and run.flow_run_id is not None:
                self._bounds[run.trigger_key] = bound
        times = [run.scheduled_for for run in made.runs]
        self._demand(times == made.fire_times, 12, f"a backfill of {task_id} made {times}")

    def _retry_one(self) -> None:
        def act(transaction: Transaction) -> None:
            page = transaction.list_runs(RunFilter(), PageRequest("-id", 20))
            retry_runs(transaction, page.items[:1])

        self.store.transact_now(act)

    def _retry_flow_run(self) -> None:
        versions: Versions = self.random.choice(("then", "now"))

        def act(transaction: Transaction) -> None:
            page = transaction.list_flow_runs(FlowRunFilter(), PageRequest("-id", 20))
            ended = [each for each in page.items if each.completed_at is not None]
            if ended:
                retry_flow_run(transaction, self.random.choice(ended), versions)

        try:
            self.store.transact_now(act)
        except Conflict:
            return  # it succeeded, or nothing of it would run

    def _edit(self) -> None:
        task_id = self._some_task()
        if task_id is None:
            return
        name = self._tasks[task_id][-1][1].definition.name  # type: ignore[union-attr]
        older = [each for each in self._tasks if each < task_id]

        def replace(wanted: TaskDefinition) -> Task:
            return self.store.transact_now(lambda t: replace_task(t, task_id, wanted, lambda d: ()))

        self._note(task_id, self._unless_in_a_circle(replace, self._definition(name, older)))

    def _pause_one(self) -> None:
        task_id = self._some_task()
        if task_id is not None:
            self._pause(task_id)

    def _pause(self, task_id: int) -> None:
        try:
            paused = self.store.transact_now(partial(pause_task, task_id=task_id))
        except NotFound:
            return
        self._note(task_id, paused)

    def _resume_one(self) -> None:
        task_id = self._some_task()
        if task_id is not None:
            self._note(task_id, self.store.transact_now(partial(resume_task, task_id=task_id)))

    def _cancel_one(self) -> None:
        def act(transaction: Transaction) -> None:
            page = transaction.list_runs(RunFilter(), PageRequest("-id", 20))
            if page.items:
                chosen = self.random.choice(page.items)
                cancel_runs(
                    transaction, list(transaction.runs([chosen.id]).values()), "cancelled_by_user"
                )

        self.store.transact_now(act)

    def _delete_one(self) -> None:
        task_id = self._some_task()
        if task_id is not None and self.random.random() < 0.3:
            try:
                self.store.transact_now(partial(delete_task, task_id=task_id))
            except Conflict:
                return  # others depend on it
            self._note(task_id, None)

    def _note(self, task_id: int, task: Task | None) -> None:
        self._tasks.setdefault(task_id, []).append((self.clock.now(), task))

    # the end

    def _give_up_waiting(self) -> None:
        """What waits for tasks outside its flow run, which fire no more, would wait for ever."""

        def act(transaction: Transaction) -> None:
            waiting = transaction.list_runs(
                RunFilter(status=(RunStatus.WAITING,)), PageRequest("id", 1_000)
            ).items
            edges = transaction.edges_into([run.id for run in waiting])
            outside = {each.downstream_run_id for each in edges if each.upstream_run_id is None}
            cancel_runs(transaction, list(transaction.runs(outside).values()), "cancelled_by_user")

        self.store.transact_now(act)
        self.later(timedelta(seconds=30), self._give_up_waiting)

    def _is_settled(self) -> bool:
        return not self.store.read_now(lambda reads: reads.status_counts())

    def _check_at_rest(self) -> None:
        runs = self.all_runs()
        unfinished = [run for run in runs if run.status not in FINAL]
        self._demand(not unfinished, 15, f"unfinished at the end: {_brief(unfinished)}")
        for run in runs:
            self._check_attempts(run)
            self._demand(self.checks.is_at(run), 13, f"the log of run {run.id} tells another end")
        self._check_parts(runs)
        self._check_flow_runs(runs)
        self._check_maps(runs)
        self._check_calls(runs)
        for task_id, story in self._tasks.items():
            self._check_firings(task_id, story, [run for run in runs if run.task_id == task_id])

    def all_runs(self) -> list[TaskRun]:
        """Every run there is."""
        return self.store.read_now(
            lambda reads: reads.list_runs(RunFilter(), PageRequest("id", 1_000_000)).items
        )

    def _check_attempts(self, run: TaskRun) -> None:
        never_started = run.status is RunStatus.SKIPPED or (
            run.status is RunStatus.CANCELLED and run.started_at is None and run.attempt == 0
        )
        self._demand(not never_started or run.fence == 0, 45, f"run {run.id} was claimed")
        attempts = self.store.read_now(lambda reads: reads.attempts(run.id))
        numbers = [attempt.attempt for attempt in attempts]
        self._demand(numbers == list(range(1, run.attempt + 1)), 17, f"attempts {numbers}")
        is_closed = all(attempt.outcome is not None for attempt in attempts)
        self._demand(is_closed, 17, f"an attempt of run {run.id} was never closed")
        fences = [attempt.fence for attempt in attempts]
        self._demand(fences == sorted(set(fences)), 20, f"fences {fences} of run {run.id}")
        counted = run.attempt - run.losses - run.hand_backs
        is_deleted = run.max_attempts == 0  # then no attempt followed the one that ran
        self._demand(
            counted <= run.max_attempts or is_deleted, 42, f"{counted} attempts of {run.id}"
        )
        self._demand(run.losses <= MAX_LOSSES, 42, f"{run.losses} losses of {run.id}")
        instants = [run.created_at, run.dispatched_at, run.started_at, run.completed_at]
        known = [instant for instant in instants if instant is not None]
        self._demand(known == sorted(known), 19, f"instants of run {run.id}: {known}")

    def _check_parts(self, runs: Sequence[TaskRun]) -> None:
        """What is split is split once, and whole."""
        parts: dict[int, list[TaskRun]] = {}
        for run in runs:
            if run.part_of is not None and run.trigger is not Trigger.RETRY:
                parts.setdefault(run.part_of, []).append(run)
        for first, together in parts.items():
            told = sorted((run.shard_index, run.shard_total) for run in together if run.shard_total)
            total = told[0][1] if told else 0
            self._demand(
                told == [(index, total) for index in range(total or 0)],
                1,
                f"run {first} was split into the shards {told}",
            )
            owners = {(run.task_id, run.scheduled_for) for run in together}
            self._demand(len(owners) == 1, 1, f"the parts of run {first} belong to {owners}")

    def _check_flow_runs(self, runs: Sequence[TaskRun]) -> None:
        """One run for each task, in the order of the edges; what could not start was skipped."""
        by_id = {run.id: run for run in runs}
        in_flow = [run for run in runs if run.flow_run_id is not None]
        whole = [run for run in in_flow if run.part_of in (None, run.id)]
        owners = [(run.flow_run_id, run.task_id) for run in whole]
        self._demand(len(owners) == len(set(owners)), 35, "a task has two runs in one flow run")
        edges = self.store.read_now(lambda reads: reads.edges_into([run.id for run in in_flow]))
        upstream: dict[int, list[Edge]] = {}
        for edge in edges:
            upstream.setdefault(edge.downstream_run_id, []).append(edge)
        for run in in_flow:
            self._check_waited(run, upstream.get(self._waited_as(run, by_id), []), by_id)
        wanted = PageRequest("id", 1_000_000)
        flow_runs = self.store.read_now(lambda r: r.list_flow_runs(FlowRunFilter(), wanted)).items
        for flow_run in flow_runs:
            said = f"flow run {flow_run.id} has {flow_run.unfinished} runs that have not ended"
            is_over = not flow_run.unfinished and flow_run.completed_at is not None
            self._demand(is_over, 36, said)
            own = [run for run in in_flow if run.flow_run_id == flow_run.id]
            self._check_deadline(flow_run, own)
            self._check_carried_over(flow_run, own)
        self._check_turns(flow_runs, in_flow)

    def _check_deadline(self, flow_run: FlowRun, runs: Sequence[TaskRun]) -> None:
        """Nothing starts once it passed, and who succeeded all the same is no failure."""
        if flow_run.deadline_at is None:
            return
        late = [run.id for run in runs if run.started_at and run.started_at > flow_run.deadline_at]
        self._demand(not late, 15, f"runs {late} started after the deadline of {flow_run.id}")

    def _check_carried_over(self, flow_run: FlowRun, runs: Sequence[TaskRun]) -> None:
        """What succeeded is not run again, unless it was but a part."""
        carried = self.store.read_now(lambda reads: reads.carried_runs(flow_run.id, 0, 1_000_000))
        done = {member.id for member in carried}
        again = [run.id for run in runs if run.retry_of in done]
        self._demand(not again, 35, f"runs {again} of flow run {flow_run.id} had succeeded before")
        whole = {run.task_id for run in runs if run.part_of in (None, run.id)}
        twice = whole & {member.task_id for member in carried}
        self._demand(not twice, 35, f"tasks {twice} succeeded, and have a run in {flow_run.id}")

    def _check_turns(self, flow_runs: Sequence[FlowRun], runs: Sequence[TaskRun]) -> None:
        """Of no backfill more flow runs were under way at once than was said."""
        began: dict[str | None, datetime] = {}
        for run in runs:
            if run.started_at is not None:
                at = min(began.get(run.flow_run_id, run.started_at), run.started_at)
                began[run.flow_run_id] = at
        for backfill_id, bound in self._bounds.items():
            ours = [each for each in flow_runs if each.backfill_id == backfill_id]
            moves = [(began[each.id], 1) for each in ours if each.id in began]
            moves += [
                (each.completed_at, -1) for each in ours if each.id in began and each.completed_at
            ]
            most = max(accumulate(step for _, step in sorted(moves)), default=0)
            self._demand(most <= bound, 38, f"{most} flow runs of {backfill_id}, not {bound}")

    @staticmethod
    def _waited_as(run: TaskRun, by_id: Mapping[int, TaskRun]) -> int:
        """The run that waited for its upstream runs: the first of those that it became.

        A part that is run again in another flow run waits there itself.
        """
        first = by_id.get(run.part_of or run.id, run)
        return first.id if first.flow_run_id == run.flow_run_id else run.id

    def _check_waited(
        self, run: TaskRun, upstream: Sequence[Edge], by_id: Mapping[int, TaskRun]
    ) -> None:
        if not upstream or run.started_at is None:
            return
        [said] = self.store.read_now(
            lambda reads: reads.definitions({(run.task_id, run.task_version)})
        ).values()
        tally = Tally(run.id, said.trigger_rule, len(upstream))
        for edge in upstream:
            end = by_id[edge.upstream_run_id] if edge.upstream_run_id else None
            if end is not None and end.completed_at and end.completed_at <= run.started_at:
                tally = tally.counting(edge.condition, end.status)
        may_start = tally.verdict is Verdict.START or (
            tally.verdict is Verdict.ASK and self._holds(said.trigger_rule, upstream, by_id)
        )
        self._demand(may_start, 34, f"run {run.id} started with {tally} before it")

    def _holds(self, rule: str, upstream: Sequence[Edge], by_id: Mapping[int, TaskRun]) -> bool:
        """Whether an expression is true, of the runs whose task it names."""
        named = rule.partition('"')[2].partition('"')[0]
        ends = [by_id[edge.upstream_run_id] for edge in upstream if edge.upstream_run_id]
        statuses = {end.status.value for end in ends if end.task_name == named}
        whole = next((each for each in _WORST_FIRST if each in statuses), "cancelled")
        shape = rule.replace(f'upstream["{named}"]', "{first}")
        return _EXPRESSIONS[shape](whole)

    def _check_maps(self, runs: Sequence[TaskRun]) -> None:
        """A run for each item of a list, in its order; none where there is no list or no item."""
        waited = [run for run in runs if run.flow_run_id and run.part_of in (None, run.id)]
        sources = self.store.transact_now(lambda t: t.map_sources([run.id for run in waited]))
        items: dict[tuple[str, int], list[TaskRun]] = {}  # of a retried item there is one in each
        for run in runs:
            if run.part_of is not None and run.flow_run_id is not None:
                items.setdefault((run.flow_run_id, run.part_of), []).append(run)
        for run in waited:
            if run.id in sources and run.flow_run_id is not None:
                own = items.get((run.flow_run_id, run.id), [run])
                self._check_map(run, sources[run.id], own)

    def _check_map(self, run: TaskRun, source: Source, parts: Sequence[TaskRun]) -> None:
        definitions = self.store.read_now(
            lambda reads: reads.definitions({(run.task_id, run.task_version)})
        )
        said = definitions[run.task_id, run.task_version].map_over
        assert said is not None
        if run.part_of is None:  # it came to no start, or there was no list
            self._demand(run.started_at is None, 34, f"run {run.id} started unmapped")
            return
        found = items_of(said, source)
        told = [part.parameters.get("item") for part in parts if part.shard_total]
        expected = [] if isinstance(found, NoItems) else found
        self._demand(told == expected, 35, f"run {run.id} was mapped to {told}, not {expected}")

    def _check_calls(self, runs: Sequence[TaskRun]) -> None:
        """An attempt that called has ended after what it called, in the way that did."""
        for run in runs:
            if run.worker_id != CALLER:
                continue
            attempts = {
                attempt.attempt: attempt
                for attempt in self.store.read_now(lambda reads: reads.attempts(run.id))  # noqa: B023
            }
            called = self._called_by(run)
            numbers = [each.called_by_attempt for each in called]
            self._demand(len(numbers) == len(set(numbers)), 1, f"run {run.id} called {numbers}")
            for each in called:
                attempt = attempts[each.called_by_attempt or 0]
                then, at = each.completed_at, attempt.completed_at
                in_order = then is not None and at is not None and then <= at
                self._demand(in_order, 19, f"run {run.id} ended before what it called")
                self._demand(
                    (attempt.outcome is AttemptOutcome.SUCCEEDED)
                    == (each.status is FlowStatus.SUCCEEDED),
                    13,
                    f"attempt {attempt.attempt} of run {run.id} {attempt.outcome}, but what it "
                    f"called {each.status}",
                )
            lacking = {
                number
                for number, attempt in attempts.items()
                if attempt.worker_id == CALLER and number not in numbers
            }
            self._demand(
                all(attempts[n].outcome is AttemptOutcome.FAILED for n in lacking),
                1,
                f"attempts {lacking} of run {run.id} called nothing",
            )

    def _check_firings(
        self, task_id: int, story: Sequence[tuple[datetime, Task | None]], runs: list[TaskRun]
    ) -> None:
        """Every fire time of every version in force has exactly one row, and no other has one."""
        fired = [run for run in runs if run.trigger_key == SCHEDULE_KEY]
        times = [run.scheduled_for for run in fired]
        self._demand(len(times) == len(set(times)), 1, f"task {task_id} fired twice for one time")
        for (since, task), (until, _) in pairwise(story):
            if task is None or task.definition.schedule is None:
                continue
            if task.definition.schedule.startswith("@after"):
                continue  # its times depend on when its runs end
            schedule = schedule_of(task.definition, task.anchor_at)
            assert schedule is not None
            due = set(schedule.fires_between(since, until, 100_000))
            covered = {
                at
                for run in fired
                for at in (
                    [run.scheduled_for]
                    if run.range_from is None
                    else schedule.fires_between(
                        run.range_from - timedelta(microseconds=1), run.scheduled_for, 100_000
                    )
                )
            }
            missing = {at for at in due - covered if at < until}
            still_paused = task.paused_at is not None and self._stays_paused(task_id, since)
            self._demand(
                not missing or still_paused, 1, f"task {task_id} lacks {sorted(missing)[:3]}"
            )
            strange = {at for at in times if since < at < until} - due
            self._demand(not strange, 2, f"task {task_id} fired at {sorted(strange)[:3]}")

    def _stays_paused(self, task_id: int, since: datetime) -> bool:
        later = [task for at, task in self._tasks[task_id] if at > since]
        return all(task is None or task.paused_at is not None for task in later)

    def _demand(self, holds: bool, invariant: int, said: str) -> None:
        if not holds:
            raise Violation(f"seed {self.seed}, invariant {invariant}: {said}")


class _Worker:
    """Claims, runs, reports; is killed, frozen, and comes back."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self._sim = simulation
        self._number = number
        self._incarnation = 0
        self._id = ""
        self._held: dict[int, _Held] = {}
        self._frozen_until: datetime | None = None

    def start(self) -> None:
        self._incarnation += 1
        self._held = {}
        self._id = f"w{self._number}.{self._incarnation}"
        new = worker(self._id, max_concurrent_tasks=_SLOTS)
        self._sim.store.transact_now(partial(register_worker, worker=new))
        self._sim.later(HEARTBEAT, partial(self._beat, self._incarnation))
        self._look_later(self._incarnation)

    def _look_later(self, incarnation: int) -> None:
        self._sim.later(self._sim._between(0, 5), partial(self._look, incarnation))

    def _look(self, incarnation: int) -> None:
        """Claim what is next in line, without having been handed it."""
        if incarnation != self._incarnation:
            return
        if not self._is_frozen() and (free := _SLOTS - len(self._held)) > 0:
            asked_at = self._sim.clock.monotonic()
            claimed = self._sim.store.transact_now(
                partial(
                    claim_next,
                    worker=worker(self._id, max_concurrent_tasks=_SLOTS),
                    at_most=free,
                    lease=LEASE,
                    strategies=self._sim.strategies,
                )
            )
            for each in claimed.runs:
                self._begin(each, asked_at)
        self._look_later(incarnation)

    def serves(self, message: RunMessage) -> bool:
        """Whether the queue would hand it this message."""
        return bool(self._id) and worker(self._id).serves(parse_lane(message.lane))

    def receive(self, message: RunMessage) -> None:
        if not self.serves(message) or self._is_frozen():
            return  # it died with the message in its hands
        asked_at = self._sim.clock.monotonic()
        claimed = self._sim.store.transact_now(
            partial(claim_runs, worker_id=self._id, run_ids=message.run_ids, lease=LEASE)
        )
        for each in claimed:
            self._begin(each, asked_at)
        if self._sim.is_unlucky(0.02):
            self._die()
        elif self._sim.is_unlucky(0.02):
            self._freeze()

    def _begin(self, claimed: ClaimedRun, asked_at: float) -> None:
        run = claimed.run
        self._sim.checks.claimed(run, self._id)
        for other in self._sim.workers:
            if other is not self and run.id in other._held:
                self._sim._demand(other._was_unable(), 22, f"two live trees of run {run.id}")
        held = _Held(run, stop_before(asked_at, LEASE))
        self._held[run.id] = held
        length = self._sim._between(0.01, 12)
        cause: Cause = "itself"
        if (
            claimed.deadline_seconds is not None
            and claimed.deadline_seconds < length.total_seconds()
        ):
            length, cause = timedelta(seconds=claimed.deadline_seconds), "deadline"
        if run.timeout_seconds is not None and run.timeout_seconds < length.total_seconds():
            length, cause = timedelta(seconds=run.timeout_seconds), "timeout"
        self._sim.later(length, partial(self._finish, self._incarnation, held, cause))

    def _finish(self, incarnation: int, held: "_Held", cause: Cause) -> None:
        if incarnation != self._incarnation or self._held.get(held.run.id) is not held:
            return
        if self._is_frozen():
            # A frozen worker's report arrives when it wakes: late, and refused where it is stale.
            assert self._frozen_until is not None
            wait = self._frozen_until - self._sim.clock.now()
            self._sim.later(wait, partial(self._finish, incarnation, held, cause))
            return
        del self._held[held.run.id]
        fails = self._sim.random.random() < 0.3
        result = self._sim.some_result()
        outcome = failure("exit_code", "exit code 1", exit_code=1) if fails else success(result)
        if cause != "itself":
            outcome = failure("signal", "ended by signal 15", exit_code=-15)
        report = AttemptReport(held.run.id, held.run.fence, cause, outcome, 0)
        asked_at = self._sim.clock.monotonic()
        claimed = self._sim.store.transact_now(
            partial(
                report_and_go_on,
                outputs=[],
                endings=[report],
                worker=worker(self._id, max_concurrent_tasks=_SLOTS),
                at_most=_SLOTS - len(self._held),
                lease=LEASE,
                strategies=self._sim.strategies,
                was_full=len(self._held) == _SLOTS - 1,
            )
        )
        for each in claimed:
            self._begin(each, asked_at)
        if self._sim.is_unlucky(0.02):  # its answer got lost: it says so again
            self._sim.store.transact_now(partial(record_outcomes, reports=[report]))

    def _beat(self, incarnation: int) -> None:
        if incarnation != self._incarnation:
            return
        if self._is_frozen():
            self._sim.later(HEARTBEAT, partial(self._beat, incarnation))
            return
        asked_at = self._sim.clock.monotonic()
        fences = {run_id: held.run.fence for run_id, held in self._held.items()}
        renewal = self._sim.store.transact_now(
            partial(renew_leases, worker_id=self._id, fences=fences, lease=LEASE)
        )
        for run_id, held in list(self._held.items()):
            status = renewal.statuses.get(run_id)
            if status is None:
                del self._held[run_id]
            elif status is RunStatus.CANCELLING:
                self._finish(incarnation, held, "cancel")
            else:
                held.stop_before = stop_before(asked_at, LEASE)
        if not renewal.is_known:
            self.start()
            return
        if self._sim.is_unlucky(0.01):
            self._die()
        elif self._sim.is_unlucky(0.01):
            self._drain(incarnation)
        self._sim.later(HEARTBEAT, partial(self._beat, incarnation))

    def _drain(self, incarnation: int) -> None:
        """SIGTERM: it claims no more, hands back what it holds, says goodbye and is replaced."""
        self._sim.store.transact_now(partial(drain_worker, worker_id=self._id))
        for held in list(self._held.values()):
            self._finish(incarnation, held, "drain")
        self._sim.store.transact_now(partial(sign_off_worker, worker_id=self._id))
        self._die()

    def _die(self) -> None:
        """SIGKILL: what it held is forgotten here, and is found by the sweep."""
        self._incarnation += 1
        self._id = ""
        self._held = {}
        self._sim.later(self._sim._between(0.5, 20), self.start)

    def _freeze(self) -> None:
        """SIGSTOP, longer than its leases may be; it wakes and goes on as if nothing were."""
        self._frozen_until = self._sim.clock.now() + self._sim._between(1, 25)

    def _was_unable(self) -> bool:
        """Whether it was frozen until now, or wakes and has not asked for its leases yet."""
        until = self._frozen_until
        return until is not None and self._sim.clock.now() < until + 2 * HEARTBEAT

    def _is_frozen(self) -> bool:
        return self._frozen_until is not None and self._sim.clock.now() < self._frozen_until


class _Held:
    def __init__(self, run: LeasedRun, until: float) -> None:
        self.run = run
        self.stop_before = until


class _Checks:
    """Looks at every committed event: what may be seen at each step."""

    def __init__(self) -> None:
        self._status: dict[int, str] = {}
        self._seq: dict[int, int] = {}
        self._fences: dict[int, int] = {}
        self._holders: dict[str, set[int]] = {}
        self._keys: dict[int, tuple[str, int]] = {}

    def publish(self, events: Sequence[RunEvent]) -> None:
        for event in events:
            expected = self._seq.get(event.run_id, 0) + 1
            if event.seq != expected:
                raise Violation(
                    f"invariant 13: event {event.seq} of run {event.run_id}, not {expected}"
                )
            self._seq[event.run_id] = event.seq
            self._follow(event)

    def _follow(self, event: RunEvent) -> None:
        after = event.data.get("to")
        if after is None:
            return
        before = event.data.get("from")
        known = self._status.get(event.run_id)
        if known != before:
            raise Violation(
                f"invariant 13: run {event.run_id} was {known}, the event says {before}"
            )
        if before is not None and not may_follow(RunStatus(before), RunStatus(after)):
            raise Violation(f"invariant 13: run {event.run_id} went from {before} to {after}")
        self._status[event.run_id] = after
        if event.type is EventType.RUN_STARTED:
            fence = event.data["fence"]
            if fence <= self._fences.get(event.run_id, 0):
                raise Violation(f"invariant 20: fence {fence} of run {event.run_id} did not grow")
            self._fences[event.run_id] = fence
        if RunStatus(after) not in LEASED:
            for holders in self._holders.values():
                holders.discard(event.run_id)

    def claimed(self, run: LeasedRun, worker_id: str) -> None:
        """A claim was committed: its limit must still hold."""
        if run.concurrency_key is None or run.concurrency_limit is None:
            return
        holders = self._holders.setdefault(run.concurrency_key, set())
        holders.add(run.id)
        if len(holders) > run.concurrency_limit:
            raise Violation(f"invariant 38: {len(holders)} runs hold {run.concurrency_key!r}")

    def is_at(self, run: TaskRun) -> bool:
        """Whether the events told of the status that the row has."""
        return self._status.get(run.id) == run.status.value and self._seq[run.id] == run.event_seq


def _brief(runs: Sequence[TaskRun]) -> str:
    return ", ".join(f"{run.id} {run.status} {run.hold} {run.reason}" for run in runs[:5])
