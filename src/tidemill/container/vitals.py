"""What operators are told of a process, from its start until all else in it is closed."""

import contextlib
from collections.abc import Sequence

from tidemill.config.settings import Settings
from tidemill.foundation.clock import Clock, SystemClock
from tidemill.observability.health import Component, Health
from tidemill.observability.metrics import Metrics


class Vitals:
    """What operators are told of this process; `url` is None where nobody can ask."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.health = Health(clock)
        self.metrics = Metrics()
        self.url: str | None = None

    def serve(self, stack: contextlib.AsyncExitStack, components: Sequence[Component]) -> None:
        """It is ready, until it begins to close: that is what the stack does first."""
        self.health.serve(components)
        stack.callback(self.health.drain)


async def open_vitals(stack: contextlib.AsyncExitStack, settings: Settings) -> Vitals:
    """To be asked from now on until all the rest is closed.

    Raises InvalidSettings where nobody can listen at the port that is set.
    """
    vitals = Vitals(SystemClock())
    if settings.observability.port is not None:
        # A web framework, which a process that nobody asks does without.
        from tidemill.container.serving import serve_probes

        host, port = settings.observability.host, settings.observability.port
        probes = serve_probes(host, port, vitals.health, vitals.metrics.render_own)
        vitals.url = await stack.enter_async_context(probes)
    return vitals
