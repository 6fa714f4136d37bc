"""What decides is found by an index on PostgreSQL as well, also by a plan made for empty tables."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.dialects.postgresql import asyncpg as postgres_dialect
from tests.performance.test_indexes import constants

from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.prepared import Prepared

# Lists and sums that somebody looks at are planned for what they are asked for.
LOOKING = ("query_rows.",)
# They hold what there is of dispatchers, workers and backfills, and nothing of the past.
SMALL = {"workers", "backfills", "duties"}
STATEMENTS = [each for each in constants() if not each[0].startswith(LOOKING)]


@pytest.fixture
async def driver(migrated_postgres_url: str) -> AsyncIterator[Any]:
    async with open_pool(migrated_postgres_url, 1) as pool, pool.transaction() as driver:
        yield driver


async def test_no_plan_of_a_transaction_reads_a_table_from_end_to_end_or_is_compiled(
    driver: Any,
) -> None:
    read = {}
    for number, (name, statement) in enumerate(STATEMENTS):
        sql = Prepared(statement, postgres_dialect.dialect()).sql
        plan = await plan_of(driver, f"kept_{number}", sql)
        assert "JIT:" not in plan, f"{name} is compiled anew each time"
        if found := set(re.findall(r"Seq Scan on (\w+)", plan)) - SMALL:
            read[name] = found
    assert read == {}


async def plan_of(driver: Any, name: str, sql: str) -> str:
    await driver.execute(f"PREPARE {name} AS {sql}")
    count = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    given = f"({', '.join(['NULL'] * count)})" if count else ""
    rows = await driver.fetch(f"EXPLAIN EXECUTE {name}{given}")
    return "\n".join(row[0] for row in rows)
