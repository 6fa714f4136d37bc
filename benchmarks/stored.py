"""Much that is stored, put into PostgreSQL by its own generate_series, from one example of each."""

import asyncio

import asyncpg

_SPREAD_SECONDS = 10 * 24 * 3600  # of history: newer than what is pruned


def fill_tasks(database_url: str, name: str, count: int) -> None:
    """So many copies of this task, each with a name of its own."""
    asyncio.run(_fill_tasks(database_url, name, count))


def fill_history(database_url: str, run_id: int, count: int) -> None:
    """So many copies of this run with its attempts and events, spread over ten days."""
    asyncio.run(_fill_history(database_url, run_id, count))


async def _fill_tasks(database_url: str, name: str, count: int) -> None:
    connection = await asyncpg.connect(database_url)
    named = {"name": "name || '-' || n", "definition": _renamed("definition")}
    last = await connection.fetchval("SELECT max(id) FROM tasks")
    await _copy(connection, "tasks", f"t.name = '{name}'", count, named, left_out={"id"})
    await connection.execute(
        "INSERT INTO task_versions (task_id, version, definition, created_at) "
        f"SELECT id, version, definition, created_at FROM tasks WHERE id > {last}"
    )
    await _settle(connection)


def _renamed(column: str) -> str:
    return f"replace({column}::text, t.name, t.name || '-' || n)::json"


async def _fill_history(database_url: str, run_id: int, count: int) -> None:
    connection = await asyncpg.connect(database_url)
    last = await connection.fetchval("SELECT max(id) FROM task_runs")
    earlier = f"interval '1 second' * (n::float8 / {count} - 1) * {_SPREAD_SECONDS}"
    instants = (
        "scheduled_for", "not_before", "rank", "created_at", "dispatched_at", "started_at",
        "completed_at",
    )  # fmt: skip
    await _copy(
        connection, "task_runs", f"id = {run_id}", count,
        {"id": f"{last} + n", "trigger_key": "'manual:' || md5(n::text)"}
        | {each: f"{each} + {earlier}" for each in instants},
    )  # fmt: skip
    of_run = {"run_id": f"{last} + n"}
    await _copy(
        connection, "run_attempts", f"run_id = {run_id}", count,
        of_run | {each: f"{each} + {earlier}" for each in ("started_at", "completed_at")},
    )  # fmt: skip
    await _copy(
        connection, "run_events", f"run_id = {run_id}", count, of_run | {"at": f"at + {earlier}"},
        left_out={"id"},
    )  # fmt: skip
    await connection.execute(
        f"SELECT setval(pg_get_serial_sequence('task_runs', 'id'), {last + count})"
    )
    await _settle(connection)


async def _copy(
    connection: asyncpg.Connection,
    table: str,
    which: str,
    count: int,
    changed: dict[str, str],
    left_out: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Each row that is so, `count` times: `n` counts them in the expressions of what changes."""
    columns = [
        row["attname"]
        for row in await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 "
            "AND NOT attisdropped AND attgenerated = ''",
            table,
        )
        if row["attname"] not in left_out
    ]
    values = ", ".join(changed.get(each, each) for each in columns)
    names = ", ".join(f'"{each}"' for each in columns)
    await connection.execute(
        f"INSERT INTO {table} ({names}) "
        f"SELECT {values} FROM {table} AS t, generate_series(1, {count}) AS n WHERE {which}"
    )


async def _settle(connection: asyncpg.Connection) -> None:
    """As the database is some time later: what is measured next does not pay for the filling."""
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")
    await connection.close()
