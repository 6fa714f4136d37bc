"""Whoever judges flow runs notices what is wrong with them: each account here is made up."""

import random
from collections import Counter
from typing import Any

import pytest
from benchmarks.flow_graphs.graphs import Expression, Graph, Node, Term, definition_of, random_graph
from benchmarks.flow_graphs.judge import Effect, judge
from benchmarks.flow_graphs.knots import in_cycles
from benchmarks.flow_graphs.oracle import earliest_starts, expected_ends, expected_flow_status
from benchmarks.tasks.coins import fails

GRAPH = Graph(
    (
        Node("a", items=2),
        Node("b", (("a", "succeeded"),), retries=1),
        Node("each", (("a", "succeeded"),), map_over="a"),
        Node("alarm", (("b", "failed"),)),
        Node("never", (("alarm", "failed"),)),
        Node("last", (("each", "completed"), ("never", "skipped"))),
    )
)
TAILS = {("b", 0)}


def coin(task: str, item: int) -> bool:
    return (task, item) in TAILS


class Account:
    """A flow run of GRAPH in which all is as it has to be, until a test changes it."""

    def __init__(self) -> None:
        self.runs = {
            name: self._run(number, name.partition(".")[0], status, attempt)
            for number, (name, status, attempt) in enumerate(
                (
                    ("a", "succeeded", 1), ("b", "failed", 2), ("each.0", "succeeded", 1),
                    ("alarm", "succeeded", 1), ("never", "skipped", 0), ("last", "succeeded", 1),
                    ("each.1", "succeeded", 1),
                ),
                1,
            )
        }  # fmt: skip
        for item in (0, 1):
            self.runs[f"each.{item}"] |= {"shard_index": item, "shard_total": 2}
        self.status, self.completed_at = "succeeded", "2026-01-01T00:00:00Z"
        self.losses: dict[int, int] = {}
        self.effects: list[Effect] = []
        for at, name in enumerate(("a", "b", "b", "each.0", "each.1", "alarm", "last")):
            attempt = 1 + sum(
                each.run_id == self.runs[name]["id"] and each.word == "end" for each in self.effects
            )
            self.note(name, attempt, at, at + 0.5)

    def _run(self, number: int, task: str, status: str, attempt: int) -> dict[str, Any]:
        return {
            "id": number, "task_name": task, "status": status, "reason": None, "attempt": attempt,
            "shard_index": None, "shard_total": None, "completed_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    def note(self, name: str, attempt: int, began_at: float, ended_at: float) -> None:
        """The task writes that this attempt began and ended."""
        task, _, item = name.partition(".")
        whose = task, int(item or 0), self.runs[name]["id"], attempt
        self.effects += [Effect("begin", *whose, began_at), Effect("end", *whose, ended_at)]

    def defects(self) -> dict[str, int]:
        """Those that are found."""
        told = {
            "runs": list(self.runs.values()), "status": self.status,
            "completed_at": self.completed_at,
        }  # fmt: skip
        found = judge(GRAPH, told, self.losses, self.effects, coin)
        return {name: count for name, count in found.items() if count}


@pytest.fixture
def account() -> Account:
    return Account()


def test_nothing_is_found_where_all_is_as_it_has_to_be(account: Account) -> None:
    assert account.defects() == {}


def test_a_start_before_the_end_of_what_it_waits_for_is_found(account: Account) -> None:
    account.effects = [
        each._replace(at=2.2) if each.task == "alarm" and each.word == "begin" else each
        for each in account.effects
    ]  # between the attempts of `b`

    assert account.defects() == {"started_too_early": 1}


def test_a_start_before_the_last_item_of_a_mapped_task_ended_is_found(account: Account) -> None:
    account.effects = [
        each._replace(at=4.2) if each.task == "last" and each.word == "begin" else each
        for each in account.effects
    ]

    assert account.defects() == {"started_too_early": 1}


def test_two_runs_of_one_task_are_found(account: Account) -> None:
    account.runs["alarm again"] = account.runs["alarm"] | {"id": 99}

    assert account.defects()["runs_doubled"] == 1


def test_an_item_beyond_the_list_is_found(account: Account) -> None:
    account.runs["each.2"] = account.runs["each.1"] | {"id": 99, "shard_index": 2}

    assert account.defects() == {"runs_doubled": 1}


def test_a_task_without_a_run_is_found(account: Account) -> None:
    del account.runs["never"]

    assert account.defects() == {"runs_missing": 1}


def test_an_attempt_that_started_twice_is_found(account: Account) -> None:
    account.note("alarm", 1, 5.6, 5.7)

    assert account.defects() == {"effects_doubled": 2}  # its begin and its end


def test_another_attempt_without_a_loss_is_found(account: Account) -> None:
    account.runs["alarm"]["attempt"] = 2
    account.note("alarm", 2, 5.6, 5.7)

    assert account.defects() == {"attempts_without_a_loss": 1}


def test_another_attempt_after_a_loss_is_as_it_has_to_be(account: Account) -> None:
    account.runs["alarm"]["attempt"] = 2
    account.losses[account.runs["alarm"]["id"]] = 1
    account.note("alarm", 2, 5.6, 5.7)

    assert account.defects() == {}


def test_a_success_that_never_ran_is_found(account: Account) -> None:
    account.effects = [each for each in account.effects if each.task != "alarm"]

    assert account.defects() == {"effects_missing": 1}


def test_a_start_of_what_is_to_be_skipped_is_found(account: Account) -> None:
    account.note("never", 1, 7, 7.5)

    assert account.defects() == {"effects_of_skipped": 1}


def test_a_start_of_a_run_that_nobody_knows_is_found(account: Account) -> None:
    account.effects += [each._replace(run_id=99) for each in account.effects if each.task == "last"]

    assert account.defects() == {"effects_unknown": 1}


def test_what_should_have_run_and_was_skipped_is_found(account: Account) -> None:
    account.runs["last"] |= {"status": "skipped", "attempt": 0}
    account.effects = [each for each in account.effects if each.task != "last"]

    assert account.defects()["ends_unexpected"] == 1


def test_a_run_that_has_not_ended_is_found(account: Account) -> None:
    account.runs["never"] |= {"status": "waiting", "completed_at": None}
    account.completed_at = None

    assert account.defects() == {"unfinished": 2}  # it, and the flow run


def test_a_flow_run_that_ended_otherwise_is_found(account: Account) -> None:
    account.status = "failed"

    assert account.defects() == {"flow_ends_unexpected": 1}


def test_a_run_that_was_given_up_after_three_losses_counts_as_failed(account: Account) -> None:
    account.runs["last"] |= {"status": "failed", "reason": "poison", "attempt": 3}
    account.status = "failed"
    account.losses[account.runs["last"]["id"]] = 3

    assert account.defects() == {}


def test_a_run_that_was_given_up_without_losses_is_found(account: Account) -> None:
    account.runs["last"] |= {"status": "failed", "reason": "poison"}
    account.status = "failed"

    assert account.defects() == {"ends_unexpected": 1, "flow_ends_unexpected": 1}


@pytest.mark.parametrize(
    ("rule", "ends", "starts"),
    [
        ("all", ("succeeded", "succeeded"), True),
        ("all", ("succeeded", "skipped"), False),
        ("any", ("failed", "succeeded"), True),
        ("any", ("failed", "skipped"), False),
        ("none_failed", ("skipped", "skipped"), True),
        ("none_failed", ("succeeded", "failed"), False),
        (Expression("&&", (Term("x", True, "failed"), Term("y", False, "failed"))),
         ("failed", "skipped"), True),
        (Expression("||", (Term("x", False, "skipped"), Term("y", True, "failed"))),
         ("skipped", "succeeded"), False),
    ],
)  # fmt: skip
def test_the_oracle_keeps_to_the_rules(
    rule: str | Expression, ends: tuple[str, str], starts: bool
) -> None:
    impossible = (("root", "skipped"),)
    upstream = (("x", "succeeded"), ("y", "succeeded"))
    leading_to = {"succeeded": (), "failed": (), "skipped": impossible}
    graph = Graph(
        (
            Node("root"),
            Node("x", leading_to[ends[0]]),
            Node("y", leading_to[ends[1]]),
            Node("then", upstream, rule),
        )
    )
    tails = {name for name, end in zip("xy", ends, strict=True) if end == "failed"}

    found = expected_ends(graph, lambda task, _: task in tails)

    assert (found["x"], found["y"]) == ([ends[0]], [ends[1]])
    assert found["then"] == ["succeeded" if starts else "skipped"]


@pytest.mark.parametrize(
    ("rule", "at"), [("all", 5.0), ("any", 3.0), ("none_failed", 5.0)], ids=str
)
def test_the_oracle_knows_when_a_run_may_start_at_the_earliest(rule: str, at: float) -> None:
    upstream = (("x", "succeeded"), ("y", "succeeded"))
    graph = Graph((Node("x"), Node("y"), Node("then", upstream, rule)))
    ends = expected_ends(graph, lambda *_: False)

    starts = earliest_starts(graph, ends, {"x": [3.0], "y": [5.0], "then": [9.0]})

    assert starts["then"] == at


@pytest.mark.parametrize("condition", ["succeeded", "failed"])
def test_a_failure_that_somebody_waits_for_is_none_of_the_flow_run(condition: str) -> None:
    graph = Graph((Node("x"), Node("then", (("x", condition),))))
    ends = expected_ends(graph, lambda task, _: task == "x")

    assert expected_flow_status(graph, ends) == (
        "failed" if condition == "succeeded" else "succeeded"
    )


def test_a_map_over_a_list_of_none_is_skipped() -> None:
    graph = Graph((Node("x", items=0), Node("each", (("x", "succeeded"),), map_over="x")))

    assert expected_ends(graph, lambda *_: False)["each"] == ["skipped"]


def test_random_graphs_are_of_every_kind_and_hang_together() -> None:
    nodes = [
        node for seed in range(20) for node in random_graph(random.Random(seed), "t", 50).nodes
    ]

    assert Counter(bool(node.upstream) for node in nodes) == {True: 49 * 20, False: 20}
    rules = {"expression" if isinstance(node.rule, Expression) else node.rule for node in nodes}
    assert rules == {"all", "any", "none_failed", "expression"}
    conditions = {condition for node in nodes for _, condition in node.upstream}
    assert conditions == {"succeeded", "completed", "failed", "skipped"}
    assert any(definition_of(node, {})["map_over"] for node in nodes)


def test_the_coin_is_the_same_for_every_attempt_and_fails_the_share_that_is_asked_for() -> None:
    tossed = [fails(1, 0.3, "f", f"t{number}", 0) for number in range(10_000)]

    assert tossed == [fails(1, 0.3, "f", f"t{number}", 0) for number in range(10_000)]
    assert 2_800 < sum(tossed) < 3_200


@pytest.mark.parametrize(
    ("upstream", "found"),
    [
        ({"a": set(), "b": {"a"}, "c": {"a", "b"}}, set()),
        ({"a": {"b"}, "b": {"a"}, "c": set()}, {"a", "b"}),
        ({"a": {"c"}, "b": {"a"}, "c": {"b"}}, {"a", "b", "c"}),
    ],
)
def test_tasks_that_wait_for_one_another_are_found(
    upstream: dict[str, set[str]], found: set[str]
) -> None:
    assert in_cycles(upstream) == found
