"""The reference says what the code does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.reference import EXIT_CODES, REASONS, STATUSES, TASK_FIELDS, pages, task_rows

import tidemill
from tidemill.cli import app
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition

SOURCE = Path(tidemill.__file__).parent
ROOMS = ("application", "domain", "infrastructure", "worker")  # where runs get their reasons


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_of_the_reference_says_what_the_code_does(page: Path) -> None:
    assert page.read_text() == pages()[page], "make reference"


def test_nothing_is_explained_that_is_not_there() -> None:
    assert set(STATUSES) == set(RunStatus)
    assert set(EXIT_CODES) == {*range(app.UNREACHABLE + 1), app.INTERRUPTED}
    named = {row[0].strip("`") for row in task_rows(TaskDefinition, "")}
    assert named == set(TASK_FIELDS)


def test_every_reason_in_the_code_is_explained_and_no_other() -> None:
    trees = [
        ast.parse(path.read_text()) for room in ROOMS for path in (SOURCE / room).rglob("*.py")
    ]
    given = {reason for tree in trees for reason in reasons_in(tree)}
    texts = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert {"exit_code", "worker_lost", "unclaimed"} <= given
    assert given <= set(REASONS), given - set(REASONS)
    assert set(REASONS) - {"cancelled_by_user"} <= texts, set(REASONS) - texts


def reasons_in(tree: ast.Module) -> Iterator[str]:
    """What is passed as a reason, assigned to one, or put under that name."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="failure"), args=[first, *_]):
                yield from words_of(first)
            case ast.Call(func=ast.Name(id="cancel_runs"), args=[*_, last]):
                yield from words_of(last)
            case ast.keyword(arg="reason", value=value):
                yield from words_of(value)
            case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                yield from words_of(value)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "reason":
                        yield from words_of(value)


def words_of(node: ast.expr) -> Iterator[str]:
    """The literal that an expression is, or the two that it chooses between."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words_of(node.body)
        yield from words_of(node.orelse)
