"""What a task's trigger rule may be, beside the upstream tasks that it is about."""

from collections.abc import Collection, Iterator

from tidemill.domain.dependency import RULES, is_expression
from tidemill.domain.expression import Expression, expression_of
from tidemill.domain.expression_syntax import SyntaxProblem
from tidemill.domain.task import TaskDefinition
from tidemill.errors import Problem


def rule_problems(definition: TaskDefinition, upstream_tasks: Collection[str]) -> Iterator[Problem]:
    """What is wrong with it; `upstream_tasks` are the names of those that there are."""
    rule = definition.trigger_rule
    if not is_expression(rule):
        return
    try:
        expression = expression_of(rule)
    except SyntaxProblem as error:
        known = ", ".join(RULES)
        yield Problem("/trigger_rule", f"{error}; give {known}, or an expression like {_EXAMPLE}")
        return
    if not definition.dependencies:
        yield Problem("/trigger_rule", "an expression needs `dependencies` whose ends it is about")
    yield from _unknown_tasks(expression, upstream_tasks)
    for index, dependency in enumerate(definition.dependencies):
        if dependency.condition not in ("succeeded", "completed"):
            yield Problem(
                f"/dependencies/{index}/condition",
                "beside an expression no condition counts: leave it out, and ask for "
                "`upstream.TASK.status` in trigger_rule",
            )


_EXAMPLE = 'upstream.check.status == "succeeded"'


def _unknown_tasks(expression: Expression, upstream_tasks: Collection[str]) -> Iterator[Problem]:
    known = ", ".join(sorted(upstream_tasks)) or "none"
    for name, path in expression.upstream_tasks.items():
        if name not in upstream_tasks:
            said = f"{path}: {name!r} is not among the dependencies; there are: {known}"
            yield Problem("/trigger_rule", said)
