"""What placeholders in a task's arguments become, and which are refused."""

from typing import Any

import pytest

from tidemill.domain.outcome import failure
from tidemill.domain.retry import is_retryable
from tidemill.domain.task import Retry
from tidemill.domain.template import LARGEST, TemplateError, render, template_problems

FACTS: dict[str, Any] = {
    "parameters": {
        "day": "monday",
        "count": 3,
        "ok": True,
        "none": None,
        "trap": "${{ parameters.day }}",
        "upstream": {"split": {"path": "/a b"}, "my-task": {"items": [{"x": 1}, 2]}},
    },
    "run": {"id": 11, "scheduled_for": "2026-11-30T06:30:00.000Z"},
}


def fill(value: Any, executor: str = "python") -> Any:
    return render(executor, {"it": value}, FACTS)["it"]


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("no placeholder", "no placeholder"),
        ("${{ parameters.day }}", "monday"),
        ("${{parameters.count}}", 3),
        ("${{ parameters.ok }}", True),
        ("${{ parameters.none }}", None),
        ('${{ parameters.upstream["my-task"].items[0] }}', {"x": 1}),
        ("${{ parameters.upstream['my-task'].items[1] }}", 2),
        ("${{ run.id }}", 11),
        ("at ${{ run.scheduled_for }}", "at 2026-11-30T06:30:00.000Z"),
        ("${{ parameters.day }}-${{ parameters.count }}", "monday-3"),
        ("is ${{ parameters.ok }} and ${{ parameters.none }}", "is true and null"),
        ('all: ${{ parameters.upstream["my-task"] }}', 'all: {"items":[{"x":1},2]}'),
        ("$${{ parameters.day }}", "${{ parameters.day }}"),
        ("$$${{ ${{ parameters.day }}", "$${{ monday"),
        ("${{ parameters.trap }}", "${{ parameters.day }}"),
        ("<${{ parameters.trap }}>", "<${{ parameters.day }}>"),
    ],
)
def test_a_placeholder_becomes_its_value_and_nothing_is_filled_in_twice(
    text: str, becomes: Any
) -> None:
    assert fill(text) == becomes
    assert fill([{"deep": [text]}]) == [{"deep": [becomes]}]


def test_what_a_program_is_given_is_text() -> None:
    argv = ["--count", "${{ parameters.count }}", "${{ parameters.upstream.split }}"]
    assert render("shell", argv, FACTS) == ["--count", "3", '{"path":"/a b"}']
    assert fill({"A": "${{ parameters.ok }}"}, "shell") == {"A": "true"}


def test_of_an_http_request_headers_and_body_are_text_and_the_json_is_what_it_is() -> None:
    arguments = {
        "headers": {"X-Count": "${{ parameters.count }}"},
        "json": {"count": "${{ parameters.count }}"},
        "url": "/days/${{ parameters.upstream.split.path }}?c=${{ parameters.count }}",
    }
    assert render("http", arguments, FACTS) == {
        "headers": {"X-Count": "3"},
        "json": {"count": 3},
        "url": "/days/%2Fa%20b?c=3",
    }


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_value_in_a_url_cannot_lead_to_another_place(value: str) -> None:
    facts = {"parameters": {"id": value}, "run": {}}
    with pytest.raises(TemplateError, match="no segment of a path"):
        render("http", {"url": "/orders/${{ parameters.id }}"}, facts)
    queried = render("http", {"url": "/orders?id=${{ parameters.id }}"}, facts)
    assert queried == {"url": f"/orders?id={value}"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${{ parameters.night }}", "parameters has no field 'night'; its fields: day, count"),
        ("${{ parameters.day.x }}", "parameters.day has no field 'x'; it is text"),
        ("${{ parameters.none.x }}", "parameters.none has no field 'x'; it is null"),
        (
            '${{ parameters.upstream["my-task"].items[2] }}',
            'parameters.upstream["my-task"].items has no item 2; it is a list of 2',
        ),
        ("${{ parameters.day[0] }}", "has no item 0"),
        ("${{ parameters.upstream.keys }}", "its fields: split, my-task"),
    ],
)
def test_a_placeholder_whose_value_is_not_there_says_what_is(text: str, said: str) -> None:
    with pytest.raises(TemplateError) as refused:
        fill(f"a {text}")
    assert str(refused.value).startswith(f"{text}: ")
    assert said in str(refused.value)


def test_placeholders_bring_in_no_more_than_the_limit() -> None:
    facts = {"parameters": {"x": "a" * (LARGEST // 3)}, "run": {}}
    assert len(render("python", ["${{ parameters.x }}"] * 2, facts)) == 2
    with pytest.raises(TemplateError, match="more than"):
        render("python", ["${{ parameters.x }}"] * 3, facts)


@pytest.mark.parametrize(
    ("executor", "command", "arguments", "pointer", "said"),
    [
        ("shell", "echo ${{ parameters.x }}", [], "/command", "TIDEMILL_PARAMETERS"),
        ("http", "http://a/${{ parameters.x }}", {}, "/command", "arguments.url"),
        ("python", "a:${{ run.id }}", {}, "/command", "pass it in `arguments`"),
        ("shell", "a", ["b", "${{ parameters.my-task }}"], "/arguments/1", "at character 1"),
        ("shell", "a", {"argv": ["x ${{ 1 + 1 }}"]}, "/arguments/argv/0", "at character 3"),
        ("python", "a:b", {"x/y": ["${{"]}, "/arguments/x~1y/0", "`$${{` for `${{` itself"),
        ("python", "a:b", {"x": "${{ settings.auth }}"}, "/arguments/x", "`parameters` and `run`"),
        ("python", "a:b", {"x": "${{ parameters.__class__() }}"}, "/arguments/x", "write"),
        ("python", "a:b", {"x": "${{ run.lease }}"}, "/arguments/x", "run.id, run.task_id"),
        ("python", "a:b", {"x": "${{ run }}"}, "/arguments/x", "run.id, run.task_id"),
        ("python", "a:b", {"${{ run.id }}": 1}, "/arguments/${{ run.id }}", "a name is not"),
    ],
)
def test_a_placeholder_that_can_never_be_filled_in_is_refused_where_it_stands(
    executor: str, command: str, arguments: Any, pointer: str, said: str
) -> None:
    [problem] = template_problems(executor, command, arguments)
    assert problem.pointer == pointer
    assert said in problem.message


def test_nested_arguments_are_filled_in_however_deep() -> None:
    deep: Any = "${{ parameters.day }}"
    for _ in range(500):
        deep = [deep]
    found = fill(deep)
    for _ in range(500):
        [found] = found
    assert found == "monday"


def test_an_attempt_that_could_not_be_filled_in_is_not_tried_again() -> None:
    assert not is_retryable(Retry(retry_on=["template"]), failure("template", "x"))
