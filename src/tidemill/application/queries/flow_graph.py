"""A flow run, a part of its runs and all that these wait for."""

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from operator import attrgetter

import msgspec

from tidemill.domain.dependency import Edge
from tidemill.domain.flow_run import FlowRun, Member
from tidemill.foundation.store import Reads

_EDGES_AT_ONCE = 10_000


class FlowGraph(msgspec.Struct, frozen=True):
    """One page of a flow run; `next_after` is the id of its last run where others follow."""

    flow_run: FlowRun
    started_at: datetime | None
    runs: Sequence[Member]
    carried_over: Sequence[Member]
    edges: Sequence[Edge]
    critical_path: Sequence[int]
    next_after: int | None


def flow_graph(reads: Reads, flow_run: FlowRun, after: int, limit: int) -> FlowGraph:
    """Up to `limit` runs with ids above `after`, its own and those that it carries over; fewer
    where very many edges lead into them.

    The critical path is that of the whole flow run.
    """
    own = reads.members(flow_run.id, after, limit + 1)
    carried = reads.carried_runs(flow_run.id, after, limit + 1)
    counts = reads.upstream_counts([each.id for each in own])
    shown: list[int] = []
    edges = 0
    found = sorted([*own, *carried], key=attrgetter("id"))
    for each in islice(found, limit):
        edges += counts.get(each.id, 0)
        if shown and edges > _EDGES_AT_ONCE:
            break
        shown.append(each.id)
    last = shown[-1] if shown else after
    runs = [each for each in own if each.id <= last]
    return FlowGraph(
        flow_run,
        reads.flow_run_started_at(flow_run.id),
        runs,
        [each for each in carried if each.id <= last],
        reads.edges_into([each.id for each in runs]),
        reads.critical_path(flow_run.id),
        last if len(shown) < len(found) else None,
    )
