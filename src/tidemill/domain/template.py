"""Placeholders in a task's arguments, filled in before an attempt: `${{ parameters.day }}`.

Fields are looked up and nothing is worked out. What is filled in is not looked at again, so no
value can reach further than its own place. `$${{` stands for `${{` itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from tidemill.errors import Problem
from tidemill.run_facts import RunFacts, rfc3339

LARGEST = 1_048_576  # bytes that placeholders may bring into one attempt's arguments

RUN_FACTS = (
    "id", "task_id", "task_name", "namespace", "attempt", "scheduled_for", "previous_success_at",
    "missed_count", "flow_run_id", "shard_index", "shard_total",
)  # fmt: skip

# What a placeholder becomes: a value of its kind where it stands alone, text, or a part of a URL.
Kind = Literal["value", "text", "url"]

_OPENS = "${{"
_OPENS_AS_JSON = _OPENS.encode()  # nothing of it is ever escaped
_PLACEHOLDER = re.compile(
    r"""\$\{\{[ ]*(?P<path>[A-Za-z_]\w*
        (?:\.[A-Za-z_]\w*|\["[^"\\\x00-\x1f]*"\]|\['[^'\\\x00-\x1f]*'\]|\[[0-9]{1,9}\])*
        )[ ]*\}\}""",
    re.VERBOSE | re.ASCII,
)
_STEP = re.compile(r"""\.?([A-Za-z_]\w*)|\["([^"]*)"\]|\['([^']*)'\]|\[([0-9]+)\]""", re.ASCII)
_REMEMBERED = 4_096  # texts
_NAMED_FIELDS = 10  # in a message


class TemplateError(ValueError):
    """A text cannot be read, or a placeholder not be filled in. The message says which and why."""


class Placeholder(msgspec.Struct, frozen=True):
    """One placeholder as it was written, and the fields that lead to its value."""

    text: str
    path: tuple[str | int, ...]


def template_problems(executor: str, command: str, arguments: Any) -> Iterator[Problem]:
    """What is wrong with the placeholders of a task. In `command` there is never one."""
    if _OPENS in command:
        yield Problem("/command", f"`{_OPENS}` is not filled in here: {_advice(executor)}")
    for pointer, text, is_key in _texts_of(arguments):
        try:
            parts = parts_of(text)
        except TemplateError as error:
            yield Problem(pointer, str(error))
            continue
        if is_key and any(isinstance(part, Placeholder) for part in parts):
            yield Problem(pointer, "a name is not filled in, only values are")


def render(executor: str, arguments: Any, facts: Mapping[str, Any]) -> Any:
    """The arguments with every placeholder filled in; raises TemplateError.

    `facts` holds `parameters` and `run`. Without a placeholder they are given back as they are.
    """
    if not has_placeholders(arguments):
        return arguments
    rendering = _Rendering(facts)
    whole = [msgspec.json.decode(msgspec.json.encode(arguments))]
    work: list[tuple[Any, tuple[str, ...]]] = [(whole, ())]
    while work:
        place, names = work.pop()
        for key, value in list(_entries(place)):
            below = (*names, str(key))[:2]  # the first is the list around it all
            if isinstance(value, str):
                if _OPENS in value:
                    place[key] = rendering.filled(value, _kind_of(executor, below[1:]))
            elif isinstance(value, dict | list):
                work.append((value, below))
    return whole[0]


def facts_of(run: RunFacts) -> dict[str, Any]:
    """What the placeholders of this run's arguments may name."""
    told = {
        "id": run.run_id,
        "scheduled_for": rfc3339(run.scheduled_for),
        "previous_success_at": rfc3339(run.previous_success_at) or None,
    }
    told |= {name: getattr(run, name) for name in RUN_FACTS if name not in told}
    return {"parameters": run.parameters, "run": told}


def has_placeholders(arguments: Any) -> bool:
    """Whether a text in the arguments holds a placeholder, or seems to."""
    return _OPENS_AS_JSON in msgspec.json.encode(arguments)  # a tenth of going through them


def without_placeholders(text: str) -> str:
    """The text as it would be with a word for each of its placeholders; raises TemplateError."""
    return "".join(part if isinstance(part, str) else "x" for part in parts_of(text))


@lru_cache(_REMEMBERED)
def parts_of(text: str) -> list[str | Placeholder]:
    """Literal text and placeholders, in order; raises TemplateError."""
    parts: list[str | Placeholder] = []
    at = 0
    while (opens := text.find(_OPENS, at)) >= 0:
        if opens > at and text[opens - 1] == "$":
            parts += [text[at : opens - 1], _OPENS]
            at = opens + len(_OPENS)
            continue
        found = _PLACEHOLDER.match(text, opens)
        if found is None:
            raise TemplateError(
                f"at character {opens + 1}: write `${{{{ parameters.NAME }}}}`, with "
                '`["NAME"]` for a name that is no plain word and `[0]` for an item, '
                f"or `$${{{{` for `{_OPENS}` itself"
            )
        parts += [text[at:opens], _placeholder(found[0], found["path"], opens)]
        at = found.end()
    parts.append(text[at:])
    return [part for part in parts if part]


def _placeholder(text: str, path: str, at: int) -> Placeholder:
    steps = tuple(
        int(index) if index else name or quoted or single
        for name, quoted, single, index in _STEP.findall(path)
    )
    if steps[0] not in ("parameters", "run"):
        raise TemplateError(f"at character {at + 1}: {text}: there are `parameters` and `run`")
    if steps[0] == "run" and (len(steps) != 2 or steps[1] not in RUN_FACTS):
        known = ", ".join(f"run.{name}" for name in RUN_FACTS)
        raise TemplateError(f"at character {at + 1}: {text}: there are {known}")
    return Placeholder(text, steps)


def _advice(executor: str) -> str:
    if executor == "shell":
        return "pass it in `arguments` (argv or environment), or read TIDEMILL_PARAMETERS"
    if executor == "http":
        return "write the path and the query in `arguments.url`"
    return "pass it in `arguments`"


def _kind_of(executor: str, names: Sequence[str]) -> Kind:
    """What a program or a header is given is text; the fields of `json` are what they are."""
    if executor == "shell":
        return "text"
    if executor == "http" and names:
        kinds: dict[str, Kind] = {"url": "url", "headers": "text", "body": "text"}
        return kinds.get(names[0], "value")
    return "value"


def _texts_of(arguments: Any) -> Iterator[tuple[str, str, bool]]:
    """The texts that hold a placeholder, or seem to: pointer, text, and whether it is a name."""
    work = [("/arguments", arguments)]
    while work:
        pointer, value = work.pop()
        if isinstance(value, str):
            if _OPENS in value:
                yield pointer, value, False
        elif isinstance(value, dict | list):
            for key, each in _entries(value):
                name = str(key).replace("~", "~0").replace("/", "~1")
                if isinstance(key, str) and _OPENS in key:
                    yield f"{pointer}/{name}", key, True
                work.append((f"{pointer}/{name}", each))


def _entries(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    return iter(value.items()) if isinstance(value, dict) else iter(enumerate(value))


class _Rendering:
    """Fills in texts, and counts what that brings in."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._bytes = 0

    def filled(self, text: str, kind: Kind) -> Any:
        parts = parts_of(text)
        if kind == "value" and len(parts) == 1 and isinstance(parts[0], Placeholder):
            return self._value(parts[0])[0]
        written: list[str] = []
        is_query = False
        for part in parts:
            if isinstance(part, str):
                written.append(part)
                is_query = is_query or "?" in part
            elif kind == "url":
                written.append(self._url_part(part, is_query=is_query))
            else:
                written.append(self._text(part))
        return "".join(written)

    def _url_part(self, placeholder: Placeholder, *, is_query: bool) -> str:
        """One segment of the path, or one value of the query: it cannot lead elsewhere."""
        text = self._text(placeholder)
        if not is_query and text in ("", ".", ".."):
            raise TemplateError(f"{placeholder.text} is {text!r}, which is no segment of a path")
        return quote(text, safe="")

    def _text(self, placeholder: Placeholder) -> str:
        value, as_json = self._value(placeholder)
        return value if isinstance(value, str) else as_json.decode()

    def _value(self, placeholder: Placeholder) -> tuple[Any, bytes]:
        value = _looked_up(placeholder, self._facts)
        as_json = msgspec.json.encode(value)
        self._bytes += len(as_json)
        if self._bytes > LARGEST:
            raise TemplateError(f"{placeholder.text}: more than {LARGEST} bytes would be filled in")
        return value, as_json


def _looked_up(placeholder: Placeholder, facts: Mapping[str, Any]) -> Any:
    value: Any = facts
    for depth, step in enumerate(placeholder.path):
        if not _has(value, step):
            where = "".join(map(_as_step, placeholder.path[:depth])).removeprefix(".")
            raise TemplateError(f"{placeholder.text}: {where} {_what_is_there(value, step)}")
        value = value[step]
    return value


def _has(value: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, list) and step < len(value)
    return isinstance(value, Mapping) and step in value


def _as_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[A-Za-z_]\w*", step, re.ASCII) else f'["{step}"]'


def _what_is_there(value: Any, step: str | int) -> str:
    wanted = f"item {step}" if isinstance(step, int) else f"field {step!r}"
    if isinstance(value, Mapping):
        there = ", ".join(list(map(str, value))[:_NAMED_FIELDS]) or "none"
        return f"has no {wanted}; its fields: {there}"
    if isinstance(value, list):
        return f"has no {wanted}; it is a list of {len(value)}"
    kind = "null" if value is None else "text" if isinstance(value, str) else "a single value"
    return f"has no {wanted}; it is {kind}"
