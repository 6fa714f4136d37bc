"""A call with an idempotency key is carried out once; the answer is kept with its effect."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.errors import KeyInUse, KeyReused
from tidemill.foundation.store import AnswerKey, StoredAnswer, Transaction


class KeyedCall(msgspec.Struct, frozen=True):
    """A call that is to be carried out once. Another one with its key is the same if its `request`
    is."""

    name: AnswerKey
    request: bytes

    @property
    def request_hash(self) -> str:
        """What is kept of the request."""
        return hashlib.sha256(self.request).hexdigest()


def answer_once(
    transaction: Transaction, call: KeyedCall, act: Callable[[Transaction], Any]
) -> Any:
    """What `act` returns (JSON-compatible), or what it returned when the key came first.

    Effect and answer are one transaction: neither is ever without the other. Raises KeyReused
    where the key came with another request, and KeyInUse while its first call is under way.
    """
    [answer] = answer_each_once(transaction, [call], lambda _: [act(transaction)])
    return answer


def answer_each_once(
    transaction: Transaction,
    calls: Sequence[KeyedCall | None],
    act: Callable[[Sequence[int]], Sequence[Any]],
) -> list[Any]:
    """The same for many calls, all or none; those without a key (None) are carried out each time.

    `act` is given the places of those that are to be carried out now, and returns their answers.
    """
    earlier = _earlier_answers(transaction, [call for call in calls if call is not None])
    fresh = [place for place, call in enumerate(calls) if call is None or call.name not in earlier]
    answers = dict(zip(fresh, act(fresh) if fresh else (), strict=True))
    _keep(transaction, [(call, answers[place]) for place in fresh if (call := calls[place])])
    return [
        answers[place] if call is None or place in answers else earlier[call.name].answer
        for place, call in enumerate(calls)
    ]


def _earlier_answers(
    transaction: Transaction, calls: Sequence[KeyedCall]
) -> Mapping[AnswerKey, StoredAnswer]:
    if not calls:
        return {}
    times = Counter(call.name for call in calls)
    held = transaction.hold_keys(times.keys())
    earlier = transaction.stored_answers(times.keys())  # after that, or one may be missed
    for call in calls:
        answer = earlier.get(call.name)
        key = call.name.key
        if answer is None and (call.name not in held or times[call.name] > 1):
            raise KeyInUse(
                f"the first call with the idempotency key {key!r} is under way; try again"
            )
        if answer is not None and answer.request_hash != call.request_hash:
            raise KeyReused(f"the idempotency key {key!r} was used for another request")
    return earlier


def _keep(transaction: Transaction, answered: Sequence[tuple[KeyedCall, Any]]) -> None:
    if answered:
        transaction.store_answers(
            [
                StoredAnswer(
                    call.name.scope, call.name.key, call.request_hash, answer, transaction.now
                )
                for call, answer in answered
            ]
        )
