"""The queue in Redis Streams: a stream for each lane, read by one group of consumers.

An entry that is acknowledged is deleted; one that is given back is appended anew, and counted. What
a worker held that vanished is taken over by the others after a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError

from tidemill.domain.worker import Worker
from tidemill.errors import InvalidSettings, Problem, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.queue import Fact, RunMessage
from tidemill.infrastructure.queues.address import read_address
from tidemill.infrastructure.queues.backoff import Backoff
from tidemill.infrastructure.queues.cancellation import heed_cancellation
from tidemill.infrastructure.queues.envelope import encode, fact_message, task_execution
from tidemill.infrastructure.queues.facts import FactTeller
from tidemill.infrastructure.queues.redis_lanes import RedisLanes
from tidemill.infrastructure.queues.redis_subscription import (
    BLOCK_SECONDS,
    DEFAULTS,
    FAILURES,
    RedisOptions,
    RedisSubscription,
)

T = TypeVar("T")


class RedisStreamsQueue:
    """Messages go through the Redis at `url`: `redis://…`, or `rediss://…` for TLS.

    Nothing is asked of it until something is published or received. Raises InvalidSettings for a
    URL that cannot be used, or that is not encrypted where `require_tls` is set.
    """

    carries_all = True

    def __init__(
        self,
        url: str,
        clock: Clock,
        options: RedisOptions = DEFAULTS,
        *,
        require_tls: bool = False,
    ) -> None:
        self._address = read_address(
            url, plain="redis", encrypted="rediss", require_tls=require_tls
        )
        self._clock = clock
        self._options = options
        self._redis = _client(url, options.answer_within_seconds + BLOCK_SECONDS)
        self._lanes = RedisLanes(self._redis, options.max_length)
        self._subscriptions: set[RedisSubscription] = set()
        self.facts = FactTeller(self._send_facts)

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        now = self._clock.now()
        bodies = [(each.lane, encode(task_execution(each, now))) for each in messages]
        if bodies:
            await self._for_sure(partial(self._lanes.add, bodies))

    async def subscribe(self, worker: Worker) -> RedisSubscription:
        subscription = RedisSubscription(
            self._lanes, self._address, worker, self._clock, self._options
        )
        self._subscriptions.add(subscription)
        return subscription

    async def check(self) -> None:
        try:
            await self._lanes.ping()
        except (AuthenticationError, ResponseError) as error:
            raise self._unavailable(error) from error
        except FAILURES as error:
            raise self._unavailable(error, was_reached=False) from error

    async def kept_for(self) -> set[str]:
        return await self._for_sure(self._lanes.workers)

    async def tidy(self, gone: Collection[str]) -> None:
        await self._for_sure(partial(self._lanes.drop_lanes_of, gone))

    async def close(self) -> None:
        await self.facts.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._subscriptions.clear()
        await self._redis.aclose()

    async def _send_facts(self, facts: Sequence[Fact]) -> None:
        now = self._clock.now()
        bodies = [(fact.route, encode(fact_message(fact, now))) for fact in facts]
        await self._for_sure(partial(self._lanes.tell, bodies))

    async def _for_sure(self, step: Callable[[], Awaitable[T]]) -> T:
        """Try until it is done; raises Unavailable when the time is over or Redis refuses."""
        backoff = Backoff()
        failure: BaseException = TimeoutError("no answer")
        try:
            async with asyncio.timeout(self._options.answer_within_seconds):
                while True:
                    try:
                        done = await step()
                        heed_cancellation()
                        return done
                    except (AuthenticationError, ResponseError) as error:
                        raise self._unavailable(error) from error
                    except FAILURES as error:
                        failure = error
                        heed_cancellation()
                        await self._clock.sleep(backoff.next_seconds())
        except TimeoutError:
            raise self._unavailable(failure, was_reached=False) from failure

    def _unavailable(self, error: BaseException, *, was_reached: bool = True) -> Unavailable:
        said = self._address.said(error)
        return Unavailable(
            f"the message queue at {self._address.shown} is unavailable: {said}",
            was_reached=was_reached,
        )


def _client(url: str, socket_timeout: float) -> Redis:
    try:
        client: Redis = Redis.from_url(
            url,
            protocol=2,
            legacy_responses=False,
            socket_timeout=socket_timeout,
            socket_connect_timeout=socket_timeout,
            retry=Retry(NoBackoff(), 0),
        )
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:  # of what stands behind the "?"
        raise InvalidSettings(
            [Problem("message_queue.url", "its query names an option that Redis does not know")]
        ) from error
    return client
