"""A call with an idempotency key is carried out once; the answer is kept with its effect."""

import hashlib
from collections.abc import Callable
from typing import Any

from tidemill.errors import KeyInUse, KeyReused
from tidemill.foundation.store import StoredAnswer, Transaction


def answer_once(
    transaction: Transaction,
    scope: str,
    key: str,
    request: bytes,
    act: Callable[[Transaction], Any],
) -> Any:
    """What `act` returns (JSON-compatible), or what it returned when `key` came first.

    Effect and answer are one transaction: neither is ever without the other. Raises KeyReused
    where the key came with another request, and KeyInUse while its first call is under way.
    """
    request_hash = hashlib.sha256(request).hexdigest()
    is_alone = transaction.hold_key(scope, key)
    earlier = transaction.stored_answers(scope, [key]).get(key)  # after that, or it may be missed
    if earlier is not None:
        if earlier.request_hash != request_hash:
            raise KeyReused(f"the idempotency key {key!r} was used for another request")
        return earlier.answer
    if not is_alone:
        raise KeyInUse(f"the first call with the idempotency key {key!r} is under way; try again")
    answer = act(transaction)
    kept = StoredAnswer(scope, key, request_hash, answer, transaction.now)
    transaction.store_answers(scope, [kept])
    return answer
