"""Several strategies, one after the other."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from tidemill.domain.strategies.placement import Part, Question, SchedulingStrategy


class Composite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`composite`: each strategy chooses among the workers that the one before has left."""

    strategies: Annotated[list[SchedulingStrategy], msgspec.Meta(min_length=1, max_length=10)]

    def __post_init__(self) -> None:
        if sum(strategy.splits for strategy in self.strategies) > 1:
            raise ValueError("Only one of its strategies may be broadcast or shard")

    @property
    def takes_turns(self) -> bool:
        return any(strategy.takes_turns for strategy in self.strategies)

    @property
    def splits(self) -> bool:
        return any(strategy.splits for strategy in self.strategies)

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        parts: Sequence[Part] = [part]
        for strategy in self.strategies:
            parts = [placed for each in parts for placed in strategy.place(question, each)]
        return parts
