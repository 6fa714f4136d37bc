"""Runs whose strategy is asked, from their dispatch to their claim."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from tidemill.application import place_runs
from tidemill.application.cancel_runs import cancel_runs
from tidemill.application.claim_runs import claim_runs
from tidemill.application.manage_workers import (
    change_worker,
    drain_worker,
    sign_off_worker,
)
from tidemill.application.queries.explain import explain
from tidemill.application.queries.ledger import ledger_of
from tidemill.application.retry_runs import retry_runs
from tidemill.domain.events import EventType
from tidemill.domain.gates import PREFETCH
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Concurrency, Retry, StrategyChoice, parse_lane
from tidemill.domain.task_run import Shard, TaskRun
from tidemill.foundation.wakeups import Topic
from tidemill.testing.clock import START
from tidemill.testing.inline import LEASE, InlineScheduler

NAMING: list[StrategyChoice] = [
    "round_robin",
    "least_loaded",
    "affinity",
    {"name": "composite", "strategies": ["least_loaded", "affinity"]},
]
THREE: StrategyChoice = {"name": "shard", "count": 3}


@pytest.fixture
def crowd(scheduler: InlineScheduler) -> InlineScheduler:
    """Three workers with four slots each."""
    for worker_id in ("a", "b", "c"):
        scheduler.register(worker_id)
    return scheduler


def settle(scheduler: InlineScheduler) -> dict[int, str]:
    """Dispatch until nothing more comes of it; the lanes that runs were published in."""
    published: dict[int, str] = {}
    while True:
        dispatched = scheduler.dispatch()
        published |= {run: each.lane for each in dispatched.messages for run in each.run_ids}
        if not dispatched.has_more:
            return published


def named(scheduler: InlineScheduler, run: TaskRun | int) -> str | None:
    """Whom a run is for."""
    return parse_lane(scheduler.run(run).lane).worker_id


def others(scheduler: InlineScheduler, gone: str | None) -> None:
    """A heartbeat of each worker but one."""
    for worker_id in {"a", "b", "c"} - {gone}:
        scheduler.renew(worker_id=worker_id)


def announced_by_claim(scheduler: InlineScheduler, run: TaskRun, worker_id: str) -> set[Topic]:
    """Whom the claim of a run wakes."""
    topics: set[Topic] = set()

    def claim(transaction: Any) -> None:
        claim_runs(transaction, worker_id, [run.id], LEASE)
        topics.update(transaction.topics)

    scheduler.do(claim)
    return topics


# one worker is named


@pytest.mark.parametrize("strategy", NAMING)
def test_a_run_goes_to_one_worker_alone(crowd: InlineScheduler, strategy: StrategyChoice) -> None:
    run = crowd.trigger(crowd.create(strategy=strategy))
    [(run_id, lane)] = settle(crowd).items()

    assert (run_id, lane) == (run.id, crowd.run(run).lane)
    assert named(crowd, run) in {"a", "b", "c"}
    told = crowd.events(run)[-1]
    assert (told.type, told.data["worker_id"]) == (EventType.RUN_DISPATCHED, named(crowd, run))


def test_round_robin_goes_on_where_the_dispatch_before_left_off(crowd: InlineScheduler) -> None:
    task = crowd.create(strategy="round_robin")
    runs = []
    for _ in range(6):
        runs.append(crowd.trigger(task))
        crowd.dispatch()

    assert [named(crowd, run) for run in runs] == ["a", "b", "c", "a", "b", "c"]


def test_the_least_loaded_worker_is_given_what_comes(crowd: InlineScheduler) -> None:
    busy = crowd.create("busy")
    for worker_id in ("a", "a", "c"):
        crowd.start(crowd.trigger(busy), worker_id)
    task = crowd.create(strategy="least_loaded")
    runs = [crowd.trigger(task) for _ in range(4)]
    settle(crowd)

    assert [named(crowd, run) for run in runs] == ["b", "b", "c", "a"]


def test_what_waits_by_name_counts_when_more_is_given_out(crowd: InlineScheduler) -> None:
    task = crowd.create(strategy="least_loaded")
    runs = []
    for _ in range(6):
        runs.append(crowd.trigger(task))
        crowd.dispatch()

    assert Counter(named(crowd, run) for run in runs) == {"a": 2, "b": 2, "c": 2}


def test_runs_of_two_lanes_see_what_the_other_was_given(crowd: InlineScheduler) -> None:
    crowd.register("d", queues=["other"])
    here, there = (
        crowd.create(queue, strategy="least_loaded", queue=queue) for queue in ("default", "other")
    )
    both = crowd.create("both", strategy="least_loaded", worker_selector={})
    runs = [crowd.trigger(task) for task in (here, both, there)]
    settle(crowd)

    assert named(crowd, runs[2]) == "d"
    assert named(crowd, runs[0]) != named(crowd, runs[1])


def test_a_full_worker_keeps_its_own_runs_waiting_and_nobody_elses(crowd: InlineScheduler) -> None:
    sticky = crowd.create("sticky", strategy={"name": "affinity", "key": "one"})
    stuck = [crowd.trigger(sticky) for _ in range(4 * PREFETCH + 20)]
    crowd.pass_time(1)
    free = [
        crowd.create(f"t{n}", strategy={"name": "affinity", "key": f"key-{n}"}) for n in range(9)
    ]
    later = [crowd.trigger(task) for task in free]
    published = settle(crowd)

    [owner] = {named(crowd, run) for run in stuck}
    waiting = [run for run in stuck if run.id not in published]
    assert len(waiting) == 20
    assert {crowd.run(run).status for run in waiting} == {RunStatus.PENDING}
    assert all(run.id in published for run in later if named(crowd, run) != owner)


def test_a_worker_that_takes_its_runs_is_given_the_next_ones(crowd: InlineScheduler) -> None:
    task = crowd.create(strategy="affinity")
    runs = [crowd.trigger(task) for _ in range(4 * PREFETCH + 1)]
    settle(crowd)
    owner = named(crowd, runs[0])
    assert owner is not None
    held = crowd.claim(*(run.id for run in runs[:-1]), worker_id=owner)
    assert list(settle(crowd)) == []  # it is full
    for each in held[:5]:
        crowd.record(each.run)

    assert list(settle(crowd)) == [runs[-1].id]


def test_a_claim_wakes_the_dispatcher_for_those_that_wait_to_be_placed(
    crowd: InlineScheduler,
) -> None:
    task = crowd.create(strategy="round_robin")
    runs = [crowd.trigger(task) for _ in range(3 * 4 * PREFETCH + 1)]
    settle(crowd)
    [first, *_] = [run for run in runs if named(crowd, run) == "a"]

    assert Topic.READY in announced_by_claim(crowd, first, "a")


# the worker is gone


@pytest.mark.parametrize("strategy", NAMING)
def test_a_run_named_for_a_worker_that_dies_is_anothers_within_one_lease(
    crowd: InlineScheduler, strategy: StrategyChoice
) -> None:
    run = crowd.trigger(crowd.create(strategy=strategy))
    settle(crowd)
    gone = named(crowd, run)
    assert gone is not None
    crowd.pass_time(2)
    crowd.recover()
    assert named(crowd, run) == gone
    crowd.pass_time(LEASE.total_seconds() - 1.999)
    others(crowd, gone)
    crowd.recover()

    assert run.id in settle(crowd)
    assert named(crowd, run) not in (gone, None)
    withdrawn = [e for e in crowd.events(run) if e.type is EventType.DISPATCH_WITHDRAWN]
    assert [event.data["reason"] for event in withdrawn] == ["worker_gone"]


def drains(scheduler: InlineScheduler, worker_id: str) -> None:
    scheduler.do(drain_worker, worker_id)


def signs_off(scheduler: InlineScheduler, worker_id: str) -> None:
    scheduler.do(sign_off_worker, worker_id)


def is_moved(scheduler: InlineScheduler, worker_id: str) -> None:
    scheduler.do(change_worker, worker_id, {"labels": {"zone": "us"}})


@pytest.mark.parametrize("leave", [drains, signs_off, is_moved])
@pytest.mark.parametrize("strategy", ["affinity", "broadcast"])
def test_a_run_named_for_a_worker_that_takes_no_more_is_anothers_at_once(
    scheduler: InlineScheduler, leave: Any, strategy: StrategyChoice
) -> None:
    for worker_id in ("a", "b", "c"):
        scheduler.register(worker_id, labels={"zone": "eu"})
    task = scheduler.create(strategy=strategy, worker_selector={"zone": "eu"})
    run = scheduler.trigger(task)
    settle(scheduler)
    gone = named(scheduler, run)
    assert gone is not None
    leave(scheduler, gone)

    lane = settle(scheduler)[run.id]
    assert parse_lane(lane).worker_id != gone
    assert scheduler.run(run).status is RunStatus.DISPATCHED


def test_a_run_that_waits_for_a_worker_without_being_dispatched_is_anothers_as_well(
    crowd: InlineScheduler,
) -> None:
    task = crowd.create(strategy={"name": "affinity", "key": "one"})
    runs = [crowd.trigger(task) for _ in range(4 * PREFETCH + 1)]
    settle(crowd)
    gone, last = named(crowd, runs[-1]), runs[-1]
    assert gone is not None
    assert crowd.run(last).status is RunStatus.PENDING
    crowd.do(drain_worker, gone)
    settle(crowd)

    told = [event.data for event in crowd.events(last) if event.type is EventType.RUN_PLACED]
    assert told[1] == {"worker_id": None, "reason": "worker_gone"}
    assert named(crowd, last) not in (gone, None)


def test_a_run_whose_message_was_lost_is_placed_anew(crowd: InlineScheduler) -> None:
    run = crowd.trigger(crowd.create(strategy="round_robin"))
    settle(crowd)
    assert named(crowd, run) == "a"
    for _ in range(4):
        crowd.pass_time(9)
        others(crowd, None)
    crowd.recover()
    settle(crowd)

    assert named(crowd, run) == "b"


def test_another_attempt_is_placed_anew(crowd: InlineScheduler) -> None:
    task = crowd.create(strategy="round_robin", retry=Retry(max_retries=1, delay_seconds=1))
    run = crowd.trigger(task)
    held = crowd.start(run, "a")
    crowd.record(held, failure("exit_code", "exit code 1", exit_code=1))
    crowd.pass_time(2)
    settle(crowd)

    assert named(crowd, run) == "b"


def test_a_run_that_is_refused_for_its_limit_is_placed_anew(crowd: InlineScheduler) -> None:
    narrow, wide = (
        crowd.create(name, strategy="round_robin", concurrency=Concurrency("key", limit))
        for name, limit in (("narrow", 1), ("wide", 2))
    )
    refused, taken = crowd.trigger(narrow), crowd.trigger(wide)
    settle(crowd)
    first = named(crowd, refused)
    [held] = crowd.claim(taken.id, worker_id="b")
    assert first is not None
    assert crowd.claim(refused.id, worker_id=first) == []
    crowd.record(held.run)
    settle(crowd)

    assert named(crowd, refused) not in (first, None)


def test_nothing_is_placed_while_no_worker_matches(scheduler: InlineScheduler) -> None:
    scheduler.register("a", queues=["other"])
    runs = [
        scheduler.trigger(scheduler.create(str(n), strategy=strategy))
        for n, strategy in enumerate([*NAMING, "broadcast", THREE])
    ]

    assert settle(scheduler) == {}
    assert len(scheduler.runs()) == len(runs)
    scheduler.register("b")
    assert set(settle(scheduler)) >= {run.id for run in runs}


# what is split


def parts_of(scheduler: InlineScheduler, run: TaskRun) -> list[TaskRun]:
    return scheduler.runs(part_of=run.id)


def test_a_broadcast_is_one_run_on_each_worker_that_matches(crowd: InlineScheduler) -> None:
    crowd.register("d", queues=["other"])
    crowd.register("e")
    crowd.do(drain_worker, "e")
    run = crowd.trigger(crowd.create(strategy="broadcast"), parameters={"day": 1})
    published = settle(crowd)

    parts = parts_of(crowd, run)
    assert sorted(str(named(crowd, part)) for part in parts) == ["a", "b", "c"]
    assert {part.id for part in parts} == set(published)
    assert parts[0].id == run.id
    assert {(p.scheduled_for, p.trigger, str(p.parameters)) for p in parts} == {
        (run.scheduled_for, run.trigger, "{'day': 1}")
    }
    for part in parts:
        told = crowd.events(part)
        assert [event.seq for event in told] == list(range(1, len(told) + 1))
        assert told[0].type is EventType.RUN_CREATED


def test_a_broadcast_that_is_dispatched_again_makes_no_run_twice(crowd: InlineScheduler) -> None:
    run = crowd.trigger(crowd.create(strategy="broadcast"))
    settle(crowd)
    for _ in range(4):
        crowd.pass_time(9)
        others(crowd, None)
    assert crowd.recover().redispatched == 3
    crowd.register("late")
    settle(crowd)

    parts = parts_of(crowd, run)
    assert sorted(str(named(crowd, part)) for part in parts) == ["a", "b", "c"]
    assert {part.status for part in parts} == {RunStatus.DISPATCHED}


def test_a_part_of_a_broadcast_is_tried_again_on_its_own_worker(crowd: InlineScheduler) -> None:
    retry = Retry(max_retries=1, delay_seconds=1)
    run = crowd.trigger(crowd.create(strategy="broadcast", retry=retry))
    settle(crowd)
    for part in parts_of(crowd, run):
        worker_id = named(crowd, part)
        assert worker_id is not None
        [claimed] = crowd.claim(part.id, worker_id=worker_id)
        crowd.record(claimed.run, failure("exit_code", "exit code 1", exit_code=1))
    before = {part.id: part.lane for part in parts_of(crowd, run)}
    crowd.pass_time(2)

    assert settle(crowd) == before


def test_the_broadcast_of_a_worker_that_dies_is_done_by_another(crowd: InlineScheduler) -> None:
    run = crowd.trigger(crowd.create(strategy="broadcast"))
    settle(crowd)
    crowd.do(drain_worker, "a")
    settle(crowd)

    lanes = Counter(part.lane for part in parts_of(crowd, run))
    assert lanes == {"default/shell~queue": 1, "default/shell@b": 1, "default/shell@c": 1}


def test_a_sharded_run_becomes_so_many_parts_and_each_is_told_its_own(
    crowd: InlineScheduler,
) -> None:
    run = crowd.trigger(crowd.create(strategy=THREE))
    published = settle(crowd)
    claimed = [crowd.claim(run_id, worker_id="b")[0] for run_id in published]

    assert [each.shard for each in claimed] == [Shard(0, 3), Shard(1, 3), Shard(2, 3)]
    assert [(p.shard_index, p.shard_total, p.part_of) for p in parts_of(crowd, run)] == [
        (0, 3, run.id), (1, 3, run.id), (2, 3, run.id),
    ]  # fmt: skip


def test_a_run_that_is_not_sharded_is_the_whole(crowd: InlineScheduler) -> None:
    runs = [crowd.trigger(crowd.create(str(n), strategy=s)) for n, s in enumerate(("queue", None))]
    settle(crowd)

    assert [crowd.claim(run.id, worker_id="a")[0].shard for run in runs] == [Shard(0, 1)] * 2


def test_more_parts_than_there_is_room_for_wait_and_are_not_split_again(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register("a", max_concurrent_tasks=1)
    task = scheduler.create(strategy={"name": "shard", "count": 10}, overlap="allow")
    run = scheduler.trigger(task)
    done = 0
    while dispatched := settle(scheduler):
        for run_id in dispatched:
            [claimed] = scheduler.claim(run_id, worker_id="a")
            scheduler.record(claimed.run)
            done += 1

    assert done == 10
    assert len(scheduler.runs()) == 10
    assert {part.status for part in parts_of(scheduler, run)} == {RunStatus.SUCCEEDED}


def test_a_run_that_was_tried_whole_is_not_split(crowd: InlineScheduler) -> None:
    run = crowd.trigger(crowd.create(retry=Retry(max_retries=1, delay_seconds=1)))
    held = crowd.start(run, "a")
    crowd.record(held, failure("exit_code", "exit code 1", exit_code=1))
    crowd.strategies.set_default(THREE)
    crowd.pass_time(2)

    assert list(settle(crowd)) == [run.id]
    assert len(crowd.runs()) == 1


def test_no_transaction_makes_more_parts_than_it_should(
    crowd: InlineScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_runs, "_PARTS_AT_ONCE", 5)
    task = crowd.create(strategy=THREE)
    runs = [crowd.trigger(task) for _ in range(4)]

    assert [len(each.run_ids) for each in crowd.dispatch().messages] == [3]
    assert crowd.run(runs[3]).status is RunStatus.PENDING
    settle(crowd)
    assert [len(parts_of(crowd, run)) for run in runs] == [3] * 4


def test_a_retry_of_a_part_is_that_part_again(crowd: InlineScheduler) -> None:
    shard = crowd.trigger(crowd.create("s", strategy=THREE))
    broadcast = crowd.trigger(crowd.create("b", strategy="broadcast"))
    settle(crowd)
    for run in (shard, broadcast):
        last = parts_of(crowd, run)[-1]
        crowd.do(cancel_runs, [last], "cancelled_by_user")
        again = crowd.do(retry_runs, [crowd.run(last)])[last.id]
        settle(crowd)

        now = crowd.run(again)
        assert now.status is RunStatus.DISPATCHED
        assert (now.part_of, now.shard_index, now.shard_total) == (
            run.id, last.shard_index, last.shard_total,
        )  # fmt: skip
        assert parse_lane(now.lane).worker_id == parse_lane(last.lane).worker_id
        assert len(parts_of(crowd, run)) == 4


# what the other rules make of parts


def end_all(scheduler: InlineScheduler, runs: list[TaskRun]) -> None:
    for run in runs:
        worker_id = parse_lane(run.lane).worker_id or "a"
        for claimed in scheduler.claim(run.id, worker_id=worker_id):
            scheduler.record(claimed.run)


@pytest.mark.parametrize("strategy", ["broadcast", THREE])
def test_a_firing_overlaps_as_long_as_a_part_of_the_one_before_goes_on(
    crowd: InlineScheduler, strategy: StrategyChoice
) -> None:
    task = crowd.create(schedule="@every 5s", strategy=strategy, overlap="skip")
    crowd.pass_time(5)
    crowd.fire()
    settle(crowd)
    [first, *rest] = crowd.runs(task)
    end_all(crowd, [first, rest[0]])
    crowd.pass_time(5)
    crowd.fire()

    assert crowd.runs(task)[-1].reason == "overlap"
    end_all(crowd, rest[1:])
    crowd.pass_time(5)
    crowd.fire()
    assert crowd.runs(task)[-1].status in {RunStatus.PENDING, RunStatus.DISPATCHED}


@pytest.mark.parametrize("strategy", ["broadcast", THREE])
def test_a_fixed_delay_counts_from_the_end_of_the_last_part(
    crowd: InlineScheduler, strategy: StrategyChoice
) -> None:
    task = crowd.create(schedule="@after 5s", strategy=strategy)
    crowd.pass_time(5)
    crowd.fire()
    settle(crowd)
    [first, *rest] = crowd.runs(task)
    end_all(crowd, [first, rest[0]])
    assert crowd.task(task).next_run_at is None
    crowd.pass_time(3)
    end_all(crowd, rest[1:])

    assert crowd.task(task).next_run_at == START + timedelta(seconds=13)


def test_the_next_firing_ends_every_part_where_it_cancels_what_runs(
    crowd: InlineScheduler,
) -> None:
    task = crowd.create(schedule="@every 5s", strategy=THREE, overlap="cancel_running")
    crowd.pass_time(5)
    crowd.fire()
    settle(crowd)
    crowd.claim(*(part.id for part in crowd.runs(task)[:2]), worker_id="a")
    crowd.pass_time(5)
    crowd.fire()

    assert [run.status for run in crowd.runs(task)] == [
        RunStatus.CANCELLING, RunStatus.CANCELLING, RunStatus.CANCELLED, RunStatus.PENDING,
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", ["broadcast", THREE])
def test_a_concurrency_limit_binds_each_part(
    crowd: InlineScheduler, strategy: StrategyChoice
) -> None:
    run = crowd.trigger(crowd.create(strategy=strategy, concurrency=Concurrency(limit=1)))
    order = []
    while dispatched := settle(crowd):
        [part] = dispatched
        order.append(part)
        end_all(crowd, [crowd.run(part)])

    assert len(order) == 3
    assert {part.status for part in parts_of(crowd, run)} == {RunStatus.SUCCEEDED}


@pytest.mark.parametrize("strategy", ["broadcast", THREE])
def test_a_firing_is_one_in_the_ledger_however_it_was_split(
    crowd: InlineScheduler, strategy: StrategyChoice
) -> None:
    task = crowd.create(schedule="@every 5s", strategy=strategy)
    crowd.pass_time(5)
    crowd.fire()
    settle(crowd)
    now = crowd.task(task)
    told = crowd.look(lambda reads: ledger_of(reads, now, START, START + timedelta(seconds=6), 10))

    assert len(crowd.runs(task)) == 3
    assert (told.due, told.ran, len(told.items)) == (1, 1, 1)


# the default


def test_tasks_that_name_no_strategy_go_by_the_default(crowd: InlineScheduler) -> None:
    crowd.strategies.set_default("round_robin")
    runs = [crowd.trigger(crowd.create(str(n))) for n in range(3)]
    free = crowd.trigger(crowd.create("free", strategy="queue"))
    settle(crowd)

    assert [named(crowd, run) for run in runs] == ["a", "b", "c"]
    assert named(crowd, free) is None
    more = [crowd.trigger(crowd.create(f"m{n}")) for n in range(3 * 4 * PREFETCH)]
    settle(crowd)
    assert any(crowd.run(run).status is RunStatus.PENDING for run in more)
    assert Topic.READY in announced_by_claim(crowd, runs[0], "a")


def test_shards_of_the_default_are_told_their_number(crowd: InlineScheduler) -> None:
    crowd.strategies.set_default(THREE)
    crowd.trigger(crowd.create())
    published = settle(crowd)

    told = [crowd.claim(run_id, worker_id="c")[0].shard.index for run_id in published]
    assert told == [0, 1, 2]


# explain


def worker_gate_of(scheduler: InlineScheduler, run: TaskRun) -> tuple[bool, str]:
    now = scheduler.run(run)
    told = scheduler.look(lambda reads: explain(reads, now, scheduler.strategies))
    return next((gate.passes, gate.detail) for gate in told.gates if gate.gate == "worker")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": "gpu"}, "default/gpu: none serves the queue 'gpu'"),
        ({"executor": "lua", "task_type": "lua"}, "none runs 'lua' tasks"),
        ({"worker_selector": {"zone": "eu"}}, "none has the labels zone=eu"),
    ],
)
def test_explain_tells_which_demand_no_worker_meets(
    crowd: InlineScheduler, fields: dict[str, Any], said: str
) -> None:
    run = crowd.trigger(crowd.create(strategy="affinity", **fields))
    settle(crowd)

    passes, detail = worker_gate_of(crowd, run)
    assert not passes
    assert detail.endswith(said.partition(": ")[2] or said)


def test_explain_tells_that_all_workers_have_enough_waiting(crowd: InlineScheduler) -> None:
    task = crowd.create(strategy="least_loaded")
    runs = [crowd.trigger(task) for _ in range(3 * 4 * PREFETCH + 1)]
    assert worker_gate_of(crowd, runs[-1]) == (
        True, "3 active workers serve default/shell~least_loaded",
    )  # fmt: skip
    settle(crowd)

    assert worker_gate_of(crowd, runs[-1]) == (
        False,
        "enough runs have their slots or wait for them already",
    )


def test_explain_tells_of_a_worker_that_is_gone(crowd: InlineScheduler) -> None:
    run = crowd.trigger(crowd.create(strategy="broadcast"))
    settle(crowd)
    gone = named(crowd, run)
    assert gone is not None
    crowd.do(drain_worker, gone)

    assert worker_gate_of(crowd, run) == (
        False, f"no active worker serves default/shell@{gone}: none is {gone!r}",
    )  # fmt: skip
