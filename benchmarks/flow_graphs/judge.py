"""One flow run held against what should have come of it: every count is of a defect.

The tasks write down themselves when each attempt began and ended (`tasks/coins.py`). What the API
tells is believed in one thing alone: which attempts were lost.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.flow_graphs.graphs import Graph
from benchmarks.flow_graphs.oracle import (
    Coin,
    Ends,
    earliest_starts,
    expected_ends,
    expected_flow_status,
)

DEFECTS = (
    "started_too_early",  # 34
    "runs_missing", "runs_doubled", "effects_missing", "effects_doubled", "effects_unknown",
    "effects_of_skipped", "attempts_without_a_loss",  # 35
    "unfinished", "ends_unexpected", "flow_ends_unexpected",  # 36
)  # fmt: skip

_MOST_LOSSES = 3  # then a run is given up
_RAN = {"succeeded", "failed"}

Run = dict[str, Any]


class Effect(NamedTuple):
    """An attempt began or ended, as its task wrote it down; by a clock that only goes forward."""

    word: str
    task: str
    item: int
    run_id: int
    attempt: int
    at: float


def read_effects(file: Path) -> dict[str, list[Effect]]:
    """All that was written down, by flow run."""
    found: dict[str, list[Effect]] = defaultdict(list)
    for line in file.read_text().splitlines() if file.exists() else []:
        word, flow_run_id, task, item, run_id, attempt, at = line.split()
        found[flow_run_id].append(
            Effect(word, task, int(item), int(run_id), int(attempt), float(at))
        )
    return found


def judge(
    graph: Graph,
    flow_run: Mapping[str, Any],
    losses: Mapping[int, int],
    effects: Sequence[Effect],
    coin: Coin,
) -> Counter[str]:
    """The defects of one flow run, as the API tells it (`GET /flow-runs/ID`).

    `losses` are the attempts of each run that were lost with their worker, or handed back.
    """
    runs = {
        (run["task_name"], run["shard_index"] or 0): run
        for run in flow_run["runs"]
        if run["shard_total"] != 0
    } | {(run["task_name"], 0): run for run in flow_run["runs"] if run["shard_total"] == 0}
    given_up = {
        key
        for key, run in runs.items()
        if run["reason"] == "poison" and losses.get(run["id"], 0) >= _MOST_LOSSES
    }
    ends = expected_ends(graph, lambda task, item: (task, item) in given_up or coin(task, item))
    found: Counter[str] = Counter(dict.fromkeys(DEFECTS, 0))
    found.update(_runs_against(ends, flow_run))
    found.update(_effects_against(graph, ends, runs, losses, effects, given_up))
    found["started_too_early"] += _started_too_early(graph, ends, effects)
    found["flow_ends_unexpected"] += flow_run["status"] != expected_flow_status(graph, ends)
    return found


def _runs_against(ends: Ends, flow_run: Mapping[str, Any]) -> Counter[str]:
    """One run for each task and item, which ended as it had to."""
    found: Counter[str] = Counter()
    told = defaultdict(list)
    for run in flow_run["runs"]:
        told[run["task_name"], run["shard_index"] or 0].append(run)
        found["unfinished"] += run["completed_at"] is None
    expected = {(task, item): end for task, those in ends.items() for item, end in enumerate(those)}
    for key, end in expected.items():
        found["runs_missing"] += not told[key]
        found["ends_unexpected"] += any(
            run["status"] != end for run in told[key] if run["completed_at"] is not None
        )
    found["runs_doubled"] += sum(
        max(len(runs) - (key in expected), 0) for key, runs in told.items()
    )
    found["unfinished"] += flow_run["completed_at"] is None
    return found


def _effects_against(
    graph: Graph,
    ends: Ends,
    runs: Mapping[tuple[str, int], Run],
    losses: Mapping[int, int],
    effects: Sequence[Effect],
    given_up: set[tuple[str, int]],
) -> Counter[str]:
    """Each attempt began and ended once; there is another only where the coin or a loss says so."""
    found: Counter[str] = Counter()
    written = Counter(
        (each.task, each.item, each.run_id, each.attempt, each.word) for each in effects
    )
    found["effects_doubled"] += sum(count > 1 for count in written.values())
    retries = {node.name: node.retries for node in graph.nodes}
    allowed = set()  # the attempts that may have an effect
    for task, those in ends.items():
        for item, end in enumerate(those):
            run = runs.get((task, item))
            if run is None or end not in _RAN:
                continue
            lost = losses.get(run["id"], 0)
            tries = 1 + (retries[task] if end == "failed" else 0)
            if (task, item) not in given_up:
                found["attempts_without_a_loss"] += run["attempt"] != tries + lost
                whole = sum(
                    all(
                        (task, item, run["id"], number, word) in written
                        for word in ("begin", "end")
                    )
                    for number in range(1, run["attempt"] + 1)
                )
                found["effects_missing"] += max(tries - whole, 0)
            allowed |= {(task, item, run["id"], n) for n in range(1, run["attempt"] + 1)}
    for task, item, run_id, number in {key[:4] for key in written}:
        if (task, item, run_id, number) not in allowed:
            never = ends.get(task, ["skipped"])[0] not in _RAN
            found["effects_of_skipped" if never else "effects_unknown"] += 1
    return found


def _started_too_early(graph: Graph, ends: Ends, effects: Sequence[Effect]) -> int:
    """How many attempts began before all had ended that their task waits for."""
    last = defaultdict(float)
    for each in effects:
        last[each.task, each.item] = max(last[each.task, each.item], each.at)
    ended_at = {
        task: [last[task, item] for item in range(len(those))]
        for task, those in ends.items()
        if those[0] in _RAN
    }
    starts = earliest_starts(graph, ends, ended_at)
    return sum(each.word == "begin" and each.at < starts.get(each.task, 0.0) for each in effects)
