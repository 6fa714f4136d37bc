"""A worker reports: what its attempts said is stored, and then how some of them ended."""

from collections.abc import Sequence

import msgspec

from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.store_output import store_output
from tidemill.foundation.control_plane import AttemptReport, OutputReport
from tidemill.foundation.store import Transaction


class Taken(msgspec.Struct, frozen=True):
    """What became of the reports; those with an old fence changed nothing."""

    accepted: int
    stale: int


def take_reports(
    transaction: Transaction, outputs: Sequence[OutputReport], endings: Sequence[AttemptReport]
) -> Taken:
    """Output goes before the end that follows it. Said once more, an end is stale."""
    stale = store_output(transaction, outputs) if outputs else 0
    accepted = len(outputs) - stale
    if endings:
        recorded = record_outcomes(transaction, endings)
        accepted, stale = accepted + recorded.accepted, stale + recorded.stale
    return Taken(accepted, stale)
