"""A database that is reached through PgBouncer is refused, whatever that was told to let in."""

from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg
import pytest
from tests.conftest import run_command

from tidemill.errors import Unavailable
from tidemill.infrastructure.database.postgres_direct import LEADS_TO_A_POOLER
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.database.postgres_schema import check_postgres, upgrade_postgres
from tidemill.testing.pytest_plugin import Services
from tidemill.testing.services import PgBouncer, Postgres

STRICT: tuple[str, ...] = ()
LAX = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture(scope="module", params=[STRICT, LAX], ids=["strict", "lax"])
def pgbouncer(request: pytest.FixtureRequest, shared_postgres: Postgres) -> Iterator[PgBouncer]:
    """One that refuses what it does not know, and one that leaves it out."""
    with ExitStack() as stack:
        yield Services(stack).get(lambda: PgBouncer(shared_postgres, ignored=request.param))


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, migrated_postgres_url: str) -> str:
    """A database that is all right, but for the way to it."""
    return pgbouncer.in_front_of(migrated_postgres_url)


async def test_a_pooler_is_refused_by_whoever_looks_at_the_schema(pooled_url: str) -> None:
    with pytest.raises(Unavailable, match="PgBouncer"):
        await check_postgres(pooled_url)


async def test_nothing_is_migrated_through_a_pooler(
    pgbouncer: PgBouncer, postgres_url: str
) -> None:
    with pytest.raises(Unavailable, match="PgBouncer"):
        await upgrade_postgres(pgbouncer.in_front_of(postgres_url))

    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT to_regclass('alembic_version')") is None
    await connection.close()


async def test_a_pool_of_connections_is_not_opened_through_a_pooler(pooled_url: str) -> None:
    with pytest.raises(Unavailable, match="PgBouncer"):
        async with open_pool(pooled_url, 2):
            pass


async def test_a_pooler_that_lets_us_in_would_leave_out_what_keeps_others_going(
    shared_postgres: Postgres, services: Services
) -> None:
    lax = services.get(lambda: PgBouncer(shared_postgres, ignored=LAX))
    connection = await asyncpg.connect(lax.url, server_settings={"statement_timeout": "5000"})
    assert await connection.fetchval("SHOW statement_timeout") == "0"
    await connection.close()


@pytest.mark.slow
def test_a_role_says_in_one_line_what_to_do_about_a_pooler(pooled_url: str) -> None:
    for _ in range(2):  # the second meets what the first prepared in the session that it was lent
        environment = {"TIDEMILL_DATABASE__URL": pooled_url}
        refused = run_command("serve", "dispatcher", environment=environment)

        assert (refused.returncode, refused.stdout) == (1, "")
        [said] = refused.stderr.splitlines()
        assert said.endswith(LEADS_TO_A_POOLER)
