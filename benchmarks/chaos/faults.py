"""What is done to the cluster: one fault after the other, each healed before the next begins."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from tidemill.testing.cluster import Cluster, Member
from tidemill.testing.faults import Fault
from tidemill.testing.services import Postgres, RabbitMq, Redis

LEASE_SECONDS = 5.0

_LINK_FAULTS = (Fault.BLACK_HOLE, Fault.DROP_REPLIES, Fault.DROP_REQUESTS, Fault.DELAY)


class Done(NamedTuple):
    """A fault that was: what it was, when it began and was healed, in seconds since the epoch."""

    kind: str
    began_at: float
    healed_at: float
    stood_still: str | None  # the member that was unable to run


class Faults:
    """Chooses faults by chance, and remembers what it did."""

    def __init__(
        self,
        cluster: Cluster,
        postgres: Postgres,
        broker: Redis | RabbitMq | None,
        chance: random.Random,
    ) -> None:
        self.done: list[Done] = []
        self._cluster = cluster
        self._postgres = postgres
        self._broker = broker
        self._chance = chance
        self._stood_still: str | None = None
        # How often each is chosen among them.
        self._kinds: list[tuple[int, Callable[[], str]]] = [
            (5, self._kill), (3, self._pause_past_the_lease), (2, self._pause_briefly),
            (5, self._break_a_link), (2, self._reset_connections), (2, self._restart),
            (1, self._kill_the_database), (1, self._pause_the_database),
        ]  # fmt: skip
        if broker is not None:
            self._kinds += [
                (2, self._kill_the_broker), (1, self._pause_the_broker), (2, self._wipe_the_broker),
            ]  # fmt: skip

    def go_on(self, seconds: float) -> None:
        """Return when so many seconds have passed and all is healed."""
        until = time.monotonic() + seconds
        weights = [weight for weight, _ in self._kinds]
        while time.monotonic() < until:
            [(_, fault)] = self._chance.choices(self._kinds, weights)
            began_at, self._stood_still = time.time(), None
            kind = fault()
            self.done.append(Done(kind, began_at, time.time(), self._stood_still))
            self._look_for_ended()
            time.sleep(self._chance.uniform(0, 2))

    def _kill(self) -> str:
        member = self._anyone()
        member.process.kill()
        time.sleep(self._chance.uniform(0, 1))
        member.process.start()
        return f"{member.role}: killed"

    def _restart(self) -> str:
        member = self._anyone()
        member.process.stop()
        member.process.start()
        return f"{member.role}: restarted"

    def _pause_past_the_lease(self) -> str:
        worker = self._chance.choice(self._of_role("worker"))
        self._pause(worker, LEASE_SECONDS + self._chance.uniform(1, 4))
        return "worker: paused past its lease"

    def _pause_briefly(self) -> str:
        member = self._chance.choice(self._of_role("dispatcher", "worker"))
        self._pause(member, self._chance.uniform(0.5, 3.5))
        return f"{member.role}: paused"

    def _pause(self, member: Member, seconds: float) -> None:
        self._stood_still = member.data_dir.name
        member.process.pause()
        time.sleep(seconds)
        member.process.resume()

    def _break_a_link(self) -> str:
        member, fault = self._anyone(), self._chance.choice(_LINK_FAULTS)
        to, link = self._chance.choice(list(member.links.items()))
        link.fault = fault
        time.sleep(self._chance.uniform(0.5, LEASE_SECONDS + 3))
        link.fault = None
        return f"{member.role} to {to}: {fault.replace('_', ' ')}"

    def _reset_connections(self) -> str:
        member = self._anyone()
        to, link = self._chance.choice(list(member.links.items()))
        link.reset_connections()
        return f"{member.role} to {to}: reset"

    def _kill_the_database(self) -> str:
        return self._kill_server(self._postgres)

    def _pause_the_database(self) -> str:
        return self._pause_server(self._postgres)

    def _kill_the_broker(self) -> str:
        assert self._broker is not None
        return self._kill_server(self._broker)

    def _pause_the_broker(self) -> str:
        assert self._broker is not None
        return self._pause_server(self._broker)

    def _wipe_the_broker(self) -> str:
        assert self._broker is not None
        self._broker.wipe()
        return f"{self._broker.name}: wiped"

    def _kill_server(self, server: Postgres | Redis | RabbitMq) -> str:
        server.kill()
        time.sleep(self._chance.uniform(0, 2))
        server.start()
        return f"{server.name}: killed"

    def _pause_server(self, server: Postgres | Redis | RabbitMq) -> str:
        server.pause()
        time.sleep(self._chance.uniform(0.5, 3))
        server.resume()
        return f"{server.name}: paused"

    def _anyone(self) -> Member:
        return self._chance.choice(self._cluster.members)

    def _of_role(self, *roles: str) -> list[Member]:
        return [member for member in self._cluster.members if member.role in roles]

    def _look_for_ended(self) -> None:
        """None of the faults is a reason for a process to end by itself."""
        for member in self._cluster.members:
            if not member.process.is_running:
                raise RuntimeError(
                    f"{member.data_dir.name} ended by itself: {member.process.log[-2_000:]}"
                )
