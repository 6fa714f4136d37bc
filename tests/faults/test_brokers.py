"""Brokers and the network to them fail; messages may come late or twice, and do come."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import aio_pika
import pytest
import redis.asyncio

from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.errors import Unavailable
from tidemill.foundation.clock import SystemClock
from tidemill.foundation.queue import Fact, MessageQueue, RunMessage, Subscription
from tidemill.foundation.slots import Slots
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.infrastructure.queues.rabbitmq import RabbitMqQueue
from tidemill.infrastructure.queues.rabbitmq_link import RabbitMqOptions
from tidemill.infrastructure.queues.rabbitmq_names import (
    DEAD,
    EXCHANGE,
    LANES_ANNOUNCED,
    LANES_ASKED,
    key_of,
    queue_of,
)
from tidemill.infrastructure.queues.redis_lanes import stream_of
from tidemill.infrastructure.queues.redis_streams import RedisStreamsQueue
from tidemill.infrastructure.queues.redis_subscription import RedisOptions
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.control_plane_suite import LEASE, Begun, ready_runs
from tidemill.testing.conformance.queue_suite import SHELL, take, take_ids
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.pytest_plugin import Services
from tidemill.testing.services import RabbitMq, Redis, Service

SOON = 1.0  # within which a broker that fails is called unavailable


class Kind(Protocol):
    """What tests do to one kind of broker behind the product's back."""

    def queue(self, url: str, hold_seconds: float, **options: Any) -> MessageQueue: ...

    async def put(self, url: str, body: bytes) -> None: ...

    async def waiting(self, url: str) -> int: ...

    async def dead_letter(self, url: str) -> tuple[bytes, str]: ...

    async def told(self, url: str, tell: Callable[[], None]) -> tuple[str, bytes]: ...

    async def given_back(self, url: str) -> tuple[bytes, int]:
        """What waits in the lane, and how often it was delivered before."""
        ...


class RedisKind:
    def queue(self, url: str, hold_seconds: float, **options: Any) -> RedisStreamsQueue:
        given = RedisOptions(abandoned_after_seconds=2 * hold_seconds, **options)
        return RedisStreamsQueue(url, SystemClock(), given)

    async def put(self, url: str, body: bytes) -> None:
        async with redis.asyncio.from_url(url) as client:
            await client.xadd(stream_of(SHELL), {"envelope": body})

    async def waiting(self, url: str) -> int:
        async with redis.asyncio.from_url(url) as client:
            return int(await client.xlen(stream_of(SHELL)))

    async def dead_letter(self, url: str) -> tuple[bytes, str]:
        fields = await self._first(url, "tidemill:dead")
        return fields[b"envelope"], fields[b"reason"].decode()

    async def told(self, url: str, tell: Callable[[], None]) -> tuple[str, bytes]:
        tell()
        fields = await self._first(url, "tidemill:status")
        return fields[b"route"].decode(), fields[b"envelope"]

    async def given_back(self, url: str) -> tuple[bytes, int]:
        body = (await self._first(url, stream_of(SHELL)))[b"envelope"]
        return body, json.loads(body)["retry_count"]

    async def _first(self, url: str, stream: str) -> dict[bytes, bytes]:
        async with redis.asyncio.from_url(url, protocol=2, socket_timeout=None) as client:
            ((_, entries),) = await client.xread({stream: "0"}, count=1, block=0)
            return dict(entries[0][1])


class RabbitMqKind:
    def queue(self, url: str, hold_seconds: float, **options: Any) -> RabbitMqQueue:
        given = RabbitMqOptions(hold_seconds=hold_seconds, **options)
        return RabbitMqQueue(url, SystemClock(), given)

    async def put(self, url: str, body: bytes) -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(EXCHANGE)
            await exchange.publish(aio_pika.Message(body), key_of(SHELL))

    async def waiting(self, url: str) -> int:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(queue_of(SHELL), passive=True)
            return queue.declaration_result.message_count or 0

    async def dead_letter(self, url: str) -> tuple[bytes, str]:
        async with await aio_pika.connect(url) as connection:
            queue = await (await connection.channel()).get_queue(DEAD)
            async with queue.iterator() as letters:
                letter = await anext(letters)
                await letter.ack()
        deaths = letter.headers.get("x-death") or [{}]
        reason = letter.headers.get("x-tidemill-reason", deaths[0].get("reason"))
        return letter.body, str(reason)

    async def told(self, url: str, tell: Callable[[], None]) -> tuple[str, bytes]:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "status.*")
            tell()
            async with queue.iterator() as messages:
                message = await anext(messages)
                await message.ack()
        return str(message.routing_key), message.body

    async def given_back(self, url: str) -> tuple[bytes, int]:
        async with await aio_pika.connect(url) as connection:
            queue = await (await connection.channel()).get_queue(queue_of(SHELL))
            async with queue.iterator() as messages:
                message = await anext(messages)
                await message.ack()
        return message.body, int(str(message.headers["x-delivery-count"]))


@dataclass
class Broker:
    """A server of one kind, and queues on it that are closed with the test."""

    server: Service
    kind: Kind
    url: str = ""
    queues: list[MessageQueue] = field(default_factory=list)

    def queue(
        self, url: str | None = None, hold_seconds: float = 60.0, **options: Any
    ) -> MessageQueue:
        """Opened at the server itself, or at `url`, a link to it."""
        queue = self.kind.queue(url or self.url, hold_seconds, **options)
        self.queues.append(queue)
        return queue

    def link(self) -> FaultyLink:
        return FaultyLink("127.0.0.1", self.server.port)


KINDS: dict[str, tuple[type[Service], Kind]] = {
    "redis": (Redis, RedisKind()),
    "rabbitmq": (RabbitMq, RabbitMqKind()),
}
EACH_KIND = ["redis", pytest.param("rabbitmq", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=EACH_KIND)
def own_server(request: pytest.FixtureRequest) -> Iterator[tuple[Service, Kind]]:
    """A server of each kind, to which tests do harm and which they leave running."""
    make, kind = KINDS[request.param]
    with ExitStack() as stack:
        yield Services(stack).get(make), kind


@asynccontextmanager
async def opened(server: Service, kind: Kind, url: str) -> AsyncIterator[Broker]:
    broker = Broker(server, kind, url)
    yield broker
    for queue in broker.queues:
        await queue.close()


@pytest.fixture
async def broker(own_server: tuple[Service, Kind]) -> AsyncIterator[Broker]:
    """An empty place on a server that may be stopped, and started again."""
    server, kind = own_server
    with server.fresh() as url:
        async with opened(server, kind, url) as broker:
            yield broker


@pytest.fixture
async def whole_broker(own_server: tuple[Service, Kind]) -> AsyncIterator[Broker]:
    """The server itself, which may be wiped."""
    server, kind = own_server
    async with opened(server, kind, server.url) as broker:
        yield broker


async def publish_when_possible(queue: MessageQueue, message: RunMessage) -> None:
    """As a dispatcher's loop does: what is not sure is published again."""
    while True:
        try:
            await queue.publish([message])
        except Unavailable:
            continue
        return


async def take_until(subscription: Subscription, run_id: int) -> set[int]:
    """The runs that messages name, up to this one."""
    taken: set[int] = set()
    while run_id not in taken:
        taken.update(await take_ids(subscription, 1))
    return taken


# Less than a second after its first message: RabbitMQ 3.10 then leaves a broken queue behind.
async def test_publishing_and_receiving_go_on_after_a_broker_was_killed_and_started(
    broker: Broker,
) -> None:
    queue = broker.queue(answer_within_seconds=SOON)
    subscription = await queue.subscribe(worker())
    await publish_when_possible(queue, RunMessage(SHELL, (1,)))
    assert 1 in await take_ids(subscription, 1)
    waiting = asyncio.create_task(take_until(subscription, 3))
    broker.server.kill()
    with pytest.raises(Unavailable):
        await queue.publish([RunMessage(SHELL, (2,))])
    await asyncio.to_thread(broker.server.start)
    await publish_when_possible(queue, RunMessage(SHELL, (3,)))

    assert await waiting <= {1, 2, 3}


async def test_a_broker_that_was_wiped_is_set_up_anew_by_those_who_use_it(
    whole_broker: Broker,
) -> None:
    queue = whole_broker.queue()
    subscription = await queue.subscribe(worker())
    await queue.publish([RunMessage(SHELL, (1,))])
    (held,) = await take(subscription, 1)
    waiting = asyncio.create_task(take_until(subscription, 3))
    await asyncio.to_thread(whole_broker.server.wipe)
    await held.acknowledge()  # of a message that nobody knows any more
    await publish_when_possible(queue, RunMessage(SHELL, (3,)))

    assert await waiting == {3}


@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.DROP_REPLIES, Fault.DROP_REQUESTS])
async def test_what_cannot_be_said_for_sure_is_unavailable_until_the_network_is_back(
    broker: Broker, fault: Fault
) -> None:
    with broker.link() as link:
        queue = broker.queue(link.through(broker.url), answer_within_seconds=SOON)
        await publish_when_possible(queue, RunMessage(SHELL, (1,)))
        link.fault = fault
        with pytest.raises(Unavailable):
            await queue.publish([RunMessage(SHELL, (2,))])
        effects = link.effects(fault)
        link.fault = None
        await publish_when_possible(queue, RunMessage(SHELL, (3,)))
        subscription = await broker.queue().subscribe(worker())
        received = await take_until(subscription, 3)
        await queue.close()

    assert effects
    assert {1, 3} <= received <= {1, 2, 3}


@pytest.mark.parametrize("fault", [Fault.DOUBLE, Fault.REORDER])
async def test_a_network_that_garbles_is_a_broken_connection_and_loses_nothing(
    broker: Broker, fault: Fault
) -> None:
    with broker.link() as link:
        queue = broker.queue(link.through(broker.url), answer_within_seconds=SOON)
        subscription = await queue.subscribe(worker())
        await publish_when_possible(queue, RunMessage(SHELL, (1,)))
        assert await take_ids(subscription, 1) == [1]
        waiting = asyncio.create_task(take_until(subscription, 3))
        link.fault = fault
        with contextlib.suppress(Unavailable):  # it may well be understood, and done twice
            await queue.publish([RunMessage(SHELL, (2,))])
        await asyncio.to_thread(link.wait_for, fault, 2)
        link.fault = None
        await publish_when_possible(queue, RunMessage(SHELL, (3,)))
        received = await waiting
        await queue.close()

    assert {3} <= received <= {1, 2, 3}


async def test_a_subscriber_that_was_cut_off_goes_on_when_the_network_is_back(
    broker: Broker,
) -> None:
    with broker.link() as link:
        queue = broker.queue(link.through(broker.url))
        subscription = await queue.subscribe(worker())
        await queue.publish([RunMessage(SHELL, (1,))])
        assert await take_ids(subscription, 1) == [1]
        waiting = asyncio.create_task(take_until(subscription, 2))
        link.fault = Fault.REFUSE
        cut = link.reset_connections()
        await asyncio.to_thread(link.wait_for, Fault.REFUSE)
        await broker.queue().publish([RunMessage(SHELL, (2,))])
        link.fault = None
        received = await waiting
        await queue.close()

    assert cut
    assert received <= {1, 2}


@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.DROP_REPLIES])
async def test_a_check_tells_whether_the_broker_answers(broker: Broker, fault: Fault) -> None:
    with broker.link() as link:
        queue = broker.queue(link.through(broker.url), answer_within_seconds=SOON)
        await queue.check()
        link.fault = fault
        with pytest.raises(Unavailable, match="the message queue at ") as told:
            await queue.check()
        effects = link.effects(fault)
        link.fault = None
        await publish_when_possible(queue, RunMessage(SHELL, (1,)))
        await queue.check()
        await queue.close()

    assert effects
    assert not told.value.was_reached


async def test_what_a_worker_held_that_vanished_goes_to_another(broker: Broker) -> None:
    with broker.link() as link:
        lost = await broker.queue(link.through(broker.url), hold_seconds=0.5).subscribe(
            worker("worker-1")
        )
        await broker.queue().publish([RunMessage(SHELL, (7,))])
        await take(lost, 1)
        link.fault = Fault.REFUSE
        link.reset_connections()
        other = await broker.queue(hold_seconds=0.5).subscribe(worker("worker-2"))

        assert await take_ids(other, 1) == [7]
        await broker.queues[0].close()


async def test_what_a_worker_keeps_too_long_goes_to_another(broker: Broker) -> None:
    busy = await broker.queue(hold_seconds=0.1).subscribe(worker("worker-1"))
    await broker.queue().publish([RunMessage(SHELL, (1,)), RunMessage(SHELL, (2,))])
    (kept,) = await take(busy, 1)
    other = await broker.queue().subscribe(worker("worker-2"))

    assert sorted(await take_ids(other, 2)) == [1, 2]
    await kept.acknowledge()  # too late, and no harm
    await other.close()
    await broker.queue().publish([RunMessage(SHELL, (3,))])
    assert await take_ids(busy, 1) == [3]


async def test_a_worker_holds_no_more_than_it_may_and_the_rest_is_for_others(
    broker: Broker,
) -> None:
    queue = broker.queue(prefetch=2)
    await queue.publish([RunMessage(SHELL, (n,)) for n in range(10)])
    first = await queue.subscribe(worker("worker-1"))
    held = await take(first, 2)
    more = asyncio.create_task(first.receive())
    second = await queue.subscribe(worker("worker-2"))
    others = await take_ids(second, 8)

    assert sorted(others + [run_id for each in held for run_id in each.message.run_ids]) == list(
        range(10)
    )
    assert not more.done()
    more.cancel()


async def test_a_message_that_cannot_be_read_is_a_dead_letter_and_stops_nobody(
    broker: Broker,
) -> None:
    queue = broker.queue()
    subscription = await queue.subscribe(worker())
    await queue.publish([RunMessage(SHELL, (1,))])
    assert await take_ids(subscription, 1) == [1]
    await broker.kind.put(broker.url, b"{no JSON")
    await queue.publish([RunMessage(SHELL, (2,))])

    assert await take_ids(subscription, 1) == [2]
    body, reason = await broker.kind.dead_letter(broker.url)
    assert body == b"{no JSON"
    assert reason.startswith("unreadable: ")


async def test_a_message_that_is_given_back_again_and_again_is_a_dead_letter(
    broker: Broker,
) -> None:
    queue = broker.queue(delivery_limit=2)
    subscription = await queue.subscribe(worker())
    await queue.publish([RunMessage(SHELL, (1,))])
    burying = asyncio.create_task(refuse_all(subscription))
    body, reason = await broker.kind.dead_letter(broker.url)
    burying.cancel()
    await queue.publish([RunMessage(SHELL, (2,))])

    assert b'"run_ids":[1]' in body
    assert reason in ("delivery_limit", "delivered 2 times and never acknowledged")
    assert await take_ids(subscription, 1) == [2]


async def refuse_all(subscription: Any) -> None:
    while True:
        await (await subscription.receive()).refuse()


async def test_a_message_that_is_published_twice_is_delivered_twice(broker: Broker) -> None:
    queue = broker.queue()
    await queue.publish([RunMessage(SHELL, (1,))])
    await queue.publish([RunMessage(SHELL, (1,))])

    assert await take_ids(await queue.subscribe(worker()), 2) == [1, 1]


async def test_messages_that_come_twice_and_in_another_order_start_each_run_once(
    broker: Broker,
) -> None:
    clock = FakeClock()
    store = InlineSqliteStore(clock, MemoryWakeups(), schema=empty_schema())
    ways = [
        StoreControlPlane(
            store, broker.queue(), MemoryWakeups(), clock, built_in_strategies(), LEASE
        )
        for _ in range(2)
    ]
    for number, way in enumerate(ways):
        await way.register(worker(f"worker-{number}", max_concurrent_tasks=20))
    runs = await ready_runs(store, MemoryQueue(), 10)
    garbled = [RunMessage(SHELL, (run.id,)) for run in reversed(runs)] * 2
    await broker.queue().publish(garbled)
    [last] = await ready_runs(store, broker.queue())  # all others come before it
    begun = Begun()

    async def claim_up_to_the_last(way: StoreControlPlane) -> None:
        while last.id not in begun.ids:
            await way.claim(Slots(3), begun)

    claiming = [asyncio.create_task(claim_up_to_the_last(way)) for way in ways]
    await asyncio.wait(claiming, return_when=asyncio.FIRST_COMPLETED)
    for each in claiming:
        each.cancel()
    await asyncio.wait(claiming)
    for way in ways:
        await way.stop_claiming(begun)  # begins what was claimed just now

    assert sorted(begun.ids) == sorted(run.id for run in [*runs, last])
    assert await broker.kind.waiting(broker.url) < len(garbled)  # they were there, and are taken
    for way in ways:
        await way.close()


async def test_what_was_acknowledged_takes_no_room_at_the_broker(broker: Broker) -> None:
    queue = broker.queue()
    subscription = await queue.subscribe(worker())
    await queue.publish([RunMessage(SHELL, (n,)) for n in range(20)])
    await take_ids(subscription, 20)
    await subscription.close()

    assert await broker.kind.waiting(broker.url) == 0


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_message_says_all_that_the_contract_has_it_say(broker: Broker) -> None:
    queue = broker.queue()
    await queue.publish([RunMessage(SHELL, (7,), (2,), TRACE)])
    subscription = await queue.subscribe(worker())
    (first,) = await take(subscription, 1)
    await first.refuse()
    (again,) = await take(subscription, 1)
    await queue.close()
    body, delivered = await broker.kind.given_back(broker.url)

    assert first.message == again.message == RunMessage(SHELL, (7,), (2,), TRACE)
    assert delivered >= 2  # RabbitMQ may hand it out once more as the line is cut
    said = json.loads(body)
    assert UUID(said.pop("id"))
    sent_at = datetime.fromisoformat(said.pop("timestamp"))
    assert datetime.fromisoformat(said.pop("expires_at")) - sent_at == timedelta(minutes=10)
    assert said.pop("retry_count") in (0, delivered)  # RabbitMQ counts by itself
    assert said == {
        "message_type": "TaskExecution",
        "correlation_id": "7",
        "payload": {"lane": SHELL, "run_ids": [7], "attempts": [2]},
        "trace_headers": {"traceparent": TRACE, "tracestate": None},
    }


async def test_a_message_that_outlived_itself_is_a_dead_letter_at_redis(
    shared_redis: Redis, redis_url: str
) -> None:
    async with (
        opened(shared_redis, RedisKind(), redis_url) as broker,
        redis.asyncio.from_url(redis_url) as client,
    ):
        queue = broker.queue()
        await queue.publish([RunMessage(SHELL, (1,))])
        [(id, fields)] = await client.xrange(stream_of(SHELL))
        await client.delete(stream_of(SHELL))
        a_minute_too_old = int(id.partition(b"-")[0]) - 11 * 60_000
        await client.xadd(stream_of(SHELL), fields, id=f"{a_minute_too_old}-0")
        await queue.publish([RunMessage(SHELL, (2,))])

        assert await take_ids(await queue.subscribe(worker()), 1) == [2]
        assert await broker.kind.dead_letter(redis_url) == (fields[b"envelope"], "expired")


@pytest.mark.slow
async def test_rabbitmq_is_told_how_long_a_message_is_to_live(
    shared_rabbitmq: RabbitMq, rabbitmq_url: str
) -> None:
    async with (
        opened(shared_rabbitmq, RabbitMqKind(), rabbitmq_url) as broker,
        await aio_pika.connect(rabbitmq_url) as connection,
    ):
        await broker.queue().publish([RunMessage(SHELL, (1,))])
        message = await (await (await connection.channel()).get_queue(queue_of(SHELL))).get()
        assert message is not None
        assert (message.routing_key, message.expiration) == ("task.shell", 600)


@pytest.mark.slow
async def test_lanes_of_workers_that_are_gone_are_announced_no_more(
    shared_rabbitmq: RabbitMq, rabbitmq_url: str
) -> None:
    clock = FakeClock()
    queue = RabbitMqQueue(rabbitmq_url, clock)
    gone, here = ("default/shell@gone", "default/shell@here")

    async def announced(messages: Any) -> list[str]:
        heard: list[str] = json.loads((await anext(messages)).body)["payload"]["lanes"]
        return heard

    await queue.publish([RunMessage(gone, (1,))])
    async with await aio_pika.connect(rabbitmq_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE)
        ear = await channel.declare_queue(exclusive=True)
        await ear.bind(exchange, LANES_ANNOUNCED)
        async with ear.iterator(no_ack=True) as messages:
            await exchange.publish(aio_pika.Message(b""), LANES_ASKED)
            assert await announced(messages) == [gone]
            clock.advance(timedelta(minutes=11))
            await queue.publish([RunMessage(here, (2,))])
            assert await announced(messages) == [here]
            await exchange.publish(aio_pika.Message(b""), LANES_ASKED)
            assert await announced(messages) == [here]
    await queue.close()


async def test_facts_are_told_on_their_routes(broker: Broker) -> None:
    queue: Any = broker.queue()
    fact = Fact("status.running", "7", {"run_id": 7})
    route, body = await broker.kind.told(broker.url, lambda: queue.facts.tell([fact]))

    assert route == "status.running"
    assert b'"message_type":"TaskStatusUpdate"' in body
    assert b'"correlation_id":"7","payload":{"run_id":7}' in body


async def test_facts_that_nobody_can_be_told_are_dropped_and_counted(broker: Broker) -> None:
    queue: Any = broker.kind.queue("{}://127.0.0.1:1".format(broker.url.split(":")[0]), 60.0)
    fact = Fact("worker.heartbeat", None, {})
    for _ in range(3):
        queue.facts.tell([fact] * 6_000)

    assert queue.facts.dropped == 8_000
    await queue.close()


@pytest.mark.slow
async def test_a_queue_that_takes_nothing_is_made_anew_and_holds_up_no_other(
    shared_rabbitmq: RabbitMq, rabbitmq_url: str
) -> None:
    async with opened(shared_rabbitmq, RabbitMqKind(), rabbitmq_url) as broker:
        await broker.queue().publish([RunMessage(SHELL, (1,))])
        place = rabbitmq_url.rpartition("/")[2]
        # What RabbitMQ 3.10 leaves behind when it is killed just after a declaration: a name only.
        shared_rabbitmq._evaluate(
            f"ra:stop_server(quorum_queues, {{'{place}_{queue_of(SHELL)}', node()}})"
        )
        queue = broker.queue()
        subscription = await queue.subscribe(worker())
        await queue.publish([RunMessage(SHELL, (2,)), RunMessage("default/http", (3,))])

        assert set(await take_ids(subscription, 2)) == {2, 3}


async def test_nothing_is_left_at_redis_of_a_worker_that_is_gone(
    shared_redis: Redis, redis_url: str
) -> None:
    async with (
        opened(shared_redis, RedisKind(), redis_url) as broker,
        redis.asyncio.from_url(redis_url, decode_responses=True) as client,
    ):
        queue = broker.queue()
        lanes = [f"default/shell@{name}" for name in ("gone", "here")]
        await queue.publish([RunMessage(lane, (1,)) for lane in (*lanes, SHELL)])
        assert await queue.kept_for() == {"gone", "here"}
        await queue.tidy(["gone"])

        assert await client.smembers("tidemill:lanes") == {SHELL, lanes[1]}
        kept = {key async for key in client.scan_iter("tidemill:task.*")}
        assert kept == {stream_of(SHELL), stream_of(lanes[1])}
