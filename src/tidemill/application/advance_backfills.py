"""The flow runs of a backfill take turns: when one has ended, the next begins.

    flow run ends ─► its backfill is locked ─► those under way are counted ─► the next ones begin

All of it in the transaction that ends the flow run, so that nothing is lost by a kill.
"""

from collections.abc import Collection

from tidemill.application.begin_runs import begin_runs
from tidemill.domain.flow_run import begun
from tidemill.foundation.store import Transaction


def advance_backfills(transaction: Transaction, backfill_ids: Collection[str]) -> None:
    """Let as many flow runs of each begin as it has room for, the earliest fire time first."""
    if not backfill_ids:
        return
    waiting = transaction.next_flow_runs(backfill_ids)
    flow_runs = {each.id: begun(each, transaction.now) for each in waiting}
    transaction.save_flow_runs(list(flow_runs.values()))
    transaction.forget_backfills(backfill_ids)
    begin_runs(transaction, flow_runs, transaction.runs_without_turn(flow_runs))
