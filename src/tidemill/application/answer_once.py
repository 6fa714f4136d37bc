"""A call with an idempotency key is carried out once; the answer is kept with its effect."""

import hashlib
from collections.abc import Callable
from typing import Any

from tidemill.errors import KeyReused
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
    where the key came with another request.
    """
    request_hash = hashlib.sha256(request).hexdigest()
    earlier = transaction.stored_answers(scope, [key]).get(key)
    if earlier is not None:
        if earlier.request_hash != request_hash:
            raise KeyReused(f"the idempotency key {key!r} was used for another request")
        return earlier.answer
    answer = act(transaction)
    kept = StoredAnswer(scope, key, request_hash, answer, transaction.now)
    transaction.store_answers(scope, [kept])
    return answer
