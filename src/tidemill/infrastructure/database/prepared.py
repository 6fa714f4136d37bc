"""A SQLAlchemy statement compiled once for one engine, ready for its driver.

SQLAlchemy writes the SQL and knows the types; the driver runs it. Between the two stands only
what the types say about values, so that a hot statement costs what the driver costs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from json import dumps
from typing import Any

from sqlalchemy import BigInteger, Dialect, Table, Text, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.selectable import Select
from sqlalchemy.sql.type_api import TypeEngine
from sqlalchemy.types import Boolean, Float

from tidemill.infrastructure.database.types import Convert, Converted, Json

Reader = Callable[[Iterable[Sequence[Any]]], list[list[Any]]]


class Prepared:
    """The SQL text of a statement, and how its parameters and rows are converted.

    Parameters are bound by position; `bind` puts a mapping into that order. `read` gives the rows
    as the domain knows their values.
    """

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        self.sql = str(compiled)
        names = compiled.positiontup or []
        self._binds = [
            (name, compiled.binds[name].value, to_driver(compiled.binds[name].type, dialect))
            for name in names
        ]
        columns = [] if not hasattr(statement, "exported_columns") else statement.exported_columns
        self.read = reader([column.type for column in columns], dialect)

    def bind(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The values in the driver's order; a literal that the statement brought stays."""
        values = []
        for name, default, convert in self._binds:
            value = parameters.get(name, default)
            values.append(value if convert is None or value is None else convert(value))
        return values


class InArray(ColumnElement[bool]):
    """`column` is one of the values of one array parameter: one statement for any number."""

    inherit_cache = False
    type = Boolean()
    _is_implicitly_boolean = True  # else `= 1` is appended, and no index is used

    def __init__(self, column: ColumnElement[Any], array: BindParameter[Any]) -> None:
        self.column = column
        self.array = array


@compiles(InArray, "sqlite")
def _in_array_on_sqlite(element: InArray, compiler: SQLCompiler, **kw: Any) -> str:
    column, array = compiler.process(element.column, **kw), compiler.process(element.array, **kw)
    return f"{column} IN (SELECT value FROM json_each({array}))"


@compiles(InArray, "postgresql")
def _in_array_on_postgresql(element: InArray, compiler: SQLCompiler, **kw: Any) -> str:
    column, array = compiler.process(element.column, **kw), compiler.process(element.array, **kw)
    return f"{column} = ANY({array})"


class InPairs(ColumnElement[bool]):
    """Two columns are one of the pairs of one parameter, a JSON document that lists them."""

    inherit_cache = False
    type = Boolean()
    _is_implicitly_boolean = True

    def __init__(
        self, columns: tuple[ColumnElement[Any], ColumnElement[Any]], pairs: BindParameter[Any]
    ) -> None:
        self.columns = columns
        self.pairs = pairs


@compiles(InPairs, "sqlite")
def _in_pairs_on_sqlite(element: InPairs, compiler: SQLCompiler, **kw: Any) -> str:
    columns = ", ".join(compiler.process(column, **kw) for column in element.columns)
    pair = "json_extract(value, '$[0]'), json_extract(value, '$[1]')"
    return f"({columns}) IN (SELECT {pair} FROM json_each({compiler.process(element.pairs, **kw)}))"


@compiles(InPairs, "postgresql")
def _in_pairs_on_postgresql(element: InPairs, compiler: SQLCompiler, **kw: Any) -> str:
    columns = ", ".join(compiler.process(column, **kw) for column in element.columns)
    pairs = f"json_array_elements({compiler.process(element.pairs, **kw)}) AS pair"
    return f"({columns}) IN (SELECT pair->>0, pair->>1 FROM {pairs})"


class InLongArray(InArray):
    """As InArray, for arrays of thousands: a plan that is kept must not compare row by element."""

    inherit_cache = False


@compiles(InLongArray, "sqlite")
def _in_long_array_on_sqlite(element: InLongArray, compiler: SQLCompiler, **kw: Any) -> str:
    return _in_array_on_sqlite(element, compiler, **kw)


@compiles(InLongArray, "postgresql")
def _in_long_array_on_postgresql(element: InLongArray, compiler: SQLCompiler, **kw: Any) -> str:
    column, array = compiler.process(element.column, **kw), compiler.process(element.array, **kw)
    return f"{column} IN (SELECT unnest({array}))"


class Probed(InArray):
    """`column` is what `probe` finds for one of the values, `wanted.value`: one after the other,
    whatever a planner thinks of their number."""

    inherit_cache = False

    def __init__(
        self, column: ColumnElement[Any], probe: ColumnElement[Any], array: BindParameter[Any]
    ) -> None:
        super().__init__(column, array)
        self.probe = probe


@compiles(Probed, "sqlite")
def _probed_on_sqlite(element: Probed, compiler: SQLCompiler, **kw: Any) -> str:
    column, probe = compiler.process(element.column, **kw), compiler.process(element.probe, **kw)
    array = compiler.process(element.array, **kw)
    return f"{column} IN (SELECT {probe} FROM json_each({array}) AS wanted)"


@compiles(Probed, "postgresql")
def _probed_on_postgresql(element: Probed, compiler: SQLCompiler, **kw: Any) -> str:
    column, probe = compiler.process(element.column, **kw), compiler.process(element.probe, **kw)
    array = compiler.process(element.array, **kw)
    return f"{column} IN (SELECT {probe} FROM unnest({array}) AS wanted(value))"


class SecondsBetween(ColumnElement[float]):
    """How many seconds lie between two instants."""

    inherit_cache = False
    type = Float()

    def __init__(self, since: ColumnElement[Any], until: ColumnElement[Any]) -> None:
        self.since = since
        self.until = until


@compiles(SecondsBetween, "sqlite")
def _seconds_on_sqlite(element: SecondsBetween, compiler: SQLCompiler, **kw: Any) -> str:
    since, until = compiler.process(element.since, **kw), compiler.process(element.until, **kw)
    return f"(({until} - {since}) / 1000000.0)"


@compiles(SecondsBetween, "postgresql")
def _seconds_on_postgresql(element: SecondsBetween, compiler: SQLCompiler, **kw: Any) -> str:
    since, until = compiler.process(element.since, **kw), compiler.process(element.until, **kw)
    return f"CAST(extract(epoch FROM {until} - {since}) AS DOUBLE PRECISION)"


class Later(ColumnElement[Any]):
    """The later of two instants: a transaction that began first may well go on second."""

    inherit_cache = False

    def __init__(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> None:
        self.one = one
        self.other = other
        self.type = one.type


@compiles(Later, "sqlite")
def _later_on_sqlite(element: Later, compiler: SQLCompiler, **kw: Any) -> str:
    one, other = compiler.process(element.one, **kw), compiler.process(element.other, **kw)
    return f"max({one}, {other})"


@compiles(Later, "postgresql")
def _later_on_postgresql(element: Later, compiler: SQLCompiler, **kw: Any) -> str:
    one, other = compiler.process(element.one, **kw), compiler.process(element.other, **kw)
    return f"greatest({one}, {other})"


class HasElement(ColumnElement[bool]):
    """A JSON array holds this string."""

    inherit_cache = False
    type = Boolean()
    _is_implicitly_boolean = True

    def __init__(self, array: ColumnElement[Any], value: BindParameter[str]) -> None:
        self.array = array
        self.value = value


@compiles(HasElement, "sqlite")
def _has_element_on_sqlite(element: HasElement, compiler: SQLCompiler, **kw: Any) -> str:
    array, value = compiler.process(element.array, **kw), compiler.process(element.value, **kw)
    return f"EXISTS (SELECT 1 FROM json_each({array}) WHERE value = {value})"


@compiles(HasElement, "postgresql")
def _has_element_on_postgresql(element: HasElement, compiler: SQLCompiler, **kw: Any) -> str:
    array, value = compiler.process(element.array, **kw), compiler.process(element.value, **kw)
    return f"jsonb_exists({array}, {value})"


class CurrentTransaction(ColumnElement[int]):
    """The number of the transaction that is under way; 0 where they have none."""

    inherit_cache = False
    type = BigInteger()


@compiles(CurrentTransaction, "sqlite")
def _current_on_sqlite(element: CurrentTransaction, compiler: SQLCompiler, **kw: Any) -> str:
    return "0"


@compiles(CurrentTransaction, "postgresql")
def _current_on_postgresql(element: CurrentTransaction, compiler: SQLCompiler, **kw: Any) -> str:
    return "(pg_current_xact_id()::text::bigint)"


class Array(Converted):
    """The array parameter of an InArray: native, or JSON text where there are no arrays."""

    impl = Text

    def __init__(self, of: TypeEngine[Any]) -> None:
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            of = self.of.impl_instance if isinstance(self.of, Converted) else self.of
            return dialect.type_descriptor(ARRAY(of))
        return dialect.type_descriptor(Text())

    def to_driver(self, dialect: Dialect) -> Convert | None:
        return list if dialect.name == "postgresql" else _to_json_array


def _to_json_array(values: Iterable[Any]) -> str:
    return dumps(list(values))


def in_array(column: ColumnElement[Any], name: str) -> InArray:
    """`column` is one of the values of the array parameter `name`."""
    return InArray(column, BindParameter(name, type_=Array(column.type)))


def in_pairs(columns: tuple[ColumnElement[Any], ColumnElement[Any]], name: str) -> InPairs:
    """Two columns are one of the pairs that the parameter `name` lists."""
    return InPairs(columns, BindParameter(name, type_=Json()))


def in_long_array(column: ColumnElement[Any], name: str) -> InLongArray:
    """`column` is one of the thousands of values of the array parameter `name`."""
    return InLongArray(column, BindParameter(name, type_=Array(column.type)))


def probed(
    column: ColumnElement[Any], probe: Select[Any], name: str, type_: TypeEngine[Any]
) -> Probed:
    """`column` is what `probe` finds for one of the thousands of values of the array parameter
    `name`, of this type."""
    array = BindParameter(name, type_=Array(type_))
    return Probed(column, probe.correlate(None).scalar_subquery(), array)


def struct_columns(table: Table, fields: Sequence[str]) -> Select[Any]:
    """SELECT the columns that a struct's fields name, in their order."""
    return select(*(table.c[field] for field in fields))


def reader(types: Sequence[TypeEngine[Any]], dialect: Dialect) -> Reader:
    """What turns rows of columns of these types into values as the domain knows them."""
    converts = [
        (index, convert)
        for index, type_ in enumerate(types)
        if (convert := _from_driver(type_, dialect)) is not None
    ]

    def read(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
        converted = []
        for row in rows:
            values = list(row)
            for index, convert in converts:
                if values[index] is not None:
                    values[index] = convert(values[index])
            converted.append(values)
        return converted

    return read


def to_driver(type_: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    """What turns a value of this type into the driver's; None where they are the same."""
    if isinstance(type_, Converted):
        return type_.to_driver(dialect)
    return type_.dialect_impl(dialect).bind_processor(dialect)


def _from_driver(type_: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    if isinstance(type_, Converted):
        return type_.from_driver(dialect)
    if dialect.name == "postgresql":
        return None  # its driver knows the types
    return type_.dialect_impl(dialect).result_processor(dialect, None)
