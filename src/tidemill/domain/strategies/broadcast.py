"""Every worker that matches runs it."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from tidemill.domain.strategies.placement import Part, Question


class Broadcast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`broadcast`: one run on each worker that is there at dispatch and serves the lane."""

    takes_turns: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        if not question.may_split:
            return [part]
        return [
            msgspec.structs.replace(part.narrowed([candidate]), is_bound=True)
            for candidate in part.candidates
        ]
