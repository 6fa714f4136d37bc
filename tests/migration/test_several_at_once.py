"""Several processes that start at once on one database: one of them migrates."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.conftest import command_environment, run_command

from tidemill.infrastructure.database.postgres_schema import _LOCK
from tidemill.infrastructure.database.schema import HEAD
from tidemill.testing.server import Process, StartFailed

SIDE_BY_SIDE = 3


def begin(*arguments: str, url: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_environment("http://127.0.0.1:9") | {"TIDEMILL_DATABASE__URL": url},
    )


async def until(connection: "asyncpg.Connection[Any]", count: int) -> None:
    """Return once so many wait for the lock of migrations."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while await connection.fetchval(waiting) < count:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_processes_that_migrate_at_once_do_it_once(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        migrating = [begin("db", "upgrade", url=postgres_url) for _ in range(SIDE_BY_SIDE)]
        await until(connection, SIDE_BY_SIDE)
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        ended = [await asyncio.to_thread(each.communicate) for each in migrating]
        versions = await connection.fetch("SELECT version_num FROM alembic_version")
    finally:
        await connection.close()

    assert [said for said, _ in ended] == [f"{HEAD}\n"] * SIDE_BY_SIDE, ended
    assert [each.returncode for each in migrating] == [0] * SIDE_BY_SIDE
    assert [tuple(row) for row in versions] == [(HEAD,)]


@pytest.mark.slow
def test_a_role_that_starts_before_the_migration_is_refused_with_the_way_out(
    postgres_url: str, tmp_path: Path
) -> None:
    environment = {"TIDEMILL_DATABASE__URL": postgres_url}
    role = Process(tmp_path / "log", "serve", "dispatcher", environment=environment)
    with pytest.raises(StartFailed):
        role.start()
    assert role.log == (
        f"tidemill: the database's schema is at nothing, and this version needs {HEAD}; "
        "run `tidemill db upgrade`\n"
    )
    assert run_command("db", "upgrade", environment=environment).returncode == 0
    assert run_command("db", "check", environment=environment).returncode == 0


@pytest.mark.slow
async def test_a_migration_that_others_hold_up_gives_way_and_can_be_run_again(
    migrated_postgres_url: str,
) -> None:
    connection = await asyncpg.connect(migrated_postgres_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch("SELECT 1 FROM task_runs")  # as a long backup does
        refused = begin("db", "downgrade", "0005", url=migrated_postgres_url)
        said, why = await asyncio.to_thread(refused.communicate)
        await transaction.rollback()
    finally:
        await connection.close()
    again = begin("db", "downgrade", "0005", url=migrated_postgres_url)

    assert (refused.returncode, said) == (1, "")
    assert why.endswith("the database cannot be used now: others hold what is needed; try again\n")
    assert (await asyncio.to_thread(again.communicate))[0] == "0005\n"
