"""The queue in RabbitMQ: a quorum queue for each lane, shared by the workers that serve it."""

from collections.abc import Collection, Sequence

from tidemill.domain.worker import Worker
from tidemill.foundation.clock import Clock
from tidemill.foundation.queue import Fact, RunMessage
from tidemill.infrastructure.queues.address import read_address
from tidemill.infrastructure.queues.envelope import LIFETIME, encode, fact_message, task_execution
from tidemill.infrastructure.queues.facts import FactTeller
from tidemill.infrastructure.queues.lane_names import route_of
from tidemill.infrastructure.queues.rabbitmq_link import DEFAULTS, RabbitMqOptions
from tidemill.infrastructure.queues.rabbitmq_publisher import Outgoing, RabbitMqPublisher
from tidemill.infrastructure.queues.rabbitmq_subscription import RabbitMqSubscription


class RabbitMqQueue:
    """Messages go through the RabbitMQ at `url`: `amqp://…`, or `amqps://…` for TLS.

    Nothing is asked of it until something is published or received. Raises InvalidSettings for a
    URL that cannot be used, or that is not encrypted where `require_tls` is set.
    """

    carries_all = True

    def __init__(
        self,
        url: str,
        clock: Clock,
        options: RabbitMqOptions = DEFAULTS,
        *,
        require_tls: bool = False,
    ) -> None:
        self._address = read_address(url, plain="amqp", encrypted="amqps", require_tls=require_tls)
        self._clock = clock
        self._options = options
        self._publisher = RabbitMqPublisher(self._address, clock, options)
        self._subscriptions: set[RabbitMqSubscription] = set()
        self.facts = FactTeller(self._send_facts)

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        now = self._clock.now()
        await self._publisher.publish(
            [
                Outgoing(
                    route_of(each.lane), encode(task_execution(each, now)), each.lane, LIFETIME
                )
                for each in messages
            ]
        )

    async def subscribe(self, worker: Worker) -> RabbitMqSubscription:
        subscription = RabbitMqSubscription(self._address, worker, self._clock, self._options)
        self._subscriptions.add(subscription)
        return subscription

    async def check(self) -> None:
        await self._publisher.check()

    async def kept_for(self) -> set[str]:
        return set()  # queues of single workers expire at the broker, and messages as well

    async def tidy(self, gone: Collection[str]) -> None:
        """The broker sees to it."""

    async def close(self) -> None:
        await self.facts.close()
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._subscriptions.clear()
        await self._publisher.close()

    async def _send_facts(self, facts: Sequence[Fact]) -> None:
        now = self._clock.now()
        await self._publisher.publish(
            [Outgoing(fact.route, encode(fact_message(fact, now))) for fact in facts]
        )
