"""Contenders that do the same in turn, on the same servers, and what came of it.

Each round starts a contender on an empty database or broker and ends it again: while one is
measured, no other takes anything of the machine.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.figures import ends
from benchmarks.peers.environments import Missing
from benchmarks.processes import cpu_of_machine
from benchmarks.servers import Servers


class Running(Protocol):
    """A contender that was started and waits for work."""

    def carry_out(self, kind: str, **options: Any) -> dict[str, Any]:
        """Do what `kind` says; what was measured. Raises Missing."""


class Contender(Protocol):
    """Somebody who can be started on servers."""

    @property
    def name(self) -> str:
        """What it is called in the figures."""

    @property
    def durability(self) -> str:
        """What of its work is there after a machine was lost."""

    @property
    def most_runs(self) -> int:
        """So many make a round that is long enough to be measured, and not longer."""

    def running(self, servers: Servers, directory: Path) -> AbstractContextManager[Running]:
        """One that is ready, and ended afterwards. Raises Missing."""


Round = Callable[[Contender, Running], dict[str, Any]]


def compete(contenders: Sequence[Contender], carry_out: Round, times: int) -> dict[str, Any]:
    """So many rounds of each contender in turn: all of them, and the middle of each figure."""
    rounds: dict[str, list[dict[str, Any]]] = {each.name: [] for each in contenders}
    missing: dict[str, str] = {}
    busy_percent = cpu_of_machine()
    with Servers() as servers:
        for number in range(times):
            for contender in contenders:
                if contender.name in missing:
                    continue
                print(f"{contender.name}: {number + 1} of {times}", file=sys.stderr, flush=True)
                try:
                    rounds[contender.name].append(_one(contender, carry_out, servers))
                except Missing as error:
                    missing[contender.name] = str(error)
        versions = servers.versions()
    return {
        "cpus": os.cpu_count(),
        "cpu_percent": busy_percent(),
        "servers": versions,
        "contenders": {
            each.name: {
                "durability": each.durability,
                **summary(rounds[each.name]),
                "rounds": rounds[each.name],
            }
            for each in contenders
            if rounds[each.name]
        },
        "missing": missing,
    }


def _one(contender: Contender, carry_out: Round, servers: Servers) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as directory,
        contender.running(servers, Path(directory)) as running,
    ):
        return carry_out(contender, running)


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The middle and both ends of each figure that all rounds have."""
    figures: dict[str, Any] = {}
    for key, value in rounds[0].items():
        values = [found[key] for found in rounds if key in found]
        if len(values) < len(rounds):
            continue
        if isinstance(value, Mapping):
            figures[key] = summary(values)
        elif isinstance(value, int | float):
            figures[key] = ends(values)
    return figures
