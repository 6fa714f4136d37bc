"""One worker after the other."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from tidemill.domain.strategies.placement import Part, Question, with_room


class RoundRobin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`round_robin`: the workers in turn; one that is full is passed over."""

    takes_turns: ClassVar[bool] = True
    splits: ClassVar[bool] = False

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        turn = question.turn + (part.shard_index or 0)  # the shards of a run follow one another
        begin = turn % len(part.candidates)
        in_turn = [*part.candidates[begin:], *part.candidates[:begin]]
        return [part.narrowed(with_room(in_turn)[:1])]
