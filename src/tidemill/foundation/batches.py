"""Many things, a bounded number at a time."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def in_batches(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """All of them in their order, up to `most` in each batch; none of them empty."""
    left = iter(items)
    while batch := list(islice(left, most)):
        yield batch
