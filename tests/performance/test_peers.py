"""Whoever is compared with others has done all of the work; who cannot be run is named."""

from pathlib import Path

import pytest
from benchmarks.peers import in_turn
from benchmarks.peers.environments import Missing


class Worker:
    """Carries out all of the tasks, but for those that it leaves out."""

    def __init__(self, leaves_out: int = 0) -> None:
        self._leaves_out = leaves_out

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        tasks = number + (2 if kind == "fan" else 1) - self._leaves_out
        file.write_text("".join(f"{each}.0\n" for each in range(tasks)))


class Absent:
    """Ends before it answers."""

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        raise Missing("ended by itself")


KINDS = {"chain": 3, "fan": 5}


def test_each_round_but_the_first_is_told_from_the_first_task_to_the_last(tmp_path: Path) -> None:
    took = in_turn({"one": Worker(), "other": Worker()}, KINDS, 2, tmp_path, {})

    assert took == {name: {"chain": [3.0, 3.0], "fan": [6.0, 6.0]} for name in ("one", "other")}


def test_who_leaves_tasks_out_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="3 tasks ran, not 4"):
        in_turn({"quick": Worker(leaves_out=1)}, KINDS, 2, tmp_path, {})


def test_who_cannot_be_run_is_named_with_the_reason_and_left_out(tmp_path: Path) -> None:
    missing: dict[str, str] = {}

    took = in_turn({"gone": Absent(), "there": Worker()}, KINDS, 1, tmp_path, missing)

    assert missing == {"gone": "chain: ended by itself"}
    assert took["there"] == {"chain": [3.0], "fan": [6.0]}
