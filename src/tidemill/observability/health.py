"""Whether a process may serve: found out by asking the parts that it needs, each time anew."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.health import BreakerReading

PROBE_SECONDS = 2.0  # a part that takes longer to answer is told to be gone


class Component(msgspec.Struct, frozen=True):
    """A part that a process uses.

    `check` raises Unavailable unless the part answers. Without one that is not needed the process
    still serves.
    """

    name: str
    check: Callable[[], Awaitable[None]]
    breaker: Callable[[], BreakerReading] | None = None
    is_needed: bool = True


class Finding(msgspec.Struct, frozen=True):
    """How a part was when it was asked; `problem` is None where it answered."""

    component: Component
    problem: str | None
    answered_after_seconds: float


class Health:
    """Of one process: it is starting, serves by means of its components, and drains."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._components: Sequence[Component] = ()
        self._does_not_serve: str | None = "starting"

    def serve(self, components: Sequence[Component]) -> None:
        """It works, as long as these answer."""
        self._components = components
        self._does_not_serve = None

    def drain(self) -> None:
        """It takes nothing new, and ends."""
        self._does_not_serve = "draining"

    async def look(self) -> list[Finding]:
        """How each part is; all are asked at once."""
        return list(await asyncio.gather(*(self._ask(each) for each in self._components)))

    async def check_ready(self) -> None:
        """Raises Unavailable, with the reasons, where this process may not serve."""
        if self._does_not_serve is None:
            found = await self.look()
            problems = [each.problem for each in found if each.problem and each.component.is_needed]
            if problems:
                raise Unavailable("; ".join(problems))
        if self._does_not_serve is not None:  # meanwhile, perhaps
            raise Unavailable(self._does_not_serve)

    async def _ask(self, component: Component) -> Finding:
        began = self._clock.monotonic()
        problem = None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await component.check()
        except Unavailable as error:
            problem = str(error)
        except TimeoutError:
            name = component.name.replace("_", " ")
            problem = f"the {name} does not answer within {PROBE_SECONDS:g} s"
        return Finding(component, problem, self._clock.monotonic() - began)
