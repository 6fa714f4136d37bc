"""Where the most slots are free."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from tidemill.domain.strategies.placement import Part, Question, with_room


class LeastLoaded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`least_loaded`: the workers with the most free slots; what was just given out counts."""

    takes_turns: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        able = with_room(part.candidates)
        most = max(candidate.free for candidate in able)
        return [part.narrowed([candidate for candidate in able if candidate.free == most])]
