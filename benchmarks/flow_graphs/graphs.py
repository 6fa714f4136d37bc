"""Tasks that hang on one another by chance."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

_NEAR = 10  # a task depends on some of so many that were made before it
_MOST_ITEMS = 5
_CONDITIONS = {"succeeded": 5, "completed": 4, "failed": 2, "skipped": 2}
_RULES = {"all": 4, "any": 4, "none_failed": 2, "expression": 3}
_ENDS = ("succeeded", "failed", "skipped")


class Term(NamedTuple):
    """Whether a task ended so, or did not."""

    task: str
    is_so: bool
    status: str


class Expression(NamedTuple):
    """Terms of which all have to be true, or any."""

    joined_by: str  # "&&" or "||"
    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return f" {self.joined_by} ".join(
            f'upstream["{term.task}"].status {"==" if term.is_so else "!="} "{term.status}"'
            for term in self.terms
        )


class Node(NamedTuple):
    """One task: what it waits for, and what is to be known of its runs."""

    name: str
    upstream: tuple[tuple[str, str], ...] = ()  # (task, condition)
    rule: str | Expression = "all"
    map_over: str | None = None  # one of `upstream`
    items: int | None = None  # in the list that it returns, where it is to return one
    retries: int = 0
    max_parallel: int | None = None


class Graph(NamedTuple):
    """Its nodes, each after all that it waits for; the first is the one that fires."""

    nodes: tuple[Node, ...]

    @property
    def root(self) -> str:
        return self.nodes[0].name


def random_graph(chance: random.Random, prefix: str, size: int) -> Graph:
    """So many tasks, all of which can be reached from the first."""
    nodes = [Node(f"{prefix}-0", items=chance.randint(0, _MOST_ITEMS))]
    while len(nodes) < size:
        nodes.append(_random_node(chance, f"{prefix}-{len(nodes)}", nodes[-_NEAR:]))
    return Graph(tuple(nodes))


def _random_node(chance: random.Random, name: str, near: Sequence[Node]) -> Node:
    chosen = chance.sample(near, min(chance.choice((1, 1, 2, 2, 3)), len(near)))
    rule = _by_weight(chance, _RULES)
    conditions = [
        "succeeded" if rule == "expression" else _by_weight(chance, _CONDITIONS) for _ in chosen
    ]
    map_over = None
    if chosen[0].items is not None and rule != "any":
        map_over, conditions[0] = chosen[0].name, "succeeded"
    is_source = map_over is None and chance.random() < 0.3
    return Node(
        name,
        tuple((each.name, condition) for each, condition in zip(chosen, conditions, strict=True)),
        _random_expression(chance, chosen) if rule == "expression" else rule,
        map_over,
        chance.randint(0, _MOST_ITEMS) if is_source else None,
        chance.choice((0, 0, 0, 1)),
        None if map_over is None else chance.choice((None, 1, 2)),
    )


def _random_expression(chance: random.Random, upstream: Sequence[Node]) -> Expression:
    terms = [Term(each.name, chance.random() < 0.5, chance.choice(_ENDS)) for each in upstream]
    return Expression(chance.choice(("&&", "||")), tuple(terms))


def _by_weight(chance: random.Random, weights: dict[str, int]) -> str:
    [found] = chance.choices(list(weights), list(weights.values()))
    return found


def definition_of(node: Node, arguments: dict[str, Any]) -> dict[str, Any]:
    """The task that the API is given."""
    mapped = {"task": f"name:{node.map_over}", "max_parallel": node.max_parallel}
    return {
        "name": node.name,
        "executor": "python",
        "command": "coins:toss",
        "arguments": arguments | {"items": node.items},
        "dependencies": [
            {"task": f"name:{task}", "condition": condition} for task, condition in node.upstream
        ],
        "trigger_rule": str(node.rule),
        "map_over": None if node.map_over is None else mapped,
        "retry": {"max_retries": node.retries, "delay_seconds": 0.2, "jitter": False},
    }
