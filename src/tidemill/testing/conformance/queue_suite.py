"""What every message queue must do. Each adapter's tests subclass this and give a `queue`."""

import asyncio

import pytest

from tidemill.errors import Unavailable
from tidemill.foundation.queue import Delivery, MessageQueue, RunMessage, Subscription
from tidemill.testing.builders import worker

SHELL = "default/shell"
EU = 'default/shell/{"zone":"eu"}'


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """So many deliveries, with and without waiting, as a worker takes them."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken.append(subscription.received() or await subscription.receive())
    return taken


async def take_ids(subscription: Subscription, count: int) -> list[int]:
    """The runs that so many messages name, acknowledged one by one."""
    ids: list[int] = []
    for _ in range(count):
        (delivery,) = await take(subscription, 1)
        ids.extend(delivery.message.run_ids)
        await delivery.acknowledge()
    return ids


class QueueSuite:
    """Tests that take a fresh `queue` fixture."""

    async def test_a_message_reaches_a_worker_that_serves_its_lane(
        self, queue: MessageQueue
    ) -> None:
        subscription = await queue.subscribe(worker())
        await queue.publish([RunMessage(SHELL, (1, 2))])

        delivery = await subscription.receive()
        assert delivery.message == RunMessage(SHELL, (1, 2))
        await delivery.acknowledge()

    async def test_a_message_that_was_published_first_waits_for_its_worker(
        self, queue: MessageQueue
    ) -> None:
        await queue.publish([RunMessage(SHELL, (1,))])
        subscription = await queue.subscribe(worker())

        assert (await subscription.receive()).message.run_ids == (1,)

    async def test_a_message_is_handed_to_one_worker_only(self, queue: MessageQueue) -> None:
        subscriptions = [await queue.subscribe(worker(f"worker-{n}")) for n in range(2)]
        await queue.publish([RunMessage(SHELL, (n,)) for n in range(10)])

        received: list[int] = []

        async def drain(number: int) -> None:
            while len(received) < 10:
                delivery = await subscriptions[number].receive()
                received.extend(delivery.message.run_ids)
                await delivery.acknowledge()

        tasks = [asyncio.create_task(drain(number)) for number in range(2)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        assert sorted(received) == list(range(10))

    async def test_a_refused_message_is_handed_out_again(self, queue: MessageQueue) -> None:
        subscription = await queue.subscribe(worker())
        await queue.publish([RunMessage(SHELL, (7,))])
        await (await subscription.receive()).refuse()

        assert (await subscription.receive()).message.run_ids == (7,)

    async def test_what_a_worker_leaves_unanswered_goes_to_another(
        self, queue: MessageQueue
    ) -> None:
        first = await queue.subscribe(worker("worker-1"))
        await queue.publish([RunMessage(SHELL, (7,))])
        await first.receive()
        await first.close()
        second = await queue.subscribe(worker("worker-2"))

        assert (await second.receive()).message.run_ids == (7,)

    async def test_an_acknowledged_message_is_gone(self, queue: MessageQueue) -> None:
        first = await queue.subscribe(worker("worker-1"))
        await queue.publish([RunMessage(SHELL, (7,)), RunMessage(SHELL, (8,))])
        await (await first.receive()).acknowledge()
        await first.close()
        second = await queue.subscribe(worker("worker-2"))

        assert (await second.receive()).message.run_ids == (8,)

    async def test_a_lane_that_nobody_serves_hides_no_other(self, queue: MessageQueue) -> None:
        subscription = await queue.subscribe(worker())
        await queue.publish([RunMessage("elsewhere/shell", (1,)), RunMessage(SHELL, (2,))])

        assert (await subscription.receive()).message.run_ids == (2,)

    async def test_a_selector_is_matched_against_labels(self, queue: MessageQueue) -> None:
        elsewhere = await queue.subscribe(worker("worker-1", labels={"zone": "us"}))
        here = await queue.subscribe(worker("worker-2", labels={"zone": "eu"}))
        await queue.publish([RunMessage(EU, (1,)), RunMessage(SHELL, (2,))])

        assert (await elsewhere.receive()).message.run_ids == (2,)
        assert (await here.receive()).message.run_ids == (1,)

    async def test_a_lane_that_names_a_worker_is_that_workers_alone(
        self, queue: MessageQueue
    ) -> None:
        others = await queue.subscribe(worker("worker-1"))
        its = await queue.subscribe(worker("worker/2 @ home"))
        named = "default/shell~affinity@worker%2F2%20%40%20home"
        await queue.publish([RunMessage(named, (1,)), RunMessage(SHELL, (2,))])
        await queue.publish([RunMessage(named, (3,))])

        assert (await others.receive()).message.run_ids == (2,)
        received = [(await its.receive()).message.run_ids for _ in range(2)]
        assert sorted(received) == [(1,), (3,)], received
        assert others.received() is None

    async def test_a_message_for_labels_that_was_published_first_waits_for_its_worker(
        self, queue: MessageQueue
    ) -> None:
        await queue.publish([RunMessage(EU, (1,))])
        subscription = await queue.subscribe(worker(labels={"zone": "eu"}))

        assert await take_ids(subscription, 1) == [1]

    async def test_a_lane_at_rest_keeps_its_order(self, queue: MessageQueue) -> None:
        await queue.publish([RunMessage(SHELL, (n,)) for n in range(5)])
        await queue.publish([RunMessage(SHELL, (n,)) for n in range(5, 10)])
        subscription = await queue.subscribe(worker())

        assert await take_ids(subscription, 10) == list(range(10))

    async def test_many_messages_of_many_lanes_go_in_one_publish(self, queue: MessageQueue) -> None:
        lanes = [f"queue-{n}/shell" for n in range(4)]
        subscription = await queue.subscribe(worker(queues=[f"queue-{n}" for n in range(4)]))
        await queue.publish([RunMessage(lanes[n % 4], (n, -n)) for n in range(200)])

        deliveries: list[RunMessage] = []
        for _ in range(200):
            (delivery,) = await take(subscription, 1)
            deliveries.append(delivery.message)
            await delivery.acknowledge()
        assert sorted(deliveries, key=lambda message: message.run_ids) == sorted(
            (RunMessage(lanes[n % 4], (n, -n)) for n in range(200)),
            key=lambda message: message.run_ids,
        )

    async def test_nothing_to_publish_is_allowed(self, queue: MessageQueue) -> None:
        await queue.publish([])

    async def test_a_lane_that_appears_after_subscribing_is_received(
        self, queue: MessageQueue
    ) -> None:
        subscription = await queue.subscribe(worker(labels={"zone": "eu"}))
        await queue.publish([RunMessage(SHELL, (1,))])
        assert await take_ids(subscription, 1) == [1]
        await queue.publish([RunMessage(EU, (2,))])

        assert await take_ids(subscription, 1) == [2]

    async def test_a_lane_may_be_called_anything(self, queue: MessageQueue) -> None:
        name, kind, label = "夜 *#.:{} " + "q" * 300, "my kind.of:task*#", "ü" * 200
        here = await queue.subscribe(
            worker(queues=[name], task_types=[kind], labels={"zone": f"{label}1"})
        )
        lanes = [f'{name}/{kind}/{{"zone":"{label}{n}"}}' for n in range(2)]
        await queue.publish([RunMessage(lanes[0], (1,)), RunMessage(lanes[1], (2,))])

        (delivery,) = await take(here, 1)
        assert delivery.message == RunMessage(lanes[1], (2,))

    async def test_a_full_lane_hides_no_other(self, queue: MessageQueue) -> None:
        await queue.publish([RunMessage(SHELL, (n,)) for n in range(300)])
        await queue.publish([RunMessage("default/http", (1_000,))])
        subscription = await queue.subscribe(worker())

        assert 1_000 in await take_ids(subscription, 250)

    async def test_what_is_not_here_yet_is_not_waited_for(self, queue: MessageQueue) -> None:
        subscription = await queue.subscribe(worker())
        assert subscription.received() is None
        await queue.publish([RunMessage(SHELL, (1,))])
        await take(subscription, 1)

        assert subscription.received() is None

    async def test_a_message_acknowledged_twice_is_acknowledged_once(
        self, queue: MessageQueue
    ) -> None:
        first = await queue.subscribe(worker("worker-1"))
        await queue.publish([RunMessage(SHELL, (1,)), RunMessage(SHELL, (2,))])
        (delivery,) = await take(first, 1)
        await delivery.acknowledge()
        await delivery.acknowledge()
        await delivery.refuse()
        await first.close()
        second = await queue.subscribe(worker("worker-2"))
        assert await take_ids(second, 1) == [2]
        await second.close()
        await queue.publish([RunMessage(SHELL, (3,))])

        assert await take_ids(await queue.subscribe(worker("worker-3")), 1) == [3]

    async def test_whoever_waits_is_told_when_the_subscription_closes(
        self, queue: MessageQueue
    ) -> None:
        subscription = await queue.subscribe(worker())
        waiting = asyncio.create_task(subscription.receive())
        await asyncio.sleep(0)
        await subscription.close()

        with pytest.raises(Unavailable):
            await waiting
        assert subscription.received() is None
        await subscription.close()

    async def test_a_receive_that_is_given_up_loses_nothing(self, queue: MessageQueue) -> None:
        subscription = await queue.subscribe(worker())
        waiting = asyncio.create_task(subscription.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await queue.publish([RunMessage(SHELL, (1,))])

        assert await take_ids(subscription, 1) == [1]

    async def test_what_is_kept_for_workers_that_are_gone_is_dropped_and_nothing_else(
        self, queue: MessageQueue
    ) -> None:
        await queue.publish(
            [RunMessage(f"default/shell@{name}", (1,)) for name in ("gone", "here")]
            + [RunMessage(SHELL, (2,))]
        )
        await queue.tidy(await queue.kept_for() - {"here"})

        assert await queue.kept_for() <= {"here"}
        assert sorted(await take_ids(await queue.subscribe(worker("here")), 2)) == [1, 2]

    async def test_a_worker_whose_lane_was_dropped_goes_on_receiving(
        self, queue: MessageQueue
    ) -> None:
        subscription = await queue.subscribe(worker("taken-for-lost"))
        await queue.publish([RunMessage("default/shell@taken-for-lost", (1,))])
        assert await take_ids(subscription, 1) == [1]
        await queue.tidy(["taken-for-lost"])
        await queue.publish([RunMessage(SHELL, (2,))])

        assert await take_ids(subscription, 1) == [2]

    async def test_closing_twice_is_allowed(self, queue: MessageQueue) -> None:
        await queue.close()
        await queue.close()
