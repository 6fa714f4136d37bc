"""The worker's end of a slot process."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from tidemill.worker.executors.slot import Slot


class FakeTransport:
    def __init__(self) -> None:
        self.is_at_its_end = False

    def write_eof(self) -> None:
        self.is_at_its_end = True


async def test_a_slot_that_nobody_waits_for_any_more_is_hung_up_and_may_still_begin() -> None:
    slot, transport = Slot(1, Path("unused"), {}, lambda _: None), FakeTransport()
    slot.connection_made(cast(asyncio.BaseTransport, transport))
    waiting = asyncio.create_task(slot.begin())
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    slot.data_received(b'{"ready":true}\n')

    assert transport.is_at_its_end
    assert not slot.is_connected
