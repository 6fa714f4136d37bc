"""An expression over upstream runs: parsed once, and asked when all of them have ended.

    upstream.check.status == "succeeded" && upstream.check.result.rows > 0

The language is CEL, as far as `expression_syntax` lets it. What an expression sees is cut down to
what it reads, and that has a limit: so is the time that an answer takes.
"""

import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import ModuleType
from typing import Any

import msgspec

from tidemill.domain.expression_syntax import Path, SyntaxProblem, paths_of

MOST_VALUES = 1_000  # items and fields that an expression sees, at whatever depth
MOST_CHARACTERS = 16_384  # of text among them
_DEEPEST = 64

_REMEMBERED = 1_024  # expressions
_NAMED_FIELDS = 10  # in a message
_MESSAGE = 200


class Answer(msgspec.Struct, frozen=True):
    """What an expression came to; `error` where it could not be told."""

    holds: bool
    error: str | None = None


class Expression:
    """One expression; raises SyntaxProblem where it is none."""

    def __init__(self, text: str) -> None:
        self.paths = paths_of(text)
        self._program = _compiled(text)
        self._wanted = _Wanted()
        for path in self.paths:
            self._wanted.add(path.fields)

    @property
    def upstream_tasks(self) -> dict[str, str]:
        """The upstream tasks that it names, each with the first place where it does."""
        found: dict[str, str] = {}
        for path in self.paths:
            if path.fields[0] == "upstream":
                found.setdefault(path.fields[1], str(path))
        return found

    def reads(self, root: str) -> bool:
        """Whether it looks at this root at all."""
        return any(path.fields[0] == root for path in self.paths)

    def reads_results_of(self, task_name: str) -> bool:
        """Whether it looks at more than how this task ended."""
        return any(
            path.fields[:2] == ("upstream", task_name) and path.fields[2] in ("result", "results")
            for path in self.paths
        )

    def ask(
        self,
        upstream: Mapping[str, Mapping[str, Any]],
        parameters: Mapping[str, Any],
        scheduled_for: datetime,
    ) -> Answer:
        """Whether it holds; what it is given are JSON-compatible values."""
        facts = {"upstream": upstream, "parameters": parameters, "scheduled_for": scheduled_for}
        seen = self._wanted.of(facts)
        excess = _excess(seen)
        if excess is not None:
            return Answer(False, excess)
        try:
            found = self._program.execute(seen)
        except Exception as error:  # the library raises nearly every built-in kind
            return Answer(False, self._told(error, facts))
        if not isinstance(found, bool):
            return Answer(False, f"it is {str(found)[:_MESSAGE]!r}, and neither true nor false")
        return Answer(found)

    def _told(self, error: Exception, facts: Mapping[str, Any]) -> str:
        missing = dict(_missing(self.paths, facts))
        if isinstance(error, KeyError):
            name = str(error.args[0]).strip("'\"")
            return missing.get(name, f"there is no field {name!r}")
        first, _, _ = str(error).partition(". ")
        said = [first[:_MESSAGE], *missing.values()]
        return "; ".join(said)


@lru_cache(_REMEMBERED)
def expression_of(text: str) -> Expression:
    """The expression that a text is; raises SyntaxProblem."""
    return Expression(text)


class _Wanted:
    """The fields that are read, as a tree; one that is read whole needs nothing below."""

    def __init__(self) -> None:
        self._below: dict[str, _Wanted] = {}
        self._is_whole = False

    def add(self, fields: Sequence[str]) -> None:
        at = self
        for field in fields:
            at = at._below.setdefault(field, _Wanted())
        at._is_whole = True

    def of(self, value: Any) -> Any:
        """As much of a value as is read. It goes as deep as the longest path, which is short."""
        if self._is_whole or not isinstance(value, Mapping):
            return value
        return {name: each.of(value[name]) for name, each in self._below.items() if name in value}


def _excess(seen: Any) -> str | None:
    """What is too much of it."""
    characters = 0
    for count, (depth, name, value) in enumerate(_all_values(seen)):
        characters += len(name) + (len(value) if isinstance(value, str) else 0)
        if count > MOST_VALUES:
            return f"it reads more than {MOST_VALUES} values; read fewer fields of the results"
        if characters > MOST_CHARACTERS:
            return f"it reads more than {MOST_CHARACTERS} characters of text; read fewer fields"
        if depth > _DEEPEST:
            return f"it reads values more than {_DEEPEST} deep"
    return None


def _all_values(seen: Any) -> Iterator[tuple[int, str, Any]]:
    work = [(0, "", seen)]
    while work:
        depth, name, value = work.pop()
        yield depth, name, value
        if isinstance(value, Mapping):
            work += [(depth + 1, str(key), each) for key, each in value.items()]
        elif isinstance(value, list):
            work += [(depth + 1, "", each) for each in value]


def _missing(paths: Sequence[Path], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields that are read and are not there, each with what is there in place of them."""
    for path in paths:
        value: Any = facts
        for depth, name in enumerate(path.fields):
            if isinstance(value, Mapping) and name in value:
                value = value[name]
                continue
            where = Path(path.fields[:depth]) if depth else "nothing"
            if isinstance(value, Mapping):
                there = ", ".join(list(map(str, value))[:_NAMED_FIELDS]) or "none"
                yield name, f"{where} has no field {name!r}; its fields: {there}"
            else:
                kind = "null" if value is None else type(value).__name__
                yield name, f"{where} is {kind} and has no field {name!r}"
            break


def _compiled(text: str) -> Any:
    try:
        return _library().compile(text)
    except ValueError as error:
        raise _as_problem(text, str(error)) from None


def _as_problem(text: str, said: str) -> SyntaxProblem:
    """The library says `… ERROR: <input>:LINE:COLUMN: what`, and then what else is wrong."""
    found = re.search(r"<input>:([0-9]+):([0-9]+): (?:Syntax error: )?(.*)", said)
    if found is None:
        return SyntaxProblem(1, "this is not an expression")
    line, column = int(found[1]), int(found[2])
    above = sum(len(each) for each in text.splitlines(keepends=True)[: line - 1])
    what, _, _ = found[3].partition(" expecting {")  # what follows is the whole alphabet
    return SyntaxProblem(above + column, what[:_MESSAGE])


@lru_cache(1)
def _library() -> ModuleType:
    """The compiled half of the library, loaded where it is needed first.

    Its package would import a command line with it, and take a second for that.
    """
    package = importlib.util.find_spec("cel")
    assert package is not None
    spec = importlib.machinery.PathFinder.find_spec("cel.cel", package.submodule_search_locations)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
