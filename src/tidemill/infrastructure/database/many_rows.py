"""Statements that insert or change many rows at once, whatever their number.

All rows go in one call of the driver. SQLite's lets go of the interpreter's lock in each call, and
where other threads are busy the wait to have it back was measured at ten to thirty times the work;
PostgreSQL's waits for the network.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Dialect, Table
from sqlalchemy.sql.elements import ColumnElement

from tidemill.infrastructure.database.prepared import reader, to_driver

_SHAPES = 200  # statements that are kept for one, by what varies; they are few in practice


class ManyRows:
    """How a row's values are bound, and what is said around the rows."""

    def __init__(self, table: Table, columns: Sequence[str], dialect: Dialect) -> None:
        self.table = table
        self.columns = columns
        self._converts = [
            (index, convert)
            for index, name in enumerate(columns)
            if (convert := to_driver(table.c[name].type, dialect)) is not None
        ]
        self._dialect = dialect
        self._row = f"({', '.join('?' * len(columns))})"
        self._sql: dict[int, str] = {}
        self._sql_of_columns: dict[tuple[int, Sequence[bool]], str] = {}

    def sql(self, count: int) -> str:
        """The statement for so many rows; their values follow one another.

        Rows of nothing but NULL change nothing: they may fill up a statement that is kept prepared.
        """
        found = self._sql.get(count)
        if found is None:
            before, after = self._around
            rows = ", ".join([self._row] * count)
            found = self._sql[count] = f"{before} (VALUES {rows}) AS given {after}"
        return found

    def sql_of_columns(self, varies: tuple[bool, ...], first: int = 1) -> str:
        """The statement for any number of rows, with a parameter for each column, from number
        `first` on: an array of the values of one that `varies`, and else the value of all rows.

        Where no column varies, it is for one row.
        """
        found = self._sql_of_columns.get((first, varies))
        if found is None:
            if len(self._sql_of_columns) >= _SHAPES:
                self._sql_of_columns.clear()
            before, after = self._around
            found = f"{before} ({self._given(varies, first)}) AS given {after}"
            self._sql_of_columns[first, varies] = found
        return found

    def _given(self, varies: Sequence[bool], first: int) -> str:
        types = [self.table.c[name].type.compile(self._dialect) for name in self.columns]
        selected, arrays, names = [], [], []
        for place, (type_, is_array) in enumerate(zip(types, varies, strict=True)):
            name, parameter = f"column{place + 1}", f"${first + place}::{type_}"
            if is_array:
                names.append(name)
                arrays.append(f"{parameter}[]")
            selected.append(name if is_array else f"{parameter} AS {name}")
        rows = f" FROM unnest({', '.join(arrays)}) AS rows({', '.join(names)})" if arrays else ""
        return f"SELECT {', '.join(selected)}{rows}"

    def bind(self, row: Iterable[Any]) -> list[Any]:
        """One row's values, in the order of `columns`, as the driver takes them."""
        values = list(row)
        for index, convert in self._converts:
            if values[index] is not None:
                values[index] = convert(values[index])
        return values

    @property
    def _around(self) -> tuple[str, str]:
        """What stands before the rows, which are `given`, and after them."""
        raise NotImplementedError


class Insert(ManyRows):
    """Whole rows, without those whose values of `unless_taken`, a unique key, are there already.

    The first column takes no NULL. `returning` names the columns that are told of each row that was
    inserted.
    """

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        unless_taken: Sequence[str],
        returning: Sequence[str],
        dialect: Dialect,
    ) -> None:
        super().__init__(table, columns, dialect)
        self._unless_taken = unless_taken
        self._returning = returning
        self.read = reader([table.c[name].type for name in returning], dialect)

    @cached_property
    def _around(self) -> tuple[str, str]:
        taken = ", ".join(self._unless_taken)
        return (
            f"INSERT INTO {self.table.name} ({', '.join(self.columns)}) SELECT * FROM",
            "WHERE given.column1 IS NOT NULL"
            + (f" ON CONFLICT ({taken}) DO NOTHING" if taken else "")
            + (f" RETURNING {', '.join(self._returning)}" if self._returning else ""),
        )


class Delete(ManyRows):
    """Rows that are found by the value of one column."""

    def __init__(self, table: Table, found_by: str, dialect: Dialect) -> None:
        super().__init__(table, [found_by], dialect)

    @cached_property
    def _around(self) -> tuple[str, str]:
        [found_by] = self.columns
        return f"DELETE FROM {self.table.name} WHERE {found_by} IN (SELECT column1 FROM", ")"


class Update(ManyRows):
    """Each row brings the values by which it is found, and then those that are set.

    `where`, a constant, must hold of the row that is found as well; `sets`, constant assignments,
    are made to each, by what rows bring of the columns `brought` as well. `returning` names the
    columns that are told of each row that was changed, and `beside` what is looked up for it.
    """

    def __init__(
        self,
        table: Table,
        found_by: Sequence[str],
        changed: Sequence[str],
        where: str,
        sets: str,
        returning: Sequence[str],
        brought: Sequence[str],
        beside: Sequence[ColumnElement[Any]],
        dialect: Dialect,
    ) -> None:
        super().__init__(table, [*found_by, *changed, *brought], dialect)
        self._found_by = found_by
        self._changed = changed
        self._where = where
        self._sets = sets
        self._told = [
            *(f"{table.name}.{name}" for name in returning),
            *(str(each.compile(dialect=dialect)) for each in beside),
        ]
        types = [table.c[name].type for name in returning] + [each.type for each in beside]
        self.read = reader(types, dialect)

    @cached_property
    def _around(self) -> tuple[str, str]:
        places = [f"given.column{place}" for place in range(1, len(self.columns) + 1)]
        found = dict(zip(self._found_by, places, strict=False))
        changed = dict(zip(self._changed, places[len(self._found_by) :], strict=False))
        conditions = [f"{self.table.name}.{name} = {place}" for name, place in found.items()]
        if self._where:
            conditions.append(self._where)
        assignments = [f"{name} = {place}" for name, place in changed.items()]
        if self._sets:
            assignments.append(self._sets)
        told = self._told
        return (
            f"UPDATE {self.table.name} SET {', '.join(assignments)} FROM",
            f"WHERE {' AND '.join(conditions)}" + (f" RETURNING {', '.join(told)}" if told else ""),
        )
