"""Room for runs in a worker."""

import asyncio


class Slots:
    """So many runs at once. Whoever claims runs has taken the slots for them before."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._freed = asyncio.Event()

    def take(self, at_most: int) -> int:
        """Occupy up to so many slots; how many."""
        taken = min(at_most, self.free)
        self.free -= taken
        return taken

    def give_back(self, count: int = 1) -> None:
        """So many slots are free again."""
        if count:
            self.free += count
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
