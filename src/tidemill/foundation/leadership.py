"""One process's part in a duty that one at a time has. No leader is needed for what runs hang on.

The lease only spares the others the work. What keeps a holder that stood still from changing
anything is the fence: it is renewed in the very transaction that does the work, and the row stays
locked until that is committed.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from tidemill.domain.duty import LEASE, Duty
from tidemill.errors import Unavailable
from tidemill.foundation.store import Store, Transaction
from tidemill.foundation.wakeups import Topic

T = TypeVar("T")

_log = logging.getLogger("tidemill.leadership")


class Leadership:
    """Takes a duty when it is free, keeps it while it is performed, and gives it up.

    `holder` is for people, who want to know which process it is.
    """

    def __init__(self, store: Store, duty: Duty, holder: str) -> None:
        self._store = store
        self._duty = duty
        self._holder = holder
        self._fence: int | None = None
        self._performing: asyncio.Task[Any] | None = None

    async def perform(self, act: Callable[[Transaction], T]) -> T | None:
        """What `act` returned, in one transaction with the proof that the duty is this process's;
        None where it is another's, and nothing was done.

        Raises what `act` raises, and Unavailable.
        """
        # Finished even where nobody waits any more: what is given up must be known.
        self._performing = asyncio.create_task(self._perform(act))
        return await asyncio.shield(self._performing)

    async def give_up(self) -> None:
        """Another may take it at once. Where the database does not answer, after the lease."""
        if self._performing is not None:
            await asyncio.wait([self._performing])
        fence, self._fence = self._fence, None
        if fence is None:
            return

        def leave(transaction: Transaction) -> None:
            transaction.give_up_duty(self._duty, fence)
            transaction.announce(Topic.DUTIES)

        try:
            await self._store.transact(leave)
        except Unavailable as error:
            _log.warning("%s could not be given up and is taken later: %s", self._duty, error)

    async def _perform(self, act: Callable[[Transaction], T]) -> T | None:
        held = self._fence

        def proven(transaction: Transaction) -> tuple[int | None, T | None]:
            until = transaction.now + LEASE
            fence = held
            if fence is None or not transaction.renew_duty(self._duty, fence, until):
                fence = transaction.take_duty(self._duty, self._holder, until)
            return fence, None if fence is None else act(transaction)

        self._fence, result = await self._store.transact(proven)
        return result
