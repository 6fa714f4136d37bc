import asyncio
import contextlib

import pytest

from tidemill.infrastructure.queues.cancellation import heed_cancellation


async def lose_cancellations() -> None:
    """As a client does to which an answer comes at the same time."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_a_cancellation_that_was_lost_is_heeded_later() -> None:
    async def work() -> None:
        while True:
            await lose_cancellations()
            heed_cancellation()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_time_that_is_over_is_heeded_though_its_signal_was_lost() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            while True:
                await lose_cancellations()
                heed_cancellation()

    with pytest.raises(TimeoutError):
        await work()


async def test_work_that_nobody_cancelled_goes_on() -> None:
    heed_cancellation()
