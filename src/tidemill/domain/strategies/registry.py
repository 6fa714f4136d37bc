"""The strategies there are: another one is one class and one registration."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.domain.strategies.affinity import Affinity
from tidemill.domain.strategies.broadcast import Broadcast
from tidemill.domain.strategies.composite import Composite
from tidemill.domain.strategies.free_choice import FreeChoice
from tidemill.domain.strategies.least_loaded import LeastLoaded
from tidemill.domain.strategies.placement import SchedulingStrategy
from tidemill.domain.strategies.round_robin import RoundRobin
from tidemill.domain.strategies.shard import Shard
from tidemill.domain.task import QUEUE, Lane, StrategyChoice, TaskDefinition, strategy_name
from tidemill.errors import InvalidInput, Problem

_WHERE = re.compile(r" - at `\$([^`]*)`$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it becomes a part of the lane


class StrategyRegistry:
    """Strategies by name, and the one that runs go by whose task names none."""

    def __init__(self) -> None:
        self._kinds: dict[str, type[SchedulingStrategy]] = {}
        self._default: StrategyChoice = QUEUE

    def register(self, name: str, kind: type[SchedulingStrategy]) -> None:
        """Make `kind`, a struct whose fields are the settings, the strategy of this name.

        Raises ValueError where the name is taken or is no word.
        """
        if name in self._kinds:
            raise ValueError(f"a strategy {name!r} is registered already")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a strategy: letters, digits and . _ - only")
        self._kinds[name] = kind

    @property
    def names(self) -> list[str]:
        """What may be chosen, sorted."""
        return sorted(self._kinds)

    @property
    def default(self) -> StrategyChoice:
        """What runs go by whose task names no strategy."""
        return self._default

    def set_default(self, choice: StrategyChoice) -> None:
        """Make `choice` the default; raises InvalidInput."""
        self.build(choice)
        self._default = choice

    def build(self, choice: StrategyChoice) -> SchedulingStrategy:
        """The strategy with its settings; raises InvalidInput, pointers relative to the choice."""
        settings = {"name": choice} if isinstance(choice, str) else choice
        name = settings.get("name")
        if not isinstance(name, str) or name not in self._kinds:
            said = f"no strategy {name!r}" if "name" in settings else "no name"
            problem = Problem("", f"{said}; there are: {', '.join(self.names)}")
            raise InvalidInput(problem.message, [problem])
        given = {key: value for key, value in settings.items() if key != "name"}
        try:
            strategy: SchedulingStrategy = msgspec.convert(
                given, self._kinds[name], dec_hook=self._build_inner
            )
        except msgspec.ValidationError as error:
            problem = _problem_of(name, error)
            raise InvalidInput(f"{problem.pointer}: {problem.message}", [problem]) from None
        return strategy

    def _build_inner(self, kind: type, choice: Any) -> SchedulingStrategy:
        if kind is not SchedulingStrategy or not isinstance(choice, str | dict):
            raise ValueError("Expected a strategy: its name, or an object with `name`")
        try:
            return self.build(choice)
        except InvalidInput as error:
            [problem] = error.problems
            raise ValueError(f"{problem.message} - at `$.{problem.pointer[1:]}`") from None

    def check(self, definition: TaskDefinition) -> Sequence[Problem]:
        """What is wrong with the strategy that a task asks for."""
        if definition.strategy is None:
            return []
        try:
            strategy = self.build(definition.strategy)
        except InvalidInput as error:
            return [Problem(f"/strategy{place}", said) for place, said in error.problems]
        if strategy.splits and definition.map_over is not None:
            said = "splits runs, and those that `map_over` makes are parts already: use another"
            return [Problem("/strategy", said)]
        return []

    def asked_for(self, definition: TaskDefinition) -> SchedulingStrategy:
        """The strategy that runs of a task ask.

        One that is not registered here, as where a task was defined by a process with more of
        them, keeps no run from starting: any free worker takes it.
        """
        try:
            return self.build(self._default if definition.strategy is None else definition.strategy)
        except InvalidInput:
            return FreeChoice()

    def name_for(self, lane: Lane) -> str:
        """The strategy that runs of a lane ask."""
        return strategy_name(self._default) if lane.strategy is None else lane.strategy

    @property
    def asks_by_default(self) -> bool:
        """Whether somebody is to be chosen also for runs whose task says nothing of it."""
        return strategy_name(self.default) != QUEUE

    def is_asked_for(self, lane: Lane) -> bool:
        """Whether somebody is to be chosen for the ready runs of a lane."""
        return lane.worker_id is None and self.name_for(lane) != QUEUE


def _problem_of(name: str, error: msgspec.ValidationError) -> Problem:
    message, pointer = str(error), ""
    while found := _WHERE.search(message):  # the outermost place stands last
        message = message[: found.start()]
        place = re.sub(r"\[(\d+)\]", r"/\1", found.group(1)).replace(".", "/")
        pointer += "" if place == "/" else place
    return Problem(pointer, f"{name}: {message[:1].lower()}{message[1:]}")


def built_in_strategies() -> StrategyRegistry:
    """A registry of the strategies that come with this version."""
    registry = StrategyRegistry()
    registry.register(QUEUE, FreeChoice)
    registry.register("round_robin", RoundRobin)
    registry.register("least_loaded", LeastLoaded)
    registry.register("affinity", Affinity)
    registry.register("composite", Composite)
    registry.register("broadcast", Broadcast)
    registry.register("shard", Shard)
    return registry
