"""How many runs of a flow run there are, and how many of them have not ended."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from tidemill.domain.flow_run import FlowRun, ended
from tidemill.foundation.store import Transaction


class FlowCounts:
    """Counts for these flow runs, which are locked, how many of their runs are new, and how many
    have gone, beside those that they are counted down by already."""

    def __init__(self, flow_runs: Mapping[str, FlowRun]) -> None:
        self.flow_runs = flow_runs
        self.new: Counter[str | None] = Counter()
        self.gone: Counter[str | None] = Counter()

    def save(self, transaction: Transaction) -> list[FlowRun]:
        """Store what was counted; with its last run, a flow run has ended. Those that have.

        One that was over before stays as it is: an edge from outside may be counted later.
        """
        open_ = [each for each in self.flow_runs.values() if each.completed_at is None]
        counted = [
            self._counted(each)
            for each in open_
            if self.new[each.id] or self.gone[each.id] or not each.unfinished
        ]
        ids = [each.id for each in counted if not each.unfinished]
        unhandled = transaction.unhandled_ends(ids) if ids else {}
        over = [
            ended(each, unhandled[each.id], transaction.now)
            for each in counted
            if not each.unfinished
        ]
        transaction.save_flow_runs([*(each for each in counted if each.unfinished), *over])
        return over

    def _counted(self, flow_run: FlowRun) -> FlowRun:
        new = self.new[flow_run.id]
        return msgspec.structs.replace(
            flow_run,
            total=flow_run.total + new,
            unfinished=flow_run.unfinished + new - self.gone[flow_run.id],
        )
