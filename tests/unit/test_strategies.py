"""Whom a strategy names, given the workers and what they have to do."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tidemill.domain.gates import PREFETCH
from tidemill.domain.strategies.placement import (
    Candidate,
    Part,
    Place,
    Question,
    SchedulingStrategy,
    candidates_among,
    places_of,
)
from tidemill.domain.strategies.registry import StrategyRegistry, built_in_strategies
from tidemill.domain.task import (
    StrategyChoice,
    lane_of,
    lane_to_wait_in,
    lane_without_worker,
    parse_lane,
)
from tidemill.errors import InvalidInput, Problem
from tidemill.testing.builders import definition, worker


def workers(*free: int, room: int = 100) -> list[Candidate]:
    """Workers `a`, `b`, … with so many free slots each."""
    return [Candidate(name, name, slots, room) for name, slots in zip("abcdef", free, strict=False)]


def placed(
    choice: StrategyChoice, among: Sequence[Candidate], *, task: int = 1, turn: int = 0
) -> list[Place]:
    return places_of(built_in_strategies().build(choice), Question(task, turn, True), among)


def names(
    choice: StrategyChoice, among: Sequence[Candidate], count: int, first_task: int = 0
) -> list[str | None]:
    """Whom so many runs in a row are for, each of another task."""
    return [
        placed(choice, among, task=first_task + number, turn=number)[0].worker_id
        for number in range(count)
    ]


def test_queue_names_nobody() -> None:
    assert names("queue", workers(1, 1), 2) == [None, None]


def test_round_robin_names_one_after_the_other() -> None:
    assert names("round_robin", workers(1, 9, 1), 5) == ["a", "b", "c", "a", "b"]


def test_round_robin_passes_over_who_is_full() -> None:
    among = workers(1, 1, 1)
    among[1].room = 0

    assert names("round_robin", among, 4) == ["a", "c", "c", "a"]


def test_least_loaded_counts_what_it_gave_out_itself() -> None:
    assert names("least_loaded", workers(1, 3, 2), 6) == ["b", "b", "c", "a", "b", "c"]


def test_least_loaded_passes_over_who_is_full() -> None:
    among = workers(5, 1)
    among[0].room = 0

    assert names("least_loaded", among, 2) == ["b", "b"]


def test_what_runs_and_what_waits_by_name_takes_slots() -> None:
    among = candidates_among(
        [worker("b", max_concurrent_tasks=4), worker("a", max_concurrent_tasks=3)],
        running={"a": 1, "b": 2},
        waiting={"b": 1},
    )

    assert [(each.id, each.free) for each in among] == [("a", 2), ("b", 1)]
    assert [each.room for each in among] == [3 * PREFETCH, 4 * PREFETCH - 1]


def test_a_worker_is_given_no_more_than_may_wait_for_its_slots() -> None:
    among = candidates_among([worker("a", max_concurrent_tasks=1)], {}, {})

    places = [placed("least_loaded", among)[0] for _ in range(PREFETCH + 1)]
    assert [place.has_room for place in places] == [True] * PREFETCH + [False]


def test_affinity_keeps_a_key_with_its_worker_however_full_it_is() -> None:
    choice: StrategyChoice = {"name": "affinity", "key": "customer-7"}
    [first] = set(names(choice, workers(9, 9, 9), 20))
    among = workers(9, 9, 9)
    next(each for each in among if each.id == first).room = 0

    assert set(names(choice, among, 20)) == {first}


def test_affinity_moves_only_the_keys_of_the_worker_that_went() -> None:
    whole = names("affinity", workers(1, 1, 1, 1, 1, 1), 600)
    left = names("affinity", workers(1, 1, 1, 1, 1), 600)

    moved = [before for before, after in zip(whole, left, strict=True) if before != after]
    assert set(moved) == {"f"}
    assert min(Counter(whole).values()) > 60
    assert min(Counter(left).values()) > 80


def test_affinity_gives_a_worker_that_returns_under_its_name_its_keys_back() -> None:
    before = [Candidate("x1", "x", 1, 1), Candidate("y1", "y", 1, 1)]
    after = [Candidate("x2", "x", 1, 1), Candidate("y1", "y", 1, 1)]

    told = [names("affinity", among, 50) for among in (before, after)]
    assert [name and name[0] for name in told[0]] == [name and name[0] for name in told[1]]


def test_composite_chooses_among_those_that_the_one_before_has_left() -> None:
    both: StrategyChoice = {"name": "composite", "strategies": ["least_loaded", "round_robin"]}

    assert [placed(both, workers(1, 5, 5), turn=turn)[0].worker_id for turn in range(4)] == [
        "b", "c", "b", "c",
    ]  # fmt: skip


def test_broadcast_is_for_every_worker() -> None:
    places = placed("broadcast", workers(0, 3, 0))

    assert [place.worker_id for place in places] == ["a", "b", "c"]
    assert all(place.is_bound for place in places)


def test_shard_numbers_its_parts_and_names_nobody() -> None:
    places = placed({"name": "shard", "count": 3}, workers(1, 1))

    assert [(each.shard_index, each.shard_total) for each in places] == [(0, 3), (1, 3), (2, 3)]
    assert {each.worker_id for each in places} == {None}


def test_the_shards_of_a_composite_are_placed_one_by_one() -> None:
    def of(strategy: str, turn: int = 0) -> list[str | None]:
        shards = {"name": "shard", "count": 4}
        choice: StrategyChoice = {"name": "composite", "strategies": [shards, strategy]}
        return [each.worker_id for each in placed(choice, workers(2, 2), turn=turn)]

    assert of("least_loaded") == ["a", "b", "a", "b"]
    assert [of("round_robin", turn) for turn in (0, 1)] == [["a", "b"] * 2, ["b", "a"] * 2]
    assert len(set(of("affinity"))) == 1


@pytest.mark.parametrize("choice", ["broadcast", {"name": "shard", "count": 3}])
def test_a_part_is_not_split_again(choice: StrategyChoice) -> None:
    strategy = built_in_strategies().build(choice)

    assert places_of(strategy, Question(1, 0, False), workers(1, 1)) == [
        Place(None, True, False, None, None)
    ]


@pytest.mark.parametrize(
    ("choice", "where", "said"),
    [
        ("fastest", "", "no strategy 'fastest'; there are: affinity, broadcast, composite, "
         "least_loaded, queue, round_robin, shard"),
        ({"count": 3}, "", "no name; there are: affinity, broadcast, composite, "
         "least_loaded, queue, round_robin, shard"),
        ("shard", "", "shard: object missing required field `count`"),
        ({"name": "shard", "count": 0}, "/count", "shard: expected `int` >= 1"),
        ({"name": "shard", "count": 1_001}, "/count", "shard: expected `int` <= 1000"),
        ({"name": "shard", "count": "many"}, "/count", "shard: expected `int`, got `str`"),
        ({"name": "queue", "size": 1}, "", "queue: object contains unknown field `size`"),
        ({"name": "affinity", "key": ""}, "/key",
         "affinity: expected `str` of length >= 1"),
        ("composite", "", "composite: object missing required field `strategies`"),
        ({"name": "composite", "strategies": []}, "/strategies",
         "composite: expected `array` of length >= 1"),
        ({"name": "composite", "strategies": [7]}, "/strategies/0",
         "composite: expected a strategy: its name, or an object with `name`"),
        ({"name": "composite", "strategies": ["queue", {"name": "shard", "count": 0}]},
         "/strategies/1/count", "composite: shard: expected `int` >= 1"),
        ({"name": "composite", "strategies": [{"name": "composite", "strategies": ["no"]}]},
         "/strategies/0/strategies/0",
         "composite: composite: no strategy 'no'; there are: affinity, broadcast, composite, "
         "least_loaded, queue, round_robin, shard"),
        ({"name": "composite", "strategies": ["broadcast", {"name": "shard", "count": 2}]}, "",
         "composite: only one of its strategies may be broadcast or shard"),
    ],
)  # fmt: skip
def test_a_strategy_that_cannot_be_is_refused_with_its_place(
    choice: StrategyChoice, where: str, said: str
) -> None:
    wanted = definition(strategy=choice)

    assert built_in_strategies().check(wanted) == [Problem(f"/strategy{where}", said)]


class Last(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A strategy of one's own: the last of the workers."""

    takes_turns = False
    splits = False

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        return [part.narrowed(part.candidates[-1:])]


def test_a_strategy_of_ones_own_is_one_class_and_one_registration() -> None:
    strategies = built_in_strategies()
    strategies.register("last", Last)
    strategy = strategies.build("last")

    assert isinstance(strategy, SchedulingStrategy)
    assert places_of(strategy, Question(1, 0, True), workers(1, 1, 1))[0].worker_id == "c"
    assert strategies.build({"name": "composite", "strategies": ["last"]})


@pytest.mark.parametrize("name", ["queue", "a@b", "a~b", "a/b", ""])
def test_a_name_that_is_taken_or_no_word_is_not_registered(name: str) -> None:
    with pytest.raises(ValueError, match=r"registered already|is no name"):
        built_in_strategies().register(name, Last)


def test_what_is_not_registered_here_keeps_no_run_from_starting() -> None:
    asked = built_in_strategies().asked_for(definition(strategy="of-another-version"))

    assert places_of(asked, Question(1, 0, True), workers(1))[0].worker_id is None


def test_the_default_is_for_tasks_that_name_none() -> None:
    strategies = built_in_strategies()
    strategies.set_default({"name": "shard", "count": 2})

    def parts_of(choice: StrategyChoice | None) -> int:
        strategy = strategies.asked_for(definition(strategy=choice))
        return len(places_of(strategy, Question(1, 0, True), workers(1)))

    assert [parts_of(choice) for choice in (None, "queue")] == [2, 1]
    with pytest.raises(InvalidInput):
        strategies.set_default("fastest")


LANES: list[tuple[dict[str, Any], str]] = [
    ({}, "default/shell"),
    ({"strategy": "queue"}, "default/shell~queue"),
    ({"strategy": {"name": "shard", "count": 2}}, "default/shell~shard"),
    (
        {"strategy": "affinity", "worker_selector": {"b": "2", "a": "@~/1"}},
        'default/shell~affinity/{"a":"@~/1","b":"2"}',
    ),
]


@pytest.mark.parametrize(("fields", "lane"), LANES)
def test_a_lane_says_which_strategy_is_asked(fields: dict[str, Any], lane: str) -> None:
    assert lane_of(definition(**fields)) == lane
    assert str(parse_lane(lane)) == lane


def test_a_lane_may_name_a_worker_of_any_name() -> None:
    for worker_id in ("w-1", "häuser/ost~2@a", " "):
        lane = msgspec.structs.replace(parse_lane('q/shell~x/{"a":"1"}'), worker_id=worker_id)

        assert parse_lane(str(lane)) == lane
        assert worker(worker_id, queues=["q"], labels={"a": "1"}).serves(lane)
        assert not worker("other", queues=["q"], labels={"a": "1"}).serves(lane)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (lane_to_wait_in, "q/shell~affinity@w", "q/shell~affinity"),
        (lane_to_wait_in, "q/shell@w", "q/shell@w"),  # bound: it is that worker's still
        (lane_to_wait_in, "q/shell~shard", "q/shell~shard"),
        (lane_without_worker, "q/shell~affinity@w", "q/shell~affinity"),
        (lane_without_worker, "q/shell@w", "q/shell~queue"),  # and is not broadcast once more
    ],
)
def test_a_choice_is_void_once_its_dispatch_is_and_a_binding_once_its_worker_is_gone(
    change: Callable[[str], str], before: str, after: str
) -> None:
    assert change(before) == after


def test_a_registry_tells_what_there_is() -> None:
    assert StrategyRegistry().names == []
    assert built_in_strategies().names == [
        "affinity", "broadcast", "composite", "least_loaded", "queue", "round_robin", "shard",
    ]  # fmt: skip
