"""The ground that the parts of a transaction stand on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Dialect, Table
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.elements import ColumnElement

from tidemill.domain.events import RunEvent
from tidemill.domain.task import TaskDefinition
from tidemill.foundation.batches import in_batches
from tidemill.foundation.wakeups import Topic
from tidemill.infrastructure.database.many_rows import Delete, Insert, ManyRows, Update
from tidemill.infrastructure.database.prepared import Prepared
from tidemill.infrastructure.database.tables import run_events

_MAX_CACHED_DEFINITIONS = 20_000
# In one call of the driver: none takes seconds, and between two of them others get a turn.
_ROWS_AT_ONCE = 5_000
_EVENT_COLUMNS = ("run_id", "seq", "type", "at", "data", "namespace")


class Connection(Protocol):
    """A driver's connection inside a transaction; errors come as the driver raises them."""

    def fetch(self, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Run one statement and return all its rows."""

    def execute(self, sql: str, values: Sequence[Any]) -> int:
        """Run one statement; how many rows it changed."""

    def execute_many(self, statement: ManyRows, rows: Sequence[Sequence[Any]]) -> int:
        """Insert or change all these rows, bound already; how many were inserted or changed."""

    def execute_together(self, rows: Mapping[ManyRows, Sequence[Sequence[Any]]]) -> None:
        """Do so for several statements, none of which sees what the others do."""

    def fetch_many(
        self, statement: ManyRows, rows: Sequence[Sequence[Any]]
    ) -> Sequence[Sequence[Any]]:
        """The same; all that the statement returns."""


class StatementCache:
    """What was compiled for one engine, and definitions that were decoded: neither ever changes."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.definitions: dict[tuple[int, int], TaskDefinition] = {}
        self._prepared: dict[ClauseElement, Prepared] = {}
        self._inserts: dict[tuple[Any, ...], Insert] = {}
        self._updates: dict[tuple[Any, ...], Update] = {}
        self._deletes: dict[tuple[Any, ...], Delete] = {}
        self._by_shape: dict[tuple[Any, ...], Prepared] = {}

    def prepared(self, statement: ClauseElement) -> Prepared:
        """`statement`, a module's constant, compiled once."""
        found = self._prepared.get(statement)
        if found is None:
            found = self._prepared[statement] = Prepared(statement, self.dialect)
        return found

    def insert(
        self,
        table: Table,
        columns: tuple[str, ...],
        unless_taken: tuple[str, ...] = (),
        returning: tuple[str, ...] = (),
    ) -> Insert:
        """The INSERT of these columns."""
        key = (table, columns, unless_taken, returning)
        found = self._inserts.get(key)
        if found is None:
            found = self._inserts[key] = Insert(
                table, columns, unless_taken, returning, self.dialect
            )
        return found

    def update(
        self,
        table: Table,
        found_by: tuple[str, ...],
        changed: tuple[str, ...],
        where: str = "",
        sets: str = "",
        returning: tuple[str, ...] = (),
        brought: tuple[str, ...] = (),
        beside: tuple[ColumnElement[Any], ...] = (),
    ) -> Update:
        """The UPDATE of these columns of rows that are found by others."""
        key = (table, found_by, changed, where, sets, returning, brought, beside)
        found = self._updates.get(key)
        if found is None:
            found = self._updates[key] = Update(
                table, found_by, changed, where, sets, returning, brought, beside, self.dialect
            )
        return found

    def delete(self, table: Table, found_by: str) -> Delete:
        """The DELETE of rows that are found by one column."""
        found = self._deletes.get((table, found_by))
        if found is None:
            found = self._deletes[table, found_by] = Delete(table, found_by, self.dialect)
        return found

    def shaped(self, shape: tuple[Any, ...], statement: ClauseElement | None) -> Prepared | None:
        """The statement of this shape; compiled from `statement` where it was not yet seen."""
        found = self._by_shape.get(shape)
        if found is None and statement is not None:
            found = self._by_shape[shape] = Prepared(statement, self.dialect)
        return found


class Rows:
    """Runs statements and collects what is to be told after the commit."""

    def __init__(self, connection: Connection, cache: StatementCache, now: datetime) -> None:
        self.now = now
        self.topics: set[Topic] = set()
        self.readied: Counter[str] = Counter()
        self.events: list[RunEvent] = []
        self.fresh_versions: set[tuple[int, int]] = set()  # of tasks, written by this transaction
        self.connection = connection
        self.cache = cache
        self._last: dict[ManyRows, list[list[Any]]] = {}

    def append_events(self, events: Sequence[RunEvent]) -> None:
        """Store events, and tell them once this is committed."""
        self.insert_last(
            run_events,
            _EVENT_COLUMNS,
            ((e.run_id, e.seq, e.type, e.at, e.data, e.namespace) for e in events),
        )
        self.events.extend(events)

    def finish(self) -> None:
        """Write what was left for the end; called before the commit."""
        if self.readied.total():
            self.announce(Topic.CLAIMABLE)
        self.connection.execute_together(self._last)

    def give_way(self) -> None:
        """Whatever an engine needs for it."""
        raise NotImplementedError

    def announce(self, *topics: Topic) -> None:
        self.topics.update(topics)

    def remember_definitions(self, read: Mapping[tuple[int, int], TaskDefinition]) -> None:
        """Keep these at hand for all transactions; they never change once they are committed."""
        known = self.cache.definitions
        if len(known) + len(read) > _MAX_CACHED_DEFINITIONS:
            known.clear()
        # One that this transaction wrote may yet be rolled back, and another take its number.
        known |= {key: read[key] for key in read.keys() - self.fresh_versions}

    def fetch(self, statement: ClauseElement, **parameters: Any) -> list[list[Any]]:
        """All rows of a constant statement, as the domain knows their values."""
        prepared = self.cache.prepared(statement)
        return prepared.read(self.connection.fetch(prepared.sql, prepared.bind(parameters)))

    def fetch_once(self, statement: ClauseElement) -> list[list[Any]]:
        """All rows of a statement that was built for this call."""
        prepared = Prepared(statement, self.cache.dialect)
        return prepared.read(self.connection.fetch(prepared.sql, prepared.bind({})))

    def execute(self, statement: ClauseElement, **parameters: Any) -> int:
        """Run a constant statement; how many rows it changed."""
        prepared = self.cache.prepared(statement)
        return self.connection.execute(prepared.sql, prepared.bind(parameters))

    def insert_rows(
        self,
        table: Table,
        columns: tuple[str, ...],
        rows: Iterable[Iterable[Any]],
        *,
        unless_taken: tuple[str, ...] = (),
    ) -> int:
        """Insert whole rows, without those whose values of `unless_taken` are there already; how
        many were inserted."""
        return self._run_many(self.cache.insert(table, columns, unless_taken), rows)

    def insert_last(
        self,
        table: Table,
        columns: tuple[str, ...],
        rows: Iterable[Iterable[Any]],
        *,
        unless_taken: tuple[str, ...] = (),
    ) -> None:
        """The same at the end of the transaction, which itself does not look at them: rows that
        many use cases leave behind go in one statement, unless they are very many."""
        statement = self.cache.insert(table, columns, unless_taken)
        left = self._last.setdefault(statement, [])
        for batch in in_batches(rows, _ROWS_AT_ONCE):
            left.extend(statement.bind(row) for row in batch)
            if len(left) >= _ROWS_AT_ONCE:
                self.connection.execute_many(statement, left)
                left.clear()

    def update_last(
        self,
        table: Table,
        found_by: tuple[str, ...],
        changed: tuple[str, ...],
        rows: Iterable[Iterable[Any]],
    ) -> None:
        """Change rows at the end of the transaction, which does not look at them any more."""
        statement = self.cache.update(table, found_by, changed)
        self._last.setdefault(statement, []).extend(map(statement.bind, rows))

    def delete_last(self, table: Table, found_by: str, values: Iterable[Any]) -> None:
        """Delete rows at the end of the transaction, which leaves them out where it looks."""
        statement = self.cache.delete(table, found_by)
        self._last.setdefault(statement, []).extend(statement.bind([value]) for value in values)

    def update_rows(
        self,
        table: Table,
        found_by: tuple[str, ...],
        changed: tuple[str, ...],
        rows: Iterable[Iterable[Any]],
        *,
        where: str = "",
    ) -> int:
        """Change many rows: each brings the values of `found_by`, then those of `changed`; how
        many were found."""
        return self._run_many(self.cache.update(table, found_by, changed, where), rows)

    def _run_many(self, statement: ManyRows, rows: Iterable[Iterable[Any]]) -> int:
        return sum(
            self.connection.execute_many(statement, [statement.bind(row) for row in batch])
            for batch in in_batches(rows, _ROWS_AT_ONCE)
        )

    def write_and_tell(
        self, statement: Insert | Update, rows: Iterable[Iterable[Any]]
    ) -> list[list[Any]]:
        """Insert or change many rows; what the statement returns of those that were."""
        told: list[list[Any]] = []
        for batch in in_batches(rows, _ROWS_AT_ONCE):
            bound = [statement.bind(row) for row in batch]
            told += statement.read(self.connection.fetch_many(statement, bound))
        return told
