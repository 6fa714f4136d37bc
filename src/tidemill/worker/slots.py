"""Room for runs in a worker."""

import asyncio


class Slots:
    """So many runs at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._freed = asyncio.Event()

    def take(self, count: int) -> None:
        """Occupy slots that are known to be free."""
        assert count <= self.free
        self.free -= count

    def give_back(self) -> None:
        """One slot is free again."""
        self.free += 1
        self._freed.set()

    async def wait_free(self) -> None:
        """Return once at least one slot is free."""
        while not self.free:
            self._freed.clear()
            await self._freed.wait()

    async def wait_all_free(self) -> None:
        """Return once no slot is occupied."""
        while self.free < self.count:
            self._freed.clear()
            await self._freed.wait()
