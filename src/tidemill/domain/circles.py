"""Tasks that would wait for one another."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

N = TypeVar("N", bound=Hashable)

_NAMED = 10  # of a long circle
_IN_ONE_GO = 1_000  # steps


def find_circles(
    upstream: Mapping[N, Collection[N]], most: int, give_way: Callable[[], None]
) -> list[list[N]]:
    """Up to `most` circles of a graph, none where there is none.

    `upstream` says of each whom it waits for, each once. In a circle each waits for the one after
    it; the last is the first once more. `give_way` is called each thousand steps.
    """
    graph = _knot_of(upstream, give_way)
    found: list[list[N]] = []
    while len(found) < most:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: list[N] = error.args[1][::-1]
            found.append(circle)
            del graph[circle[0]]  # so that the next one is another
        else:
            break
    return found


def _knot_of(
    upstream: Mapping[N, Collection[N]], give_way: Callable[[], None]
) -> dict[N, Collection[N]]:
    """Without all that wait, one for the other, for nobody: where nothing is left is no circle."""
    waits_for = {node: len(nodes) for node, nodes in upstream.items()}
    downstream: dict[N, list[N]] = {}
    for number, (node, nodes) in enumerate(upstream.items(), 1):
        if not number % _IN_ONE_GO:
            give_way()
        for each in nodes:
            downstream.setdefault(each, []).append(node)
    free = [each for each in downstream if not waits_for.get(each)]
    for number, each in enumerate(free, 1):
        if not number % _IN_ONE_GO:
            give_way()
        for node in downstream.get(each, ()):
            waits_for[node] -= 1
            if not waits_for[node]:
                free.append(node)
    return {node: upstream[node] for node, count in waits_for.items() if count}


def told_as_a_way(names: Sequence[str]) -> str:
    """A circle in one line: of a long one, its beginning and end."""
    shown = list(names)
    if len(names) > _NAMED:
        half = _NAMED // 2
        between = f"… ({len(names) - 2 * half} more) …"
        shown = [*names[:half], between, *names[-half:]]
    return " → ".join(shown)
