"""The work is split."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec

from tidemill.domain.strategies.placement import Part, Question


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shard`: `count` runs in place of one; each is told its number, from 0, and how many."""

    takes_turns: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000)]

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        if not question.may_split:
            return [part]
        return [
            msgspec.structs.replace(part, shard_index=index, shard_total=self.count)
            for index in range(self.count)
        ]
