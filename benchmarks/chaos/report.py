"""The account of chaos as a page: a section for each queue, written by the program itself."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_TITLES = {"postgres": "PostgreSQL", "redis": "Redis", "rabbitmq": "RabbitMQ"}
_HEAD = """\
# What became of it

Written by `make chaos`; [chaos](chaos.md) tells what is done and what is counted. Every section
names the command that repeats it.
"""
_FIGURES = {
    "firings_due": "firings due",
    "runs": "runs, those that clients asked for included",
    "promised": "runs promised to clients (2xx)",
    "attempts": "attempts",
    "attempts_lost": "attempts lost with their worker, and made up for",
    "attempts_handed_back": "attempts handed back by a worker that was stopped",
    "poison": "runs given up after three lost workers",
    "stale_writes_refused": "writes with an old fence, refused",
    "held": "holders of the limited key",
}


def write_section(file: Path, found: dict[str, Any]) -> None:
    """Put the section of this queue in the place of the one before, and leave the others alone."""
    before = file.read_text() if file.exists() else _HEAD
    _, *sections = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    by_title = {section.splitlines()[0].removeprefix("## "): section for section in sections}
    title = _TITLES[found["queue"]]
    by_title[title] = f"## {title}\n\n{_section(found)}"
    ordered = [by_title[each].strip() for each in _TITLES.values() if each in by_title]
    file.write_text("\n\n".join([_HEAD.strip(), *ordered]) + "\n")


def _section(found: dict[str, Any]) -> str:
    seconds, seed, queue = found["seconds"], found["seed"], found["queue"]
    faults = sum(found["faults"].values())
    defects = sum(found["defects"].values())
    return "\n\n".join(
        [
            f"`python -m benchmarks chaos_{queue} seconds={seconds:g} seed={seed}`",
            f"{datetime.now(UTC):%d %B %Y}: {faults} faults in {seconds:g} seconds, on "
            f"{found['cpus']} processors, {found['cpu_percent']:g} % of which were busy.",
            _table(
                ("counted", ""), [(said, f"{found[name]:,}") for name, said in _FIGURES.items()]
            ),
            _table(
                ("defects", ""),
                [(name.replace("_", " "), f"{n:,}") for name, n in found["defects"].items()],
            ),
            _bound(found["firings_due"], defects),
            "Seconds from the fire time to the start of the last attempt, by the fault that a "
            "firing was due in: while it lasted, or in the ten seconds after it, until the next. "
            "Beside each is how long it lasted at most.",
            _table(
                ("fault", "times", "longest", "firings", "p50", "p99", "most"),
                [
                    (
                        late["fault"], late["times"], f"{late['longest']:.1f}",
                        f"{late['firings']:,}",
                        *(f"{late[name]:.2f}" for name in ("p50", "p99", "most")),
                    )
                    for late in found["late"]
                ],
            ),
        ]
    )  # fmt: skip


def _bound(firings: int, defects: int) -> str:
    """The rule of three: what none among n tells of those that were not seen."""
    if defects:
        return f"**{defects:,} defects.**"
    return (
        f"With no defect among {firings:,} firings, at most 3/{firings:,} of all "
        f"({3 / firings:.3%}) are missed or doubled, with 95 % confidence."
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
