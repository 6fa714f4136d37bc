"""What transactions do to one another on PostgreSQL, and what a broken one leaves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.claim_runs import claim_runs
from tidemill.application.define_task import create_task, delete_task, replace_task
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.fire_due_tasks import fire_due_tasks
from tidemill.application.manage_workers import register_worker
from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.duty import LEASE as DUTY_LEASE
from tidemill.domain.duty import Duty
from tidemill.domain.outcome import success
from tidemill.domain.run_status import FINAL, RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task import Concurrency, Dependency, Priority, Task, TaskDefinition, parse_lane
from tidemill.domain.task_run import LeasedRun, TaskRun
from tidemill.errors import Conflict, InvalidInput, Unavailable
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.leadership import Leadership
from tidemill.foundation.listing import FlowRunFilter, PageRequest, RunFilter
from tidemill.foundation.store import EventPosition, Reads, Transaction
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.postgres_schema import upgrade_postgres
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.testing.builders import definition, worker
from tidemill.testing.clock import FakeClock
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.pytest_plugin import Services
from tidemill.testing.services import Postgres

SIDE_BY_SIDE = 8
LEASE = timedelta(seconds=30)
STRATEGIES = built_in_strategies()
FIRE = partial(fire_due_tasks, limit=7, strategies=STRATEGIES)
DISPATCH = partial(dispatch_ready_runs, limit=10, strategies=STRATEGIES)


@pytest.fixture
async def store(migrated_postgres_url: str) -> AsyncIterator[PostgresStore]:
    async with open_pool(migrated_postgres_url, SIDE_BY_SIDE) as pool:
        store = PostgresStore(pool, MemoryWakeups())
        yield store
        await store.close()


async def create(store: PostgresStore, name: str, **fields: Any) -> Task:
    wanted = definition(name, **fields)
    return await store.transact(lambda t: create_task(t, wanted, lambda _: ()))


async def runs_of(store: PostgresStore) -> Sequence[TaskRun]:
    page = PageRequest(limit=1_000, sort="id")
    return (await store.read(lambda r: r.list_runs(RunFilter(), page))).items


async def test_a_name_is_given_once_though_many_ask_for_it(store: PostgresStore) -> None:
    asked = await asyncio.gather(
        *(create(store, "the-name") for _ in range(SIDE_BY_SIDE)), return_exceptions=True
    )
    assert sum(isinstance(each, Task) for each in asked) == 1
    assert sum(isinstance(each, Conflict) for each in asked) == SIDE_BY_SIDE - 1


async def test_a_key_makes_one_run_though_many_bring_it(store: PostgresStore) -> None:
    await create(store, "a")
    wish = TriggerRequest(task="name:a", idempotency_key="once")
    made = await asyncio.gather(
        *(store.transact(lambda t: trigger_runs(t, [wish])) for _ in range(SIDE_BY_SIDE))
    )
    assert len({run.id for [run] in made}) == 1
    assert len(await runs_of(store)) == 1


async def test_each_firing_is_made_once_though_all_dispatchers_fire(
    migrated_postgres_url: str,
) -> None:
    clock = FakeClock()
    async with open_pool(migrated_postgres_url, SIDE_BY_SIDE) as pool:
        store = PostgresStore(pool, MemoryWakeups(), now=clock.now)
        for number in range(60):
            await create(store, f"task-{number}", schedule="@every 1m", overlap="allow")
        clock.advance(timedelta(minutes=1))

        async def dispatcher() -> int:
            fired = 0
            while round_ := (await store.transact(FIRE)).tasks:
                fired += round_
            return fired

        fired = await asyncio.gather(*(dispatcher() for _ in range(SIDE_BY_SIDE)))
        assert sum(fired) == 60
        assert len({run.task_id for run in await runs_of(store)}) == 60
        await store.close()


async def test_dispatchers_that_work_at_once_take_turns_and_split_nothing_twice(
    store: PostgresStore,
) -> None:
    for number in range(4):
        joins = worker(f"worker-{number}", max_concurrent_tasks=100)
        await store.transact(partial(register_worker, worker=joins))
    await create(store, "turns", strategy="round_robin")
    await create(store, "all", strategy="broadcast")
    await create(store, "split", strategy={"name": "shard", "count": 5})
    wishes = [
        TriggerRequest(task=f"name:{n}") for n in ("turns", "all", "split") for _ in range(40)
    ]

    async def dispatcher() -> None:
        while (await store.transact(DISPATCH)).has_more:
            pass

    for wish in wishes:
        await store.transact(lambda t, wish=wish: trigger_runs(t, [wish]))  # type: ignore[misc]
        await asyncio.gather(*(dispatcher() for _ in range(3)))
    await dispatcher()

    runs = await runs_of(store)
    assert Counter(run.task_name for run in runs) == {"turns": 40, "all": 160, "split": 200}
    assert {run.status for run in runs} == {RunStatus.DISPATCHED}
    named = [parse_lane(run.lane).worker_id for run in runs if run.task_name == "turns"]
    assert named == [f"worker-{number % 4}" for number in range(40)]


async def test_a_run_calls_once_though_all_dispatchers_begin_it_and_its_limit_holds(
    store: PostgresStore,
) -> None:
    await create(store, "called")
    await create(store, "calls", executor="task", command="name:called")
    await create(
        store, "few", executor="task", command="name:called", concurrency=Concurrency("shared", 3)
    )
    wishes = [TriggerRequest(task=f"name:{name}") for name in ("calls", "few") for _ in range(20)]
    await store.transact(lambda t: trigger_runs(t, wishes))

    async def dispatcher() -> None:
        while (await store.transact(DISPATCH)).has_more:
            pass

    await asyncio.gather(*(dispatcher() for _ in range(SIDE_BY_SIDE)))

    runs = await runs_of(store)
    begun = [run for run in runs if run.status is RunStatus.RUNNING]
    assert Counter(run.task_name for run in begun) == {"calls": 20, "few": 3}
    assert len([run for run in runs if run.task_name == "called"]) == 23
    flow_runs = await store.read(
        lambda r: r.list_flow_runs(FlowRunFilter(), PageRequest("id", 1_000))
    )
    assert sorted(each.called_by or 0 for each in flow_runs.items) == [run.id for run in begun]


async def test_callers_are_cancelled_while_what_they_called_ends_and_all_come_to_an_end(
    store: PostgresStore,
) -> None:
    await store.transact(partial(register_worker, worker=worker("w", max_concurrent_tasks=100)))
    called = await create(store, "called")
    await create(store, "last", dependencies=[Dependency("name:called")])
    calls = await create(store, "calls", executor="task", command="name:called")
    wishes = [TriggerRequest(task=calls.id) for _ in range(SIDE_BY_SIDE)]
    await store.transact(lambda t: trigger_runs(t, wishes))
    while (await store.transact(DISPATCH)).has_more:
        pass
    runs = await runs_of(store)
    callers = [run for run in runs if run.task_id == calls.id]
    children = [run for run in runs if run.task_id == called.id]
    held = await store.transact(
        partial(claim_runs, worker_id="w", run_ids=[run.id for run in children], lease=LEASE)
    )
    assert len(held) == SIDE_BY_SIDE

    def cancel(transaction: Transaction, run_id: int) -> None:
        runs = list(transaction.runs([run_id]).values())
        cancel_runs(transaction, runs, "cancelled_by_user")

    def end(transaction: Transaction, run: LeasedRun) -> None:
        report = AttemptReport(run.id, run.fence, "itself", success(), 0)
        assert record_outcomes(transaction, [report]).accepted == 1

    await asyncio.gather(
        *(store.transact(partial(cancel, run_id=run.id)) for run in callers),
        *(store.transact(partial(end, run=each.run)) for each in held),
    )

    ends = {run.id: run.status for run in await runs_of(store)}
    assert {ends[run.id] for run in callers} == {RunStatus.CANCELLED}
    assert set(ends.values()) <= FINAL


async def test_a_limit_holds_though_all_claim_at_once(store: PostgresStore) -> None:
    for number in range(4):
        limit = Concurrency("shared", 3)
        await create(store, f"task-{number}", concurrency=limit)
    for number in range(SIDE_BY_SIDE):
        joins = worker(f"worker-{number}", max_concurrent_tasks=10)
        await store.transact(partial(register_worker, worker=joins))
    wishes = [TriggerRequest(task=f"name:task-{n % 4}") for n in range(40)]
    await store.transact(lambda t: trigger_runs(t, wishes))
    await asyncio.gather(*(store.transact(DISPATCH) for _ in range(SIDE_BY_SIDE)))
    dispatched = [run for run in await runs_of(store) if run.status is RunStatus.DISPATCHED]
    assert len(dispatched) == 3

    # As if the messages of a time with more room were still on their way.
    ids = [run.id for run in await runs_of(store)]
    await store.transact(_dispatch_whatever_the_limit_says)
    claims = await asyncio.gather(
        *(
            store.transact(
                partial(claim_runs, worker_id=f"worker-{n}", run_ids=ids[n::8], lease=LEASE)
            )
            for n in range(SIDE_BY_SIDE)
        )
    )
    assert sum(map(len, claims)) == 3


def _dispatch_whatever_the_limit_says(transaction: Transaction) -> None:
    connection = transaction.connection  # type: ignore[attr-defined]
    connection.execute("UPDATE task_runs SET status = 'dispatched', hold = NULL", ())


async def test_a_dependent_starts_once_though_all_that_it_waits_for_end_at_once(
    store: PostgresStore,
) -> None:
    await create(store, "split")
    middle = [f"part-{number}" for number in range(SIDE_BY_SIDE)]
    for name in middle:
        await create(store, name, dependencies=[Dependency("name:split")])
    await create(store, "merge", dependencies=[Dependency(f"name:{name}") for name in middle])
    await store.transact(partial(register_worker, worker=worker(max_concurrent_tasks=100)))
    for _ in range(5):
        wish = TriggerRequest(task="name:split")
        await store.transact(lambda t, wish=wish: trigger_runs(t, [wish]))  # type: ignore[misc]
        await _succeed_at_once(store, ["split"])
        await _succeed_at_once(store, middle)

        *_, last = await runs_of(store)
        assert (last.task_name, last.status) == ("merge", RunStatus.PENDING)
        await _succeed_at_once(store, ["merge"])
    assert Counter(run.status for run in await runs_of(store)) == {
        RunStatus.SUCCEEDED: 5 * (SIDE_BY_SIDE + 2)
    }


async def _succeed_at_once(store: PostgresStore, names: Sequence[str]) -> None:
    """The runs of these tasks that are ready start, and all end side by side."""
    await store.transact(DISPATCH)
    ids = [run.id for run in await runs_of(store) if run.status is RunStatus.DISPATCHED]
    claimed = await store.transact(
        partial(claim_runs, worker_id="worker-1", run_ids=ids, lease=LEASE)
    )
    assert {each.run.task_name for each in claimed} == set(names)
    reports = [
        AttemptReport(each.run.id, each.run.fence, "itself", success(None), 0) for each in claimed
    ]
    await asyncio.gather(
        *(store.transact(lambda t, r=report: record_outcomes(t, [r])) for report in reports)  # type: ignore[misc]
    )


async def test_no_cycle_is_stored_though_its_halves_come_at_once(store: PostgresStore) -> None:
    for attempt in range(5):
        names = [f"a-{attempt}", f"b-{attempt}"]
        tasks = [await create(store, name) for name in names]
        wanted = [
            definition(names[n], dependencies=[Dependency(f"name:{names[1 - n]}")]) for n in (0, 1)
        ]
        edits = await asyncio.gather(
            *(edit(store, task, each) for task, each in zip(tasks, wanted, strict=True)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, InvalidInput) for each in edits) == 1


async def test_no_circle_of_calls_is_stored_though_its_halves_come_at_once(
    store: PostgresStore,
) -> None:
    for attempt in range(5):
        names = [f"a-{attempt}", f"b-{attempt}"]
        a, b = [await create(store, name) for name in names]
        edits = await asyncio.gather(
            edit(store, a, definition(names[0], executor="task", command=f"name:{names[1]}")),
            edit(store, b, definition(names[1], executor="task", command=f"name:{names[0]}")),
            return_exceptions=True,
        )
        [refused] = [each for each in edits if isinstance(each, Exception)]
        assert "without end" in str(refused)
        [gone] = [task for task, each in zip((a, b), edits, strict=True) if each is refused]
        with pytest.raises(Conflict, match="call it"):
            await store.transact(partial(delete_task, task_id=gone.id))


async def test_edits_that_meet_wait_for_one_another_and_none_has_to_begin_again(
    store: PostgresStore,
) -> None:
    begun: list[str] = []

    def change(task: Task, wanted: TaskDefinition, transaction: Transaction) -> Task:
        begun.append(wanted.name)
        return replace_task(transaction, task.id, wanted, lambda _: ())

    def remove(task: Task, transaction: Transaction) -> None:
        begun.append(task.definition.name)
        delete_task(transaction, task.id)

    for attempt in range(5):
        names = [f"{letter}-{attempt}" for letter in "abcd"]
        a, b, c, d = [await create(store, name) for name in names]
        needs_c = [Dependency(f"name:{names[2]}")]
        await edit(store, d, definition(names[3], dependencies=needs_c))
        wanted_a = definition(names[0], dependencies=[Dependency(f"name:{names[1]}")])
        wanted_b = definition(names[1], dependencies=[Dependency(f"name:{names[0]}")])
        wanted_d = definition(names[3], dependencies=needs_c, priority=Priority.HIGH)
        begun.clear()
        met = await asyncio.gather(
            store.transact(partial(change, a, wanted_a)),
            store.transact(partial(change, b, wanted_b)),
            store.transact(partial(remove, c)),
            store.transact(partial(change, d, wanted_d)),
            return_exceptions=True,
        )

        refused = [each for each in met if isinstance(each, Exception)]
        assert {type(each) for each in refused} == {InvalidInput, Conflict}, met
        assert sorted(begun) == names


async def edit(store: PostgresStore, task: Task, wanted: TaskDefinition) -> Task:
    return await store.transact(lambda t: replace_task(t, task.id, wanted, lambda _: ()))


async def test_a_duty_is_one_holders_though_all_ask_for_it_at_once(store: PostgresStore) -> None:
    several = [Leadership(store, Duty.PRUNE_HISTORY, f"holder-{n}") for n in range(SIDE_BY_SIDE)]
    for fence in (1, 2):
        performed = await asyncio.gather(*(each.perform(lambda t: t.now) for each in several))
        assert sum(each is not None for each in performed) == 1
        [lease] = await store.read(lambda r: r.duties())
        assert lease.fence == fence
        await several[int(lease.holder.rpartition("-")[2])].give_up()


async def test_a_holder_is_not_replaced_between_its_proof_and_the_commit_of_its_work(
    migrated_postgres_url: str,
) -> None:
    clock = FakeClock()
    async with open_pool(migrated_postgres_url, 2) as pool:
        store = PostgresStore(pool, MemoryWakeups(), now=clock.now)
        first, second = (Leadership(store, Duty.TIDY_QUEUE, name) for name in ("one", "two"))
        gate = await asyncpg.connect(migrated_postgres_url)
        await gate.execute("SELECT pg_advisory_lock(1)")
        has_proven = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(transaction: Transaction) -> None:
            loop.call_soon(has_proven.set)
            transaction.connection.fetch("SELECT pg_advisory_xact_lock(1)", ())  # type: ignore[attr-defined]
            create_task(transaction, definition("of-the-first"), lambda _: ())

        working = asyncio.create_task(first.perform(slow))
        await has_proven.wait()
        clock.advance(2 * DUTY_LEASE)
        taking = asyncio.create_task(
            second.perform(lambda t: t.task_named("default", "of-the-first"))
        )
        await gate.close()

        assert await taking is not None
        await working
        [lease] = await store.read(lambda r: r.duties())
        assert (lease.holder, lease.fence) == ("two", 2)
        await store.close()


async def test_a_reader_of_events_misses_none_that_is_committed_late(
    store: PostgresStore, migrated_postgres_url: str
) -> None:
    await create(store, "a")
    await create(store, "b")
    gate = await asyncpg.connect(migrated_postgres_url)
    await gate.execute("SELECT pg_advisory_lock(1)")
    has_appended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(transaction: Transaction) -> int:
        [run] = trigger_runs(transaction, [TriggerRequest(task="name:a")])
        loop.call_soon(has_appended.set)
        transaction.connection.fetch("SELECT pg_advisory_xact_lock(1)", ())  # type: ignore[attr-defined]
        return run.id

    begun = asyncio.create_task(store.transact(slow))
    await has_appended.wait()
    [quick] = await store.transact(lambda t: trigger_runs(t, [TriggerRequest(task="name:b")]))

    nowhere = EventPosition()
    assert await store.read(lambda r: r.events_after(nowhere, None, 10)) == []
    assert await store.read(lambda r: r.last_event()) == nowhere
    await gate.close()
    first = await begun
    told = await store.read(lambda r: r.events_after(nowhere, None, 10))
    assert [each.event.run_id for each in told] == [first, quick.id]
    assert await store.read(lambda r: r.last_event()) == told[-1].position
    assert await store.read(lambda r: r.events_after(told[0].position, None, 10)) == told[1:]
    assert EventPosition.parse(str(told[0].position)) == told[0].position


async def test_a_lost_race_is_run_again(store: PostgresStore, migrated_postgres_url: str) -> None:
    await create(store, "a")
    await create(store, "b")
    gate = await asyncpg.connect(migrated_postgres_url)
    await gate.execute("SELECT pg_advisory_lock(1)")
    held: list[str] = []
    both = asyncio.Event()
    loop = asyncio.get_running_loop()

    def take(names: Sequence[str], transaction: Transaction) -> None:
        for name in names:
            transaction.tasks_named("default", [name])
            held.append(name)
            if len(held) == 2:
                loop.call_soon(both.set)
            transaction.connection.fetch("SELECT pg_advisory_xact_lock_shared(1)", ())  # type: ignore[attr-defined]

    transactions = asyncio.gather(
        store.transact(partial(take, ["a", "b"])), store.transact(partial(take, ["b", "a"]))
    )
    await both.wait()
    await gate.close()  # now each goes on to what the other holds
    await transactions
    assert len(held) > 4  # one of them began again


async def test_whoever_only_looks_and_meets_a_migration_looks_again(
    store: PostgresStore, migrated_postgres_url: str
) -> None:
    await create(store, "a")
    migration = await asyncpg.connect(migrated_postgres_url)
    await migration.execute("SET deadlock_timeout = '60s'")  # it is not the one to give way
    await migration.execute("BEGIN; LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
    looks = 0
    has_read = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look(reads: Reads) -> tuple[str, int]:
        nonlocal looks
        looks += 1
        task = reads.task_named("default", "a")
        assert task is not None
        loop.call_soon(has_read.set)
        return task.definition.name, len(reads.workers_alive())

    looking = asyncio.create_task(store.read(look))
    await has_read.wait()
    await migration.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE; COMMIT")
    await migration.close()

    assert await looking == ("a", 0)
    assert looks == 2


async def test_what_only_looks_is_asked_of_the_replica(
    store: PostgresStore, shared_postgres: Postgres, postgres_template: str
) -> None:
    with shared_postgres.fresh(template=postgres_template) as replica:
        async with open_pool(replica, 1) as reading:
            behind = PostgresStore(store._pool, MemoryWakeups(), reading=reading)
            await create(behind, "a")
            assert await behind.read(lambda r: r.task_named("default", "a")) is None
            assert await store.read(lambda r: r.task_named("default", "a")) is not None


async def test_what_a_body_raises_leaves_nothing(store: PostgresStore) -> None:
    def fail(transaction: Transaction) -> None:
        create_task(transaction, definition("half"), lambda _: ())
        raise Conflict("no")

    with pytest.raises(Conflict):
        await store.transact(fail)
    assert await store.read(lambda r: r.task_named("default", "half")) is None


async def test_whoever_stops_waiting_stops_nothing(
    store: PostgresStore, migrated_postgres_url: str
) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def body(transaction: Transaction) -> None:
        loop.call_soon(begun.set)
        create_task(transaction, definition("asked-for"), lambda _: ())

    asked = asyncio.create_task(store.transact(body))
    await begun.wait()
    asked.cancel()
    await store.close()  # waits for what is under way
    with pytest.raises(Unavailable):
        await store.transact(body)
    async with open_pool(migrated_postgres_url, 1) as pool:
        other = PostgresStore(pool, MemoryWakeups())
        assert await other.read(lambda r: r.task_named("default", "asked-for")) is not None
        await other.close()


@pytest.mark.slow
async def test_a_frozen_process_holds_no_row_for_long(
    store: PostgresStore, migrated_postgres_url: str
) -> None:
    task = await create(store, "a")
    async with open_pool(migrated_postgres_url, 1) as pool:
        frozen = pool.transaction()
        driver = await frozen.__aenter__()
        await driver.execute("SELECT 1 FROM tasks FOR UPDATE")
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        driver.add_termination_listener(lambda _: gone.set_result(None))

        with pytest.raises(Unavailable, match="others hold"):
            await edit(store, task, definition("b"))
        await gone
        assert (await edit(store, task, definition("b"))).version == 2
        with pytest.raises(Unavailable, match="does not answer"):
            await frozen.__aexit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.DROP_REPLIES])
async def test_a_network_that_swallows_is_told_of_and_left_behind(
    postgres_template: str, shared_postgres: Postgres, fault: Fault
) -> None:
    with (
        shared_postgres.fresh(template=postgres_template) as url,
        FaultyLink("127.0.0.1", shared_postgres.port) as link,
    ):
        async with open_pool(link.through(url), 2) as pool:
            store = PostgresStore(pool, MemoryWakeups())
            await create(store, "before")
            patient = await asyncpg.connect(link.through(url), command_timeout=9)
            link.fault = fault
            waiting = asyncio.create_task(patient.execute("SELECT 1"))
            with pytest.raises(Unavailable):
                await create(store, "during")
            assert not waiting.done()  # what was begun was not rolled back over the dead link
            await asyncio.to_thread(link.wait_for, fault, 2)
            link.fault = None
            with pytest.raises(asyncpg.PostgresError):
                await waiting

            await create(store, "after")
            during = await store.read(lambda r: r.task_named("default", "during"))
            # Wholly there or wholly absent.
            assert during is None or during.version == 1
            await store.close()


@pytest.mark.parametrize("fault", [Fault.DOUBLE, Fault.REORDER])
async def test_a_network_that_garbles_is_a_broken_connection_and_makes_nothing_twice(
    postgres_template: str, shared_postgres: Postgres, fault: Fault
) -> None:
    with (
        shared_postgres.fresh(template=postgres_template) as url,
        FaultyLink("127.0.0.1", shared_postgres.port) as link,
    ):
        async with open_pool(link.through(url), 2) as pool:
            store = PostgresStore(pool, MemoryWakeups())
            await create(store, "before")
            wish = TriggerRequest(task="name:before", idempotency_key="once")
            link.fault = fault
            with pytest.raises(Unavailable):
                await store.transact(lambda t: trigger_runs(t, [wish]))
            await asyncio.to_thread(link.wait_for, fault)
            link.fault = None

            [made] = await store.transact(lambda t: trigger_runs(t, [wish]))
            assert [run.id for run in await runs_of(store)] == [made.id]
            await store.close()


@pytest.mark.slow
async def test_work_goes_on_by_itself_after_the_database_was_killed(
    services: Services,
) -> None:
    server = services.get(Postgres)
    await upgrade_postgres(server.url)
    async with open_pool(server.url, 2) as pool:
        store = PostgresStore(pool, MemoryWakeups())
        await create(store, "before")
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable):
            await create(store, "during")
        await asyncio.to_thread(server.start)

        await create(store, "after")
        for name, is_there in (("before", True), ("during", False), ("after", True)):
            found = await store.read(lambda r, name=name: r.task_named("default", name))  # type: ignore[misc]
            assert (found is not None) is is_there
        await store.close()
