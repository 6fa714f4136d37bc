"""A flow run, a part of its runs and all that these wait for."""

from collections.abc import Sequence
from datetime import datetime

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
    edges: Sequence[Edge]
    critical_path: Sequence[int]
    next_after: int | None


def flow_graph(reads: Reads, flow_run: FlowRun, after: int, limit: int) -> FlowGraph:
    """Up to `limit` runs with ids above `after`, fewer where very many edges lead into them.

    The critical path is that of the whole flow run.
    """
    found = reads.members(flow_run.id, after, limit + 1)
    counts = reads.upstream_counts([each.id for each in found])
    runs: list[Member] = []
    edges = 0
    for each in found[:limit]:
        edges += counts.get(each.id, 0)
        if runs and edges > _EDGES_AT_ONCE:
            break
        runs.append(each)
    return FlowGraph(
        flow_run,
        reads.flow_run_started_at(flow_run.id),
        runs,
        reads.edges_into([each.id for each in runs]),
        reads.critical_path(flow_run.id),
        runs[-1].id if len(runs) < len(found) else None,
    )
