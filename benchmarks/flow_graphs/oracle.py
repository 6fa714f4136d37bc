"""What should come of a flow run, told from its graph and the coins alone.

Written from `docs/explanation/flow-runs.md`, and of nothing that the product is made of.
"""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.flow_graphs.graphs import Expression, Graph, Node

Coin = Callable[[str, int], bool]  # whether the run of a task fails, or this item of it
Ends = dict[str, list[str]]  # how each task ended: one status, or one for each item

_MEETS = {
    "succeeded": {"succeeded"},
    "failed": {"failed"},
    "completed": {"succeeded", "failed", "cancelled"},
    "skipped": {"skipped"},
}
_WORST_FIRST = ("failed", "cancelled", "skipped", "succeeded")
_NOT_WELL = {"failed", "cancelled"}


def expected_ends(graph: Graph, coin: Coin) -> Ends:
    """How every task of the graph has to end."""
    ends: Ends = {}
    items = {node.name: node.items for node in graph.nodes}
    for node in graph.nodes:
        ends[node.name] = _ends_of(node, ends, items, coin)
    return ends


def _ends_of(node: Node, ends: Ends, items: Mapping[str, int | None], coin: Coin) -> list[str]:
    if node.upstream and not _starts(node, ends):
        return ["skipped"]
    if node.map_over is None:
        return [_tossed(coin(node.name, 0))]
    [source] = ends[node.map_over]
    if source != "succeeded":  # there is no list; by a rule that lets it start all the same
        return ["skipped" if source == "skipped" else "cancelled"]
    count = items[node.map_over]
    assert count is not None
    return [_tossed(coin(node.name, item)) for item in range(count)] or ["skipped"]


def _tossed(is_tails: bool) -> str:
    return "failed" if is_tails else "succeeded"


def _starts(node: Node, ends: Ends) -> bool:
    if isinstance(node.rule, Expression):
        return _holds(node.rule, ends)
    met = [end in _MEETS[condition] for task, condition in node.upstream for end in ends[task]]
    if node.rule == "any":
        return any(met)
    if node.rule == "all":
        return all(met)
    return not any(end in _NOT_WELL for task, _ in node.upstream for end in ends[task])


def _holds(expression: Expression, ends: Ends) -> bool:
    found = [(worst_of(ends[term.task]) == term.status) is term.is_so for term in expression.terms]
    return all(found) if expression.joined_by == "&&" else any(found)


def worst_of(ends: Sequence[str]) -> str:
    """How a task ended whose items ended so."""
    return min(ends, key=_WORST_FIRST.index)


def expected_flow_status(graph: Graph, ends: Ends) -> str:
    """How the flow run has to end: a failure counts that no dependent took up."""
    taken_up = {
        task for node in graph.nodes if ends[node.name] != ["skipped"] for task, _ in node.upstream
    }
    left = {end for task, those in ends.items() if task not in taken_up for end in those}
    if "failed" in left:
        return "failed"
    return "cancelled" if "cancelled" in left else "succeeded"


def earliest_starts(
    graph: Graph, ends: Ends, ended_at: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Before which instant no run of each task may start: when all had ended that it waits for.

    `ended_at` has the instants at which runs and items ended, in the order of `ends`, of those that
    ran. What was skipped, or had nothing to be mapped over, ended when that could be told.
    """
    known: dict[str, Sequence[float]] = {}
    starts: dict[str, float] = {}
    for node in graph.nodes:
        starts[node.name] = _told_at(node, ends, known)
        known[node.name] = ended_at.get(node.name) or [starts[node.name]]
    return starts


def _told_at(node: Node, ends: Ends, known: Mapping[str, Sequence[float]]) -> float:
    """When it could be told whether this task starts."""
    upstream = [
        (at, end, end in _MEETS[condition])
        for task, condition in node.upstream
        for at, end in zip(known[task], ends[task], strict=True)
    ]
    deciding: list[float] = []  # one of these is enough
    if node.rule == "any":
        deciding = [at for at, _, is_met in upstream if is_met]
    elif node.rule == "all":
        deciding = [at for at, _, is_met in upstream if not is_met]
    elif node.rule == "none_failed":
        deciding = [at for at, end, _ in upstream if end in _NOT_WELL]
    if deciding:
        return min(deciding)
    return max((at for at, _, _ in upstream), default=0.0)
