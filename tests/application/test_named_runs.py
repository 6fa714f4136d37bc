"""On PostgreSQL, runs that are named are found by their ids, whatever their status fits."""

import re

import pytest

from tidemill.foundation.store import Transaction
from tidemill.infrastructure.database.postgres_connection import PostgresConnection
from tidemill.testing.inline import InlineScheduler

# What a statement that names its runs asks of them by their ids.
NAMED = re.compile(r"task_runs\.id = (ANY\(\$|given\.)")
OF_A_STATUS = re.compile(r"ix_task_runs_(lease|dispatched|ready|open|unfinished|ended)\b")


@pytest.mark.parametrize("scheduler", ["postgres"], indirect=True)
def test_no_plan_goes_through_all_that_has_a_status(
    scheduler: InlineScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: set[str] = set()
    for name in ("_fetch", "_execute"):
        run = getattr(PostgresConnection, name)
        monkeypatch.setattr(
            PostgresConnection,
            name,
            lambda self, sql, values, run=run: (said.add(sql), run(self, sql, values))[1],
        )
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create(deadline_seconds=60)))
    scheduler.renew(held)
    scheduler.record(held)

    named = sorted(filter(NAMED.search, said))
    found = {
        sql: scheduler.do(plan_of, f"of_named_{number}", sql) for number, sql in enumerate(named)
    }
    assert len(found) >= 5
    walks = {sql: plan for sql, plan in found.items() if OF_A_STATUS.search(plan)}
    assert walks == {}


def plan_of(transaction: Transaction, name: str, sql: str) -> str:
    """The plan that is kept, made while the tables hold next to nothing."""
    connection = transaction.connection  # type: ignore[attr-defined]
    count = max(map(int, re.findall(r"\$(\d+)", sql)))
    connection.fetch(f"PREPARE {name} AS {sql}", [])
    nothing = ", ".join(["NULL"] * count)
    rows = connection.fetch(f"EXPLAIN EXECUTE {name}({nothing})", [])
    return "\n".join(row[0] for row in rows)
