"""Any free worker takes the run: nobody is chosen before one is free."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from tidemill.domain.strategies.placement import Part, Question


class FreeChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`queue`: the first free worker that serves the lane takes it."""

    takes_turns: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        return [part]
