"""When schedules fire, ready runs are dispatched, lost ones recovered and history pruned.

A dispatcher keeps nothing in memory that matters: any number of them may run, start and vanish. All
of them fire, dispatch and recover at once; what only one of them should do is a duty.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.fire_due_tasks import fire_due_tasks
from tidemill.application.manage_workers import workers_gone
from tidemill.application.prepare_firings import prepare_firings
from tidemill.application.prune_history import prune_history
from tidemill.application.recover_lost_runs import recover_lost_runs, recover_unpublished_runs
from tidemill.domain.duty import Duty
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.errors import Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.leadership import Leadership
from tidemill.foundation.queue import MessageQueue, RunMessage
from tidemill.foundation.service import Loop
from tidemill.foundation.store import Store, Transaction
from tidemill.foundation.wakeups import Topic, Wakeups

T = TypeVar("T")

# Between two looks at the schedules, so that what is due in a stream is fired together.
_GATHER_SECONDS = 0.005
_PREPARE_SECONDS = 0.5  # the same for what is to be prepared
# Where many are due at one instant, the first wait for few others: batches begin with so many, and
# each is twice the one before, up to the whole.
_FIRST_BATCH = 32


class DispatcherOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how much; durations in seconds."""

    scan_interval_seconds: float = 1.0  # looks at least this often, woken or not
    scan_batch: int = 500
    horizon_seconds: float = 5.0  # firings that come within it are prepared
    recovery_interval_seconds: float = 1.0
    claim_within_seconds: float = 30.0  # a dispatched run that is not claimed is dispatched again
    silent_after_seconds: float = 10.0  # a worker that says nothing for so long is lost
    keep_history_seconds: float = 30 * 86_400
    duty_interval_seconds: float = 20.0  # well within the lease of a duty


class Dispatcher:
    """The loops of one dispatcher; `name` tells it from the others."""

    def __init__(
        self,
        store: Store,
        queue: MessageQueue,
        wakeups: Wakeups,
        clock: Clock,
        strategies: StrategyRegistry,
        options: DispatcherOptions,
        name: str,
    ) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._strategies = strategies
        self._options = options
        self._swept: _Then | None = None
        self._fires_at_once = _FIRST_BATCH
        self._reaches_queue = True
        # Otherwise workers claim by themselves what any of them may have; looked for all the same.
        self._dispatches_all = queue.carries_all or strategies.asks_by_default
        topics = (Topic.READY, Topic.CLAIMABLE) if self._dispatches_all else (Topic.READY,)
        self.firing = Loop("firing", self._fire, wakeups.listen(Topic.SCHEDULES))
        self.preparation = Loop("preparation", self._prepare, wakeups.listen())
        self.dispatch = Loop("dispatch", self._dispatch, wakeups.listen(*topics))
        self.recovery = Loop("recovery", self._recover, wakeups.listen())
        self._pruning = Leadership(store, Duty.PRUNE_HISTORY, name)
        self._tidying = Leadership(store, Duty.TIDY_QUEUE, name)
        self.retention = Loop("retention", self._prune, wakeups.listen(Topic.DUTIES))
        self.tidying = Loop("tidying", self._tidy, wakeups.listen(Topic.DUTIES))
        self._loops = (
            self.firing,
            self.preparation,
            self.dispatch,
            self.recovery,
            self.retention,
            self.tidying,
        )

    async def start(self) -> None:
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        for loop in self._loops:
            await loop.stop()
        for duty in (self._pruning, self._tidying):
            await duty.give_up()

    async def _fire(self) -> float:
        limit = min(self._fires_at_once, self._options.scan_batch)
        fired, then = await self._decide(
            partial(
                fire_due_tasks,
                limit=limit,
                strategies=self._strategies,
                may_dispatch=self._dispatches_all and self._reaches_queue,
            )
        )
        await self._publish(fired.messages)
        if fired.tasks == limit:
            self._fires_at_once = 2 * limit
            return 0
        self._fires_at_once = _FIRST_BATCH
        return max(self._until(fired.next_due_at, then), _GATHER_SECONDS)

    async def _prepare(self) -> float:
        limit, horizon = self._options.scan_batch, timedelta(seconds=self._options.horizon_seconds)
        prepared, then = await self._decide(partial(prepare_firings, horizon=horizon, limit=limit))
        if prepared.firings == limit:
            return 0
        next_due_at = prepared.next_due_at
        return max(self._until(next_due_at and next_due_at - horizon, then), _PREPARE_SECONDS)

    async def _dispatch(self) -> float:
        if not self._reaches_queue:
            await self._queue.check()
            self._reaches_queue = True
        limit = self._options.scan_batch
        dispatched, then = await self._decide(
            partial(dispatch_ready_runs, limit=limit, strategies=self._strategies)
        )
        await self._publish(dispatched.messages)
        return 0 if dispatched.has_more else self._until(dispatched.next_ready_at, then)

    async def _publish(self, messages: Sequence[RunMessage]) -> None:
        """Publish, or let others do it, and dispatch no more until the queue answers again."""
        try:
            await self._queue.publish(messages)
        except Unavailable:
            self._reaches_queue = False
            run_ids = [run_id for message in messages for run_id in message.run_ids]
            await self._store.transact(partial(recover_unpublished_runs, run_ids=run_ids))
            raise

    async def _recover(self) -> float:
        def recover(transaction: Transaction) -> None:
            recover_lost_runs(
                transaction,
                self._options.scan_batch,
                claim_within=timedelta(seconds=self._options.claim_within_seconds),
                silent_after=timedelta(seconds=self._options.silent_after_seconds),
                expected=self._swept and self._swept.later(self._clock.monotonic()),
            )

        _, self._swept = await self._decide(recover)
        return self._options.recovery_interval_seconds

    async def _prune(self) -> float:
        keep = timedelta(seconds=self._options.keep_history_seconds)
        limit = self._options.scan_batch
        pruned = await self._pruning.perform(partial(prune_history, keep=keep, limit=limit))
        return 0 if pruned == limit else self._options.duty_interval_seconds

    async def _tidy(self) -> float:
        if await self._tidying.perform(lambda _: True):
            # Asked for first: a worker that comes meanwhile is not taken for one that is gone.
            kept_for = await self._queue.kept_for()
            gone = await self._tidying.perform(partial(workers_gone, worker_ids=kept_for))
            if gone is not None:
                await self._queue.tidy(gone)
        return self._options.duty_interval_seconds

    async def _decide(self, use_case: Callable[[Transaction], T]) -> "tuple[T, _Then]":
        """What a use case decided, and when that was."""

        def decide(transaction: Transaction) -> "tuple[T, _Then]":
            return use_case(transaction), _Then(transaction.now, self._clock.monotonic())

        return await self._store.transact(decide)

    def _until(self, instant: datetime | None, then: "_Then") -> float:
        """How long to wait for an instant of the database's time: this process may have another."""
        longest = self._options.scan_interval_seconds
        if instant is None:
            return longest
        passed = self._clock.monotonic() - then.monotonic
        return min(max((instant - then.now).total_seconds() - passed, 0), longest)


class _Then(NamedTuple):
    """One moment, by the database's clock and by this process's monotonic one."""

    now: datetime
    monotonic: float

    def later(self, monotonic: float) -> datetime:
        """What the database's clock shows by now, unless it was set."""
        return self.now + timedelta(seconds=monotonic - self.monotonic)
