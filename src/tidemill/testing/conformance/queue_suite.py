"""What every message queue must do. Each adapter's tests subclass this and give a `queue`."""

import asyncio

from tidemill.foundation.queue import MessageQueue, RunMessage
from tidemill.testing.builders import worker

SHELL = "default/shell"


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
        lane = 'default/shell/{"zone":"eu"}'
        elsewhere = await queue.subscribe(worker("worker-1", labels={"zone": "us"}))
        here = await queue.subscribe(worker("worker-2", labels={"zone": "eu"}))
        await queue.publish([RunMessage(lane, (1,)), RunMessage(SHELL, (2,))])

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
        assert sorted(received) == [(1,), (3,)]
        assert others.received() is None

    async def test_closing_twice_is_allowed(self, queue: MessageQueue) -> None:
        await queue.close()
        await queue.close()
