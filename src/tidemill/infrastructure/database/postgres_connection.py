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
_KEEP_PLANS = "SET LOCAL plan_cache_mode = force_generic_plan"


class PostgresConnection:
    """The driver, as `rows.Connection` wants it; called from within `run_in_greenlet`.

    What is asked with very many values is planned for them. Rows that are brought are looked up
    one by one, as are the foreign keys in them: those keep their plans however many they are.
    `driver` is a connection, or the pool's stand-in for one; with `keeps_plans` False it sees to
    its plans itself.
    """

    def __init__(self, driver: Any, *, keeps_plans: bool = True) -> None:
        self.driver = driver
        self._keeps_plans = keeps_plans
        self._plans_anew = False

    def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        self._plan_anew(any(map(_is_many, values)))
        return self._fetch(sql, values)

    def execute(self, sql: str, values: Sequence[Any]) -> int:
        self._plan_anew(any(map(_is_many, values)))
        return self._execute(sql, values)

    def execute_many(self, statement: ManyRows, rows: Sequence[Sequence[Any]]) -> int:
        self._plan_anew(False)
        return self._execute(*_said(statement, rows)) if rows else 0

    def fetch_many(
        self, statement: ManyRows, rows: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        self._plan_anew(False)
        return self._fetch(*_said(statement, rows)) if rows else ()

    def execute_together(self, rows: Mapping[ManyRows, Sequence[Sequence[Any]]]) -> None:
        given = {statement: its_rows for statement, its_rows in rows.items() if its_rows}
        if given:
            self._plan_anew(False)
            columns = [_columns(its_rows) for its_rows in given.values()]
            shapes = [varies for varies, _ in columns]
            values = [value for _, its_values in columns for value in its_values]
            self._execute(_together(tuple(given), tuple(shapes)), values)

    def _plan_anew(self, wanted: bool) -> None:
        if self._keeps_plans and wanted is not self._plans_anew:
            _wait_for(self.driver.execute(_PLAN_ANEW if wanted else _KEEP_PLANS))
            self._plans_anew = wanted

    def _fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = _wait_for(self.driver.fetch(sql, *values))
        return rows

    def _execute(self, sql: str, values: Sequence[Any]) -> int:
        return _count_in(_wait_for(self.driver.execute(sql, *values)))


def _said(statement: ManyRows, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
    varies, values = _columns(rows)
    return statement.sql_of_columns(varies), values


@lru_cache
def _together(statements: tuple[ManyRows, ...], shapes: tuple[tuple[bool, ...], ...]) -> str:
    """One statement that does what all of these do; their parameters follow one another."""
    place, parts = 1, []
    for statement, varies in zip(statements, shapes, strict=True):
        parts.append(statement.sql_of_columns(varies, place))
        place += len(statement.columns)
    *others, last = parts
    named = ", ".join(f"part{number} AS ({part})" for number, part in enumerate(others))
    return f"WITH {named} {last}" if others else last


def _columns(rows: Sequence[Sequence[Any]]) -> tuple[tuple[bool, ...], list[Any]]:
    """Which columns vary from row to row, and the values of each: all of them, or the one.

    The driver looks at each value of an array, and PostgreSQL takes each out again: most columns of
    many rows have one value.
    """
    columns = list(zip(*rows, strict=True))
    count = len(rows)
    varies = [column.count(column[0]) != count for column in columns]
    if count > 1 and not any(varies):
        varies[0] = True
    values = [column if its else column[0] for column, its in zip(columns, varies, strict=True)]
    return tuple(varies), values


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) >= _MANY_VALUES


def _count_in(status: str) -> int:
    """How many rows a command's tag names: `UPDATE 3`, `INSERT 0 3`."""
    return int(status.rpartition(" ")[2])
