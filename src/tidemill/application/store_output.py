"""What running tasks say is stored while they run."""

from collections.abc import Sequence

from tidemill.domain.lease import is_held
from tidemill.foundation.control_plane import OutputReport
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def store_output(transaction: Transaction, reports: Sequence[OutputReport]) -> int:
    """Store what comes from those who still hold their run; how many reports were stale."""
    runs = transaction.runs([report.run_id for report in reports])
    held = [
        report
        for report in reports
        if report.run_id in runs and is_held(runs[report.run_id], report.fence)
    ]
    transaction.append_logs([lines for report in held for lines in report.lines])
    for report in held:
        columns = {
            name: value
            for name in ("progress", "checkpoint")
            if (value := getattr(report, name)) is not None
        }
        if columns:
            transaction.note_progress(report.run_id, **columns)
    transaction.announce(Topic.OUTPUT)
    return len(reports) - len(held)
