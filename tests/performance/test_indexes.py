"""Cost follows the work due, not the number of rows stored.

SQLite plans without statistics here as in production, so a plan is the same for an empty database
and a full one; what a plan costs is counted at a million runs, in steps of SQLite's machine, which
depend on nothing but the rows.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from types import ModuleType
from typing import Any

import msgspec
import pytest
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.expression import Executable

from tidemill.domain.new_run import fired_run
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskStatus
from tidemill.domain.task_run import Trigger
from tidemill.foundation.listing import (
    RUN_SORTS,
    TASK_SORTS,
    FlowRunFilter,
    PageRequest,
    Position,
    RunFilter,
    TaskFilter,
    WorkerFilter,
)
from tidemill.foundation.store import RunEnd
from tidemill.infrastructure.database import (
    flow_rows,
    placement_rows,
    query_rows,
    run_rows,
    task_rows,
    worker_rows,
)
from tidemill.infrastructure.database.prepared import Prepared
from tidemill.infrastructure.database.rows import StatementCache
from tidemill.infrastructure.database.schema import empty_schema, prepare_sqlite
from tidemill.infrastructure.database.sqlite import SqliteConnection, SqliteTransaction, _dialect
from tidemill.infrastructure.database.types import microseconds_of
from tidemill.testing.builders import task

MODULES = (run_rows, flow_rows, placement_rows, task_rows, worker_rows, query_rows)
# What others are made of; never run as they stand.
BASES = {"_taken", "_run", "_head", "_locked", "_free", "_task", "_worker", "_event", "_member"}
# What a call itself gives or has found, and what holds little.
OF_ONE_CALL = (
    "SCAN json_each", "SCAN lanes", "SCAN reached", "SCAN turns", "SCAN backfills", "SCAN path",
    "SCAN last_member", "SCAN wanted",
)  # fmt: skip
# What looks at all of one flow run, and is no page of a list.
OF_A_FLOW_RUN = {"flow_rows._critical_path[0]"}
# Partial indexes that hold what is going on now and nothing of the past: walking through one
# costs what there is to do.
OF_THE_PRESENT = (
    "ix_task_runs_ready", "ix_task_runs_limited", "ix_task_runs_lease", "ix_task_runs_dispatched",
    "ix_task_runs_open", "ix_task_runs_queued", "ix_run_edges_outside",
)  # fmt: skip
NOW = datetime(2026, 6, 1, tzinfo=UTC)
RUNS, TASKS = 1_000_000, 100_000
STEPS = 100_000  # a full pass over a million rows takes at least four million

RUN_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "namespace": {"namespace": "default"},
    "task": {"task_id": 5},
    "status": {"status": (RunStatus.FAILED,)},
    "unfinished": {"status": (RunStatus.RUNNING,)},
    "statuses": {"status": (RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.RUNNING)},
    "worker": {"worker_id": "worker-5"},
    "trigger": {"trigger": Trigger.SCHEDULE},
    "flow run": {"flow_run_id": "none"},
    "part": {"part_of": 5},
    "task and status": {"task_id": 5, "status": (RunStatus.SUCCEEDED,)},
    "namespace and status": {"namespace": "default", "status": (RunStatus.FAILED,)},
    "hour": {"scheduled_after": NOW - timedelta(hours=1), "scheduled_before": NOW},
    "task and hour": {
        "task_id": 5, "scheduled_after": NOW - timedelta(hours=1), "scheduled_before": NOW,
    },
}  # fmt: skip
TASK_FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "namespace": {"namespace": "default"},
    "namespace and status": {"namespace": "default", "status": TaskStatus.ACTIVE},
    "name": {"namespace": "default", "name": "task-5"},
    "status": {"status": TaskStatus.ACTIVE},
    "type": {"task_type": "shell"},
}


def constants() -> Iterator[tuple[str, ClauseElement]]:
    """Every statement that a module of the store keeps, a new one too."""
    for module in MODULES:
        for name, value in vars(module).items():
            for place, each in enumerate(value if isinstance(value, list) else [value]):
                if name not in BASES and isinstance(each, Executable):
                    assert isinstance(each, ClauseElement)
                    yield f"{short(module)}.{name}[{place}]", each


def short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def transaction(driver: sqlite3.Connection) -> SqliteTransaction:
    return SqliteTransaction(SqliteConnection(driver), StatementCache(_dialect), NOW)


def asked(driver: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """The statements that are built for a call: lists by each filter, sort and page, and sums."""
    said: list[str] = []
    looking = transaction(driver)
    driver.set_trace_callback(said.append)
    for (name, fields), sort, after in product(RUN_FILTERS.items(), RUN_SORTS, (False, True)):
        middle = microseconds_of(NOW) if "scheduled" in sort else RUNS // 2
        position = Position(sort, middle, RUNS // 2) if after else None
        looking.list_runs(RunFilter(**fields), PageRequest(sort, 100, position))
        yield from ((f"runs by {name}, {sort}, {after}", sql) for sql in said)
        said.clear()
    for (name, fields), sort, after in product(TASK_FILTERS.items(), TASK_SORTS, (False, True)):
        position = Position(sort, "task-5" if "name" in sort else 5, 5) if after else None
        looking.list_tasks(TaskFilter(**fields), PageRequest(sort, 100, position))
        yield from ((f"tasks by {name}, {sort}, {after}", sql) for sql in said)
        said.clear()
    for fields in ({}, {"namespace": "default"}, {"root_task_id": 5}, {"called_by": 5}):
        looking.list_flow_runs(FlowRunFilter(**fields), PageRequest("-id", 100))
    looking.end_edges([RunEnd(5, RunStatus.SUCCEEDED)])
    looking.list_workers(WorkerFilter(), PageRequest("id", 100))
    looking.list_versions(5, PageRequest("-version", 100))
    looking.ready_before(msgspec.structs.replace(fired_run(task(), NOW, NOW), id=5), 1_000)
    looking.run_stats(NOW - timedelta(seconds=30))
    looking.run_stats(NOW - timedelta(days=1), task_id=5)
    yield from ((f"asked for: {sql[:40]}", sql) for sql in said)
    driver.set_trace_callback(None)


def plan_of(driver: sqlite3.Connection, sql: str, values: Any = ()) -> list[str]:
    return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


def faults(plan: list[str], *, is_page: bool) -> list[str]:
    """Steps of a plan that cost more the more was ever stored."""
    found = []
    for step in plan:
        if step.startswith("SCAN") and not step.startswith(OF_ONE_CALL):
            is_ordered_page = is_page and not any(each.startswith("USE TEMP") for each in plan)
            if not step.endswith(OF_THE_PRESENT) and not is_ordered_page:
                found.append(step)
        if step == "USE TEMP B-TREE FOR ORDER BY" and is_page:
            found.append(step)
    return found


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    driver = sqlite3.connect(":memory:", isolation_level=None)
    driver.deserialize(empty_schema())
    yield driver
    driver.close()


def test_every_kept_statement_goes_by_an_index(empty: sqlite3.Connection) -> None:
    found = {}
    for name, statement in constants():
        prepared = Prepared(statement, _dialect)
        plan = plan_of(empty, prepared.sql, prepared.bind({}))
        is_page = " LIMIT " in prepared.sql and name not in OF_A_FLOW_RUN
        if bad := faults(plan, is_page=is_page):
            found[name] = bad

    assert found == {}


def test_every_kept_statement_is_looked_at() -> None:
    names = [name for name, _ in constants()]

    assert len(names) > 55
    assert "run_rows._lanes[0]" in names
    assert "run_rows._prune_statements[3]" in names


# A page of these is sorted out of all that the filter leaves.
SORTED = (
    "runs by worker, -s", "runs by worker, s", "runs by flow run", "runs by hour, ",
    "runs by unfinished", "runs by statuses", "runs by task and hour", "runs by part, -s",
    "runs by part, s", "tasks by type, ", "tasks by name, ", "tasks by status",
)  # fmt: skip


def test_every_list_goes_by_an_index(empty: sqlite3.Connection) -> None:
    found = {}
    statements = list(asked(empty))
    for name, sql in statements:
        bad = faults(plan_of(empty, sql), is_page=True)
        if bad and not name.startswith(SORTED):
            found[name] = bad

    assert found == {}
    assert len(statements) > 150


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A million runs of a hundred thousand tasks, a few hundred of them unfinished."""
    path = tmp_path_factory.mktemp("million") / "tidemill.db"
    prepare_sqlite(path)
    driver = sqlite3.connect(path, isolation_level=None)
    driver.execute("PRAGMA synchronous = OFF")
    driver.execute("PRAGMA journal_mode = OFF")
    driver.execute("PRAGMA cache_size = -200000")
    indexes = driver.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        driver.execute(f"DROP INDEX {name}")
    driver.execute("BEGIN")
    fill(driver)
    for _, sql in indexes:
        driver.execute(sql)
    driver.execute("COMMIT")
    yield driver
    driver.close()


def fill(driver: sqlite3.Connection) -> None:
    """One row of each kind as the store writes it, multiplied by the database itself."""
    writer = transaction(driver)
    [owner] = writer.insert_tasks([task(id=0, at=NOW, name="task-0", schedule="@every 1h")])
    multiply(driver, "tasks", TASKS, {"id": "n", "name": "'task-' || n"})
    multiply(driver, "task_versions", TASKS, {"task_id": "n"})
    writer.insert_rows(
        run_rows.task_runs, run_rows._FIELDS, [msgspec.structs.astuple(first_run(owner.id))]
    )
    now, minute = microseconds_of(NOW), 60_000_000
    at = f"{now} - ({RUNS} - n) / 100 * {minute}"
    is_open = f"n > {RUNS} - 400"
    kind = (
        "CASE n % 4 WHEN 0 THEN 'pending' WHEN 1 THEN 'dispatched' WHEN 2 THEN 'running'"
        " ELSE 'retrying' END"
    )
    end = "CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'succeeded' END"
    multiply(
        driver,
        "task_runs",
        RUNS,
        {
            "id": "n",
            "task_id": f"1 + n % {TASKS // 100}",
            "scheduled_for": at,
            "rank": at,
            "not_before": at,
            "status": f"CASE WHEN {is_open} THEN {kind} ELSE {end} END",
            "hold": f"CASE WHEN {is_open} AND n % 4 = 3 THEN 'time' END",
            "worker_id": "'worker-' || n % 7",
            "concurrency_key": "CASE WHEN n % 10 = 0 THEN 'key' END",
            "lease_expires_at": f"CASE WHEN {is_open} THEN {now} + {minute} END",
            "dispatched_at": at,
            "started_at": at,
            "completed_at": f"CASE WHEN NOT {is_open} THEN {at} + 1000000 END",
        },
    )


def first_run(task_id: int) -> Any:
    run = fired_run(task(id=task_id), NOW - timedelta(days=3_000), NOW)
    return msgspec.structs.replace(run, id=1, event_seq=1)


def multiply(driver: sqlite3.Connection, table: str, count: int, changed: dict[str, str]) -> None:
    """Rows 2 to `count`, like the first but for the columns whose SQL of `n` is given."""
    columns = [row[1] for row in driver.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    driver.execute(
        f"WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
        f" INSERT INTO {table} SELECT {values} FROM numbers, (SELECT * FROM {table} LIMIT 1) AS t",
        (count,),
    )


VALUES: dict[str, Any] = {
    "ids": list(range(1, 51)), "versions": [1], "times": [microseconds_of(NOW)],
    "keys": ["key", "other"], "answer_keys": [("trigger", "key")], "names": ["task-5"],
    "workers": ["worker-5"],
    "statuses": ["pending", "running"], "run_id": 5, "task_id": 5, "worker_id": "worker-5",
    "namespace": "default", "name": "task-5", "lane": "default/shell", "key": "key",
    "lanes": ["default/shell"],
    "limit": 500, "now": NOW, "before": NOW - timedelta(days=20_000),
    "since": NOW - timedelta(seconds=30), "until": NOW, "after": 5, "version": 1,
}  # fmt: skip


@pytest.mark.slow
def test_no_kept_statement_costs_more_for_a_million_runs(full: sqlite3.Connection) -> None:
    found = {}
    for name, statement in constants():
        prepared = Prepared(statement, _dialect)
        if not prepared.sql.startswith(("SELECT", "WITH")):
            continue
        after = {"after": NOW} if name.startswith("worker_rows") else {}
        values = prepared.bind({**VALUES, **after})
        steps = steps_of(full, prepared.sql, values)
        if steps > STEPS:
            found[name] = steps

    assert found == {}


@pytest.mark.slow
def test_no_list_costs_more_for_a_million_runs(
    full: sqlite3.Connection, empty: sqlite3.Connection
) -> None:
    dear = [
        name
        for name, sql in list(asked(empty))
        if not name.startswith(SORTED) and steps_of(full, sql) > STEPS
    ]

    assert dear == []


def steps_of(driver: sqlite3.Connection, sql: str, values: Any = ()) -> int:
    """How many steps SQLite's machine takes for a statement; it is stopped beyond the bound."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1_000
        return int(count > STEPS)

    driver.set_progress_handler(tick, 1_000)
    try:
        driver.execute(sql, values).fetchall()
    except sqlite3.OperationalError:
        if count <= STEPS:
            raise
    driver.set_progress_handler(None, 0)
    return count
