"""PostgreSQL's driver under code that does not wait for it.

A transaction is a plain function, the same for every engine. On PostgreSQL it runs in a greenlet:
where it asks the database something, the greenlet stands still and the event loop goes on.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from tidemill.infrastructure.database.many_rows import ManyRows

T = TypeVar("T")


async def run_in_greenlet(body: Callable[[], T]) -> T:
    """What `body` returns or raises; where it waits, the event loop does not."""
    running = greenlet(body)
    step = running.switch()
    while not running.dead:
        try:
            value = await step
        except BaseException:
            step = running.throw(*sys.exc_info())
        else:
            step = running.switch(value)
    result: T = step
    return result


def _wait_for(awaitable: Awaitable[Any]) -> Any:
    loop = getcurrent().parent
    assert loop is not None
    return loop.switch(awaitable)


# A plan that is kept expects few values in an array: one may compare each row with all of them.
_MANY_VALUES = 1_000
_PLAN_ANEW = "SET LOCAL plan_cache_mode = force_custom_plan"


class PostgresConnection:
    """The driver, as `rows.Connection` wants it; called from within `run_in_greenlet`.

    A transaction keeps to the plans that there are until it is asked something with very many
    values: from then on each statement of it is planned for what it is given.
    """

    def __init__(self, driver: Any) -> None:  # a connection, or the pool's stand-in for one
        self.driver = driver
        self._plans_anew = False

    def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        self._plan_for(values)
        rows: Sequence[Sequence[Any]] = _wait_for(self.driver.fetch(sql, *values))
        return rows

    def execute(self, sql: str, values: Sequence[Any]) -> int:
        self._plan_for(values)
        return _count_in(_wait_for(self.driver.execute(sql, *values)))

    def _plan_for(self, values: Sequence[Any]) -> None:
        if not self._plans_anew and any(map(_is_many, values)):
            _wait_for(self.driver.execute(_PLAN_ANEW))
            self._plans_anew = True

    def execute_many(self, statement: ManyRows, rows: Sequence[Sequence[Any]]) -> int:
        return self.execute(statement.sql_of_arrays(), _columns(rows)) if rows else 0

    def fetch_many(
        self, statement: ManyRows, rows: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        return self.fetch(statement.sql_of_arrays(), _columns(rows)) if rows else ()

    def execute_together(self, rows: Mapping[ManyRows, Sequence[Sequence[Any]]]) -> None:
        given = {statement: its_rows for statement, its_rows in rows.items() if its_rows}
        if given:
            values = [column for its_rows in given.values() for column in _columns(its_rows)]
            self.execute(_together(tuple(given)), values)


@lru_cache
def _together(statements: tuple[ManyRows, ...]) -> str:
    """One statement that does what all of these do; their arrays follow one another."""
    *others, last = statements
    place, parts = 1, []
    for number, statement in enumerate(others):
        parts.append(f"part{number} AS ({statement.sql_of_arrays(place)})")
        place += len(statement.columns)
    before = f"WITH {', '.join(parts)} " if parts else ""
    return before + last.sql_of_arrays(place)


def _columns(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) >= _MANY_VALUES


def _count_in(status: str) -> int:
    """How many rows a command's tag names: `UPDATE 3`, `INSERT 0 3`."""
    return int(status.rpartition(" ")[2])
