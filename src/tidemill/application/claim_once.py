"""A worker whose answers may get lost claims under numbers of its own; each counts once."""

from collections.abc import Collection, Sequence
from datetime import timedelta

import msgspec

from tidemill.application.claim_runs import claim_runs, with_context
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.store import AnswerKey, StoredAnswer, Transaction

_SCOPE = "claims"  # one row for each worker: what came of its latest number


class NumberedClaim(msgspec.Struct, frozen=True):
    """What a claim came to; `is_repeated` where it was made before and nothing was tried now."""

    runs: list[ClaimedRun]
    is_repeated: bool


def claim_once(
    transaction: Transaction,
    worker_id: str,
    number: int,
    run_ids: Collection[int],
    lease: timedelta,
) -> NumberedClaim:
    """Claim as `claim_runs` does, unless this number, or one above it, was used already.

    The latest number gives again what is still held of what it gave, with the lease renewed. One
    below it comes too late and gives nothing: its request was under way for so long that the
    worker has asked anew.
    """
    worker = transaction.worker(worker_id)  # locked: a second request sees what the first made
    name = AnswerKey(_SCOPE, worker_id)
    latest = transaction.stored_answers([name]).get(name)
    if latest is not None and latest.answer["number"] >= number:
        is_it = worker is not None and worker.is_here and latest.answer["number"] == number
        fences = dict(latest.answer["fences"]) if is_it else {}
        return NumberedClaim(_held_still(transaction, worker_id, fences, lease), True)
    runs = claim_runs(transaction, worker_id, run_ids, lease)
    _note(transaction, worker_id, number, runs)
    return NumberedClaim(runs, False)


def _held_still(
    transaction: Transaction, worker_id: str, fences: dict[int, int], lease: timedelta
) -> list[ClaimedRun]:
    if not fences:
        return []
    held = transaction.renew_leases(worker_id, fences, transaction.now + lease)
    return with_context(transaction, list(transaction.runs(held).values()))


def _note(
    transaction: Transaction, worker_id: str, number: int, runs: Sequence[ClaimedRun]
) -> None:
    fences = [[each.run.id, each.run.fence] for each in runs]
    answer = {"number": number, "fences": fences}
    kept = StoredAnswer(_SCOPE, worker_id, str(number), answer, transaction.now)
    transaction.replace_answer(kept)
