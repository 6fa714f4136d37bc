"""How domain values are kept, on each engine."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import BigInteger, DateTime, Dialect, Text
from sqlalchemy.dialects.postgresql import JSON, JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMEMBERED = 4_096  # instants: those of a batch are mostly the same few

Convert = Callable[[Any], Any]


class Converted(TypeDecorator[Any]):
    """A type that says how values go to the driver and come back, None left out.

    SQLAlchemy's own processors wrap each value in two calls more; a run has fifty of them.
    """

    cache_ok = True

    def to_driver(self, dialect: Dialect) -> Convert | None:
        """What turns the domain's value into the driver's; None where they are the same."""
        raise NotImplementedError

    def from_driver(self, dialect: Dialect) -> Convert | None:
        """What turns the driver's value into the domain's; None where they are the same."""
        raise NotImplementedError

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        convert = self.to_driver(dialect)
        return value if value is None or convert is None else convert(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        convert = self.from_driver(dialect)
        return value if value is None or convert is None else convert(value)


class Instant(Converted):
    """An aware UTC instant: `timestamptz`, or microseconds since 1970 where that is missing."""

    impl = BigInteger

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def to_driver(self, dialect: Dialect) -> Convert | None:
        return None if dialect.name == "postgresql" else microseconds_of

    def from_driver(self, dialect: Dialect) -> Convert | None:
        return None if dialect.name == "postgresql" else instant_of


@lru_cache(_REMEMBERED)
def microseconds_of(instant: datetime) -> int:
    """Microseconds since 1970."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@lru_cache(_REMEMBERED)
def instant_of(microseconds: int) -> datetime:
    """The inverse of `microseconds_of`."""
    return _EPOCH + timedelta(0, 0, microseconds)


class Enumerated(Converted):
    """A StrEnum, kept as its text."""

    impl = Text

    def __init__(self, enum: type[StrEnum]) -> None:
        super().__init__()
        self.enum = enum
        self._members = {member.value: member for member in enum}

    def to_driver(self, dialect: Dialect) -> Convert | None:
        return attrgetter("_value_")

    def from_driver(self, dialect: Dialect) -> Convert | None:
        return self._members.__getitem__


class FreeText(Converted):
    """Text from outside: PostgreSQL keeps no NUL, which output and errors may well hold."""

    impl = Text

    def to_driver(self, dialect: Dialect) -> Convert | None:
        return _without_nul if dialect.name == "postgresql" else None

    def from_driver(self, dialect: Dialect) -> Convert | None:
        return None


def _without_nul(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class Json(Converted):
    """A JSON document, read back as `shape`; text where there is no such type.

    `json` keeps it to the letter, the order of keys and escaped NUL included; `jsonb`, where
    `is_searched`, can be looked into.
    """

    impl = Text

    def __init__(self, shape: Any = Any, *, is_searched: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.is_searched = is_searched
        self._decoder = msgspec.json.Decoder(shape)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB() if self.is_searched else JSON())
        return dialect.type_descriptor(Text())

    def to_driver(self, dialect: Dialect) -> Convert | None:
        return _to_json

    def from_driver(self, dialect: Dialect) -> Convert | None:
        return self._decoder.decode


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
