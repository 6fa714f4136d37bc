"""Long work within a transaction leaves others their turn."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import Transaction

T = TypeVar("T")

_IN_ONE_GO = 1_000


def paced(transaction: Transaction, items: Iterable[T]) -> Iterator[T]:
    """The items; whoever works through many of them gives way each thousand."""
    for number, batch in enumerate(in_batches(items, _IN_ONE_GO)):
        if number:
            transaction.give_way()
        yield from batch
