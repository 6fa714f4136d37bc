"""What an expression may be, what it sees and what it comes to."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.domain.expression import MOST_CHARACTERS, MOST_VALUES, Answer, expression_of
from tidemill.domain.expression_syntax import SyntaxProblem

MONDAY = datetime(2026, 11, 30, 6, 30, tzinfo=UTC)
UPSTREAM: dict[str, Any] = {
    "check": {
        "status": "succeeded",
        "reason": None,
        "result": {"rows": 3, "ratio": 1.5, "none": None, "big": 2**70, "ok": True,
                   "files": [{"size": 1, "name": "a.csv"}, {"size": 20, "name": "b.csv"}]},
    },
    "check-2": {"status": "skipped", "reason": "upstream", "result": None},
}  # fmt: skip
RESULT = "upstream.check.result"


def ask(text: str, /, **result: Any) -> Answer:
    upstream = UPSTREAM
    if result:
        upstream = {"check": {"status": "succeeded", "reason": None, "result": result}}
    return expression_of(text).ask(upstream, {"day": "monday"}, MONDAY)


@pytest.mark.parametrize(
    "text",
    [
        f'upstream.check.status == "succeeded" && {RESULT}.rows > 2',
        f"{RESULT}.rows > 2.5 && {RESULT}.ratio > 1 && {RESULT}.big > 1",
        f"{RESULT}.none == null && {RESULT}.ok",
        f'!has({RESULT}.lines) && has({RESULT}.rows) && "ok" in {RESULT}',
        'upstream["check-2"].status != "succeeded" || upstream["check-2"].result.ok',
        "upstream['check-2'].reason == 'upstream'",
        f"{RESULT}.files.all(f, f.size > 0) && {RESULT}.files.exists_one(f, f.size > 9)",
        f'{RESULT}.files[1].name.endsWith(".csv") && size({RESULT}.files) == 2',
        'parameters.day in ["monday", "friday"]',
        'scheduled_for.getDayOfWeek() == 1 && scheduled_for > timestamp("2026-01-01T00:00:00Z")',
        f"{RESULT}.rows > 5 ? false : true",
    ],
)
def test_an_expression_holds_of_what_it_is_true_of(text: str) -> None:
    assert ask(text) == Answer(True)


def test_an_expression_sees_the_fields_that_it_names_and_only_these_count() -> None:
    much = {"rows": 1, "all": list(range(10 * MOST_VALUES)), "text": "a" * 2 * MOST_CHARACTERS}
    assert ask(f"{RESULT}.rows == 1", **much) == Answer(True)
    for text in (f"{RESULT}.all.size() > 1", f"{RESULT}.text.size() > 1", f"{RESULT} == null"):
        answer = ask(text, **much)
        assert not answer.holds
        assert "it reads more than" in (answer.error or "")


def test_values_that_are_nested_too_deep_are_not_seen() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    assert "deep" in (ask(f"{RESULT}.deep == 1", deep=deep).error or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at character 1"),
        (f"{RESULT}.rows >", "at character 29"),
        (f"true &&\n{RESULT}.rows == == 1", "at character 39"),
        ("rows > 1", "at character 1: unknown name `rows`"),
        ("upstream", "upstream.TASK.status"),
        ("upstream.check.state == 1", "there is upstream.check.status"),
        (f".{RESULT}.rows > 1", "`.` follows nothing"),
        (f"{RESULT}.files.map(f, f.size) == []", "no function `map`"),
        (f'{RESULT}.name.matches("a+")', "no function `matches`"),
        ('open("/etc/passwd")', "no function `open`"),
        (f"{RESULT}.files.all(f, [f].all(g, true))", "inside another"),
        (f"{RESULT}.files.all(f, {RESULT}.rows > 1)", "only its own variable"),
        (f"[{RESULT}.files].all(f, true)", "is asked of a field"),
        (f"{RESULT}.files.all(upstream, true)", "write it as `all(x, …)`"),
        ("{1: 2} == {1: 2}", "'{' has no meaning"),
        ('"""a""" == "a"', "plain quotes"),
        ('r"a" == "a"', "plain quotes"),
        ('"a\0" == "a"', "has no meaning"),
        ("(" * 17 + "true" + ")" * 17, "more than 16 deep"),
        ("true)", "')' closes nothing"),
        ("1" + "+1" * 9 + " == 10", "8 times `+`"),
        (" && ".join([f"{RESULT}.r"] * 33), "more than 32 places"),
        (RESULT + ".a" * 40, "32 fields deep"),
        (" && ".join([f"{RESULT}.l.all(x, x)"] * 5), "more than 4 comprehensions"),
        (f"{RESULT}.l.all(x, {'!' * 60}x)", "more than 48 words"),
        ("true" + " " * 1_000, "at most 1000 characters"),
    ],
)  # fmt: skip
def test_an_expression_that_is_none_or_may_cost_much_is_refused(text: str, said: str) -> None:
    with pytest.raises(SyntaxProblem) as refused:
        expression_of(text)
    assert said in str(refused.value)


_WORDS = st.sampled_from(
    [f"{RESULT}.rows", f"{RESULT}.files", f"{RESULT}.none", f"{RESULT}.big", "scheduled_for",
     "parameters", "1", "-9223372036854775807", "1.5", '"a"', "null", "true", "==", "<", "+", "-",
     "*", "/", "%", "&&", "||", "!", "?", ":", "(", ")", "[", "]", ",", "in", ".size()",
     ".all(x, x", ".size", "int(", "double(", "duration(", "timestamp(", '"1h"',
     '"9999-12-31T23:59:59Z"', ".getHours()", "has(", "x", ".rows", "[0]"]
)  # fmt: skip


@settings(max_examples=2_000, deadline=None)
@given(st.lists(_WORDS, max_size=12).map(" ".join))
def test_whatever_is_written_is_refused_or_answered(text: str) -> None:
    try:
        expression = expression_of(text)
    except SyntaxProblem:
        return
    answer = expression.ask(UPSTREAM, {}, MONDAY)
    assert answer.error is None or not answer.holds
