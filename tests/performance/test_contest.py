"""Whoever competes does so in turn; what is told is the middle, and who cannot is named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.contest import Contender, Running, compete
from benchmarks.peers.environments import Missing
from benchmarks.peers.loads import peers_named
from benchmarks.servers import Servers


class Fake:
    """Has one figure ready for each round; None where it cannot be started."""

    durability = "nothing"
    most_runs = 1

    def __init__(self, name: str, order: list[str], *figures: float | None) -> None:
        self.name = name
        self._order = order
        self._figures = iter(figures)

    @contextmanager
    def running(self, servers: Servers, directory: Path) -> Iterator["Fake"]:
        self._order.append(self.name)
        yield self

    def carry_out(self, kind: str, **options: Any) -> dict[str, Any]:
        figure = next(self._figures)
        if figure is None:
            raise Missing("ended by itself")
        return {"speed": figure, "cpu": {"all": figure * 2}}


def ask(_: Contender, running: Running) -> dict[str, Any]:
    return running.carry_out("bulk")


def test_rounds_are_carried_out_in_turn_and_summed_up_by_their_middle() -> None:
    order: list[str] = []
    one, other = Fake("one", order, 3, 1, 2), Fake("other", order, 5, 5, 5)

    found = compete([one, other], ask, times=3)

    assert order == ["one", "other"] * 3
    assert found["contenders"]["one"]["speed"] == {"median": 2, "lowest": 1, "highest": 3}
    assert found["contenders"]["one"]["cpu"]["all"]["median"] == 4
    assert len(found["contenders"]["other"]["rounds"]) == 3
    assert found["missing"] == {}


def test_who_cannot_be_run_is_named_with_the_reason_and_asked_no_more() -> None:
    order: list[str] = []

    found = compete([Fake("gone", order, None), Fake("there", order, 1, 1)], ask, times=2)

    assert found["missing"] == {"gone": "ended by itself"}
    assert list(found["contenders"]) == ["there"]
    assert order == ["gone", "there", "there"]


def test_all_peers_are_those_that_carry_out_such_a_load() -> None:
    names = {peer.name for peer in peers_named("all", "schedules")}

    assert {"arq, redis", "apscheduler, postgres", "celery beat, rabbitmq"} <= names
    assert "dramatiq, redis" not in names
    assert peers_named("", "bulk") == []


def test_a_peer_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no peer 'selery'; there are: pgqueuer;"):
        peers_named("selery", "bulk")
