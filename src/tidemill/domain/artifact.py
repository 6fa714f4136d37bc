"""A result too large for a run's row: kept beside it, in pieces, and named by a reference.

    {"$artifact": {"id": "12-3", "bytes": 9000000}}

An attempt has at most one, so that its run and fence are its name: what is sent again is the same.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

MARK = "$artifact"
INLINE_BYTES = 256 * 1024  # a result that has no more, as JSON, stands in its run's row
CHUNK_BYTES = 256 * 1024  # of its content; kept content is read whatever this says

_ID = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})")


class ArtifactId(msgspec.Struct, frozen=True):
    """The attempt whose result it is; as text `12-3`."""

    run_id: int
    fence: int

    @classmethod
    def parse(cls, text: str) -> "ArtifactId | None":
        """The inverse of `str`; None where it is none."""
        found = _ID.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.run_id}-{self.fence}"


class Artifact(msgspec.Struct, frozen=True):
    """What is known of one; the fields are the columns of `artifacts`."""

    run_id: int
    fence: int
    namespace: str
    size: int  # of its whole content, in bytes
    created_at: datetime


class Reference(msgspec.Struct, frozen=True):
    """What stands for a large result."""

    id: ArtifactId
    size: int

    def beside(self, rest: dict[str, Any]) -> dict[str, Any]:
        """The reference as JSON, together with `rest`, what is known of the result without it."""
        return {**rest, MARK: {"id": str(self.id), "bytes": self.size}}


def reference_in(value: Any) -> Reference | None:
    """The reference that stands here; None where it is anything else."""
    if type(value) is not dict or MARK not in value:
        return None
    said = value[MARK]
    if not isinstance(said, dict) or not isinstance(said.get("id"), str):
        return None
    id, size = ArtifactId.parse(said["id"]), said.get("bytes")
    return Reference(id, size) if id is not None and type(size) is int and size > 0 else None


def references_in(parameters: dict[str, Any]) -> list[Reference]:
    """What a run is to read: the item that it is for, the results of its upstream runs, those of
    parts included.

    A run for an item that is a reference reads no other parts: there is a run for each of them.
    """
    item = reference_in(parameters.get("item"))
    found = [] if item is None else [item]
    upstream = parameters.get("upstream")
    if not upstream or type(upstream) is not dict:
        return found
    for result in upstream.values():
        if type(result) is list:
            # Told apart here: lists are long, and mostly of other things.
            marked = [each for each in result if type(each) is dict and MARK in each]
            found += _references(marked if item is None else ())
        else:
            found += _references((result,))
    return found


def _references(values: Iterable[Any]) -> Iterator[Reference]:
    return (found for each in values if (found := reference_in(each)) is not None)


def located(parameters: dict[str, Any], path_of: Callable[[ArtifactId], str]) -> dict[str, Any]:
    """The same parameters, in which each of `references_in` says in `path` where the content is."""
    places = {reference.id: path_of(reference.id) for reference in references_in(parameters)}
    upstream = parameters.get("upstream")
    changed = {"item": _with_path(parameters.get("item"), places)} if "item" in parameters else {}
    if type(upstream) is dict:
        changed["upstream"] = {
            name: [_with_path(each, places) for each in result]
            if type(result) is list
            else _with_path(result, places)
            for name, result in upstream.items()
        }
    return parameters | changed


def _with_path(value: Any, places: dict[ArtifactId, str]) -> Any:
    reference = reference_in(value)
    if reference is None or reference.id not in places:
        return value
    return {**value, "path": places[reference.id]}


def count_of_chunks(size: int) -> int:
    """In how many pieces so many bytes are sent."""
    return -(-size // CHUNK_BYTES)


def length_of_chunk(size: int, number: int) -> int:
    """How many bytes the piece of this number, from 0, has; none where there is no such piece."""
    return max(min(CHUNK_BYTES, size - number * CHUNK_BYTES), 0)


def numbered(size: int) -> Iterator[tuple[int, int]]:
    """The number of each piece, and its length."""
    return ((number, length_of_chunk(size, number)) for number in range(count_of_chunks(size)))
