"""A migration that is killed at any statement can be run again, and leads to the same schema."""

import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tidemill.infrastructure.database.postgres_schema import postgres_schema, upgrade_postgres
from tidemill.infrastructure.database.schema import HEAD, prepare_sqlite, sqlite_schema
from tidemill.testing.services import Postgres

_SCRIPT = Path(__file__).with_name("killed_migrations.py")
_STEP = 11  # statements, of some hundred


def kill_each(*migrations: tuple[int, str]) -> list[str]:
    arguments = [f"{statement},{database}" for statement, database in migrations]
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def tables_in(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute("SELECT type, name, sql FROM sqlite_master").fetchall())


@pytest.mark.slow
def test_a_migration_of_a_file_is_whole_after_it_was_killed_at_any_statement(
    tmp_path: Path,
) -> None:
    prepare_sqlite(tmp_path / "whole.db")
    files = {n: tmp_path / f"{n}.db" for n in range(3, 160, _STEP)}
    ended = kill_each(*[(n, str(file)) for n, file in files.items()])
    halves = {sqlite_schema(files[int(each)]).revision for each in ended if each != "whole"}
    for file in files.values():
        prepare_sqlite(file)

    killed = [each for each in ended if each != "whole"]
    assert len(killed) > 4
    assert ended[-1] == "whole"  # the kills reach over all that there is
    assert len(halves) > 1  # nothing, and what is between two migrations
    assert HEAD not in halves
    assert {str(tables_in(file)) for file in files.values()} == {
        str(tables_in(tmp_path / "whole.db"))
    }


async def columns_of(url: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name, data_type, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
        )
        indexes = await connection.fetch(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        )
        return [tuple(row) for row in [*columns, *indexes]]
    finally:
        await connection.close()


@pytest.mark.slow
async def test_a_migration_of_postgresql_is_whole_after_it_was_killed_at_any_statement(
    shared_postgres: Postgres, migrated_postgres_url: str
) -> None:
    with ExitStack() as stack:
        urls = {n: stack.enter_context(shared_postgres.fresh()) for n in range(8, 80, 14)}
        ended = kill_each(*urls.items())
        halves = {(await postgres_schema(urls[int(each)])).revision for each in ended}
        for url in urls.values():
            await upgrade_postgres(url)
        found = [await columns_of(url) for url in urls.values()]

    assert ended == [str(n) for n in urls]
    assert len(halves) > 1
    assert HEAD not in halves
    whole = await columns_of(migrated_postgres_url)
    assert all(each == whole for each in found)
