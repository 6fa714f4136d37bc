"""What belongs together goes to one worker."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, ClassVar

import msgspec

from tidemill.domain.strategies.placement import Candidate, Part, Question


class Affinity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`affinity`: a key sticks to one worker; without a key, the task is its own.

    Rendezvous hashing (Thaler and Ravishankar, 1998): each worker has a weight for each key and
    the heaviest is taken, so that a key moves only when its worker goes or a heavier one comes.
    The weight hangs on the worker's name: one that returns has its keys back.
    """

    takes_turns: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        key = self.key or f"task:{question.task_id}"
        heaviest = max(part.candidates, key=lambda candidate: _weight(key, candidate))
        return [part.narrowed([heaviest])]


def _weight(key: str, candidate: Candidate) -> tuple[bytes, str]:
    hashed = blake2b(f"{candidate.name}\n{key}".encode(), digest_size=16)
    return hashed.digest(), candidate.id
