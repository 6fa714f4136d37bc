"""Upstream runs ended: which of the runs that waited for them start, and which never will."""

from collections.abc import Mapping

from tidemill.application.ask_expressions import Expressions
from tidemill.domain.dependency import Settled, refusal_of, settle, settle_below
from tidemill.domain.run_status import RunStatus
from tidemill.foundation.store import RunEnd, Transaction


def settle_ends(transaction: Transaction, ends: Mapping[int, RunStatus]) -> Settled:
    """What it comes to that these runs have ended like this."""
    if not ends:
        return Settled({}, [], {}, [])
    counted, tallies = transaction.end_edges([RunEnd(*each) for each in ends.items()])
    return settle_further(transaction, settle(tallies, counted, ends))


def settle_further(transaction: Transaction, settled: Settled) -> Settled:
    """The same, with all that follows from it: what the expressions say, and who is skipped or
    starts because others are skipped, however far down."""
    return _with_those_below(transaction, _with_answers(transaction, settled))


def _with_answers(transaction: Transaction, settled: Settled) -> Settled:
    """The same, and what the expressions say of whom all upstream runs have ended."""
    if not settled.asks:
        return settled
    asked = [settled.tallies[run_id] for run_id in settled.asks]
    expressions = Expressions(transaction, asked)
    refusals = {
        tally.run_id: refusal_of(tally.rule, expressions.ask(tally, settled.skips))
        for tally in asked
    }
    return Settled(
        settled.tallies,
        [*settled.starts, *(run_id for run_id, refusal in refusals.items() if refusal is None)],
        {**settled.skips, **{run_id: each for run_id, each in refusals.items() if each}},
        [],
    )


def _with_those_below(transaction: Transaction, settled: Settled) -> Settled:
    """The same, and what is skipped or starts because others are skipped, however far down."""
    if not settled.skips:
        return settled
    edges = transaction.open_edges_below(settled.skips)
    stored = transaction.tallies({edge.downstream_run_id for edge in edges})
    waiting = {
        run_id: tally
        for run_id, tally in {**stored, **settled.tallies}.items()
        if run_id not in settled.skips
    }
    expressions = Expressions(transaction, waiting.values())
    below = settle_below(waiting, edges, settled.skips, expressions.ask)
    transaction.end_edges([RunEnd(run_id, RunStatus.SKIPPED) for run_id in below.skips])
    return Settled(
        {**settled.tallies, **below.tallies},
        list(dict.fromkeys([*settled.starts, *below.starts])),
        below.skips,
        [],
    )
