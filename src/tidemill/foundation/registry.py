"""The kinds of tasks there are: another executor is one class and one registration."""

from collections.abc import Callable, Collection, Sequence

from tidemill.domain.task import CALL, TaskDefinition
from tidemill.domain.template import template_problems
from tidemill.errors import InvalidSettings, Problem
from tidemill.foundation.executor import Executor

ExecutorFactory = Callable[[], Executor]


class ExecutorRegistry:
    """Executors by the type of task that they perform; each is made when it is first asked for."""

    def __init__(self) -> None:
        self._factories: dict[str, ExecutorFactory] = {}
        self._executors: dict[str, Executor] = {}

    def register(self, task_type: str, factory: ExecutorFactory) -> None:
        """Make `factory` responsible for tasks of this type; raises ValueError where it is taken,
        or no worker may perform it.

        Constructors do nothing but keep what they are given: `Executor.start` begins.
        """
        if task_type == CALL:
            raise ValueError(f"{task_type!r} tasks call others: no worker performs them")
        if task_type in self._factories:
            raise ValueError(f"an executor for {task_type!r} is registered already")
        self._factories[task_type] = factory

    @property
    def task_types(self) -> list[str]:
        """What can be run, sorted."""
        return sorted(self._factories)

    def executors(self, allowed: Collection[str] = ()) -> dict[str, Executor]:
        """The executors of these types, or of all; raises InvalidSettings on an unknown one."""
        unknown = sorted(set(allowed) - self._factories.keys())
        if unknown:
            known = ", ".join(self.task_types)
            raise InvalidSettings(
                [
                    Problem("worker.allowed_executors", f"no executor {name!r}; there are: {known}")
                    for name in unknown
                ]
            )
        return {name: self._executor(name) for name in (allowed or self.task_types)}

    def check(self, definition: TaskDefinition) -> Sequence[Problem]:
        """What is wrong with a definition, as far as its executor can tell without running it."""
        if definition.executor == CALL:
            return []  # whoever defines it sees to it
        if definition.executor not in self._factories:
            known = ", ".join(sorted([*self.task_types, CALL]))
            return [
                Problem("/executor", f"no executor {definition.executor!r}; there are: {known}")
            ]
        return [
            *self._executor(definition.executor).check(definition.command, definition.arguments),
            *template_problems(definition.executor, definition.command, definition.arguments),
        ]

    def _executor(self, task_type: str) -> Executor:
        if task_type not in self._executors:
            self._executors[task_type] = self._factories[task_type]()
        return self._executors[task_type]
