"""An attempt ended: its outcome becomes the run's status, or another attempt is planned."""

from collections.abc import Sequence

import msgspec

from tidemill.application.end_attempts import end_by_rule
from tidemill.application.follow_up import follow_up_attempts, follow_up_ended
from tidemill.application.tell_stale import tell_stale
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunHead, Success
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


class Recorded(msgspec.Struct, frozen=True):
    """What became of the reports."""

    accepted: int
    stale: int


def record_outcomes(transaction: Transaction, reports: Sequence[AttemptReport]) -> Recorded:
    """Write how these attempts ended. A report with an old fence changes nothing but is told.

    What succeeded asks for no decision and is written by the store; the rest goes by the rules.
    """
    succeeded, waited_for = transaction.record_successes(_successes_of(reports))
    follow_up_ended(transaction, succeeded, waited_for)
    changes, stale = end_by_rule(transaction, _without(succeeded, reports))
    follow_up_attempts(transaction, changes)
    tell_stale(transaction, [(report.run_id, report.fence) for report in stale])
    transaction.announce(Topic.EVENTS)
    if any(change.changes["status"] is RunStatus.RETRYING for change in changes):
        transaction.announce(Topic.READY)
    return Recorded(len(succeeded) + len(changes), len(stale))


def _successes_of(reports: Sequence[AttemptReport]) -> list[Success]:
    found: dict[int, Success] = {}
    for report in reports:
        outcome = report.outcome
        if outcome.succeeded:
            success = Success(
                report.run_id, report.fence, outcome.result, outcome.exit_code, report.log_seq
            )
            found.setdefault(report.run_id, success)
    return list(found.values())


def _without(succeeded: Sequence[RunHead], reports: Sequence[AttemptReport]) -> list[AttemptReport]:
    """The reports that are still to be heeded; what is said once more is among them."""
    heeded = {(run.id, run.fence) for run in succeeded}
    left = []
    for report in reports:
        said = (report.run_id, report.fence)
        if report.outcome.succeeded and said in heeded:
            heeded.remove(said)
        else:
            left.append(report)
    return left
