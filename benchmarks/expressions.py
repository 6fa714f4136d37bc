"""What the worst expressions cost that are accepted, at the limits of what they may see."""

import time
from datetime import UTC, datetime
from typing import Any

from tidemill.domain.expression import MOST_CHARACTERS, MOST_VALUES, Expression
from tidemill.domain.expression_syntax import LONGEST, MOST_BODY_TOKENS, MOST_PATHS, MOST_SUMS

_L = "upstream.a.result.l"
_NUMBERS = [1] * (MOST_VALUES - 10)
_OBJECTS = [{"k": 1}] * (MOST_VALUES // 2 - 10)
_TEXT = "x" * (MOST_CHARACTERS - 100)
_EIGHT = f"[{','.join(['x'] * 8)}]"
_WORDS = (MOST_BODY_TOKENS - 8) // 4

_WORST: dict[str, tuple[str, Any]] = {
    "sums_of_lists": ("+".join([_L] * (MOST_SUMS + 1)) + " == [1]", _NUMBERS),
    "sums_of_text": ("+".join([_L] * (MOST_SUMS + 1)) + " == ''", _TEXT),
    "equal_lists": (" && ".join([f"{_L} == {_L}"] * (MOST_PATHS // 2)), _NUMBERS),
    "lists_of_lists": (f"[{','.join([_L] * 16)}] == [{','.join([_L] * 16)}]", _NUMBERS),
    "long_body": (f"{_L}.all(x, {' && '.join(['x > 0'] * _WORDS)})", _NUMBERS),
    "objects": (f"{_L}.all(x, {' && '.join(['x.k > 0'] * (_WORDS * 4 // 6))})", _OBJECTS),
    "lists_in_bodies": (f"{_L}.all(x, {_EIGHT} == {_EIGHT})", _NUMBERS),
    "instants_in_bodies": (
        f'{_L}.all(x, timestamp("2026-01-01T00:00:00Z") < timestamp("2026-01-02T00:00:00Z"))',
        _NUMBERS,
    ),
    "text_in_text": (f'{_L}.contains("{"x" * 400}y")', _TEXT),
    "long_text": ("!" * (LONGEST - 4) + "true", None),
    "deep_brackets": ("(" * 16 + "true" + ")" * 16, None),
}  # fmt: skip


def expressions() -> dict[str, Any]:
    """Milliseconds of a thread's own time: to parse each, and to ask it."""
    found = {name: _cost_of(text, value) for name, (text, value) in _WORST.items()}
    return {"slowest_ms": max(cost["ask_ms"] for cost in found.values()), "each": found}


def _cost_of(text: str, value: Any) -> dict[str, float]:
    began = time.thread_time()
    expression = Expression(text)
    parsed = time.thread_time()
    upstream = {"a": {"status": "succeeded", "reason": None, "result": {"l": value}}}
    asked = [_seconds_to_ask(expression, upstream) for _ in range(5)]
    return {"parse_ms": _as_ms(parsed - began), "ask_ms": _as_ms(min(asked))}


def _seconds_to_ask(expression: Expression, upstream: dict[str, Any]) -> float:
    began = time.thread_time()
    answer = expression.ask(upstream, {}, datetime.now(UTC))
    if answer.error is not None:
        raise RuntimeError(f"it was not asked to the end: {answer.error}")
    return time.thread_time() - began


def _as_ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)
