"""Brokers' clients may lose a cancellation to an answer or a failure that comes with it."""

import asyncio


def heed_cancellation() -> None:
    """Raise CancelledError where this task was cancelled and has not ended for it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
