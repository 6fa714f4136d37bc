"""Figures as a picture: bars for each contender, drawn by an environment of its own."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import interpreter_with

_PACKAGES = ("matplotlib==3.11.2",)
_DRAW = Path(__file__).parent / "draw.py"

# Of each contender of a workload: the figure that is drawn, what it is, and whether more is better.
_DRAWN = {
    "throughput": ("runs_per_second", "runs/s, asked for in bulk", True),
    "callers": ("runs_per_second", "runs/s, asked for by many callers", True),
    "one_caller": ("runs_per_second", "runs/s, asked for by one caller", True),
    "pick_up": ("p50_ms", "ms from the call to the start, median", False),
    "schedules": ("last_seconds", "s from the due time to the last start", False),
    "spawning": ("runs_per_second", "shell runs/s", True),
}


def chart(figures: str, to: str) -> dict[str, Any]:
    """Draw the file that `out` wrote to an SVG; which workloads it shows. Raises Missing."""
    python = interpreter_with("chart", _PACKAGES)
    found = json.loads(Path(figures).read_text())
    panels = list(_panels(found["figures"]))
    machine = found["machine"]
    caption = f"{machine['cpus']} processors, {machine['processor']}, {machine['memory_gb']} GB"
    subprocess.run(
        [str(python), str(_DRAW), to],
        input=json.dumps({"panels": panels, "caption": caption}),
        text=True,
        check=True,
    )
    return {"chart": to, "panels": [panel["title"] for panel in panels]}


def _panels(figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, (key, title, is_more_better) in _DRAWN.items():
        contenders = figures.get(name, {}).get("contenders", {})
        bars = [
            {"name": contender, **told[key]}
            for contender, told in contenders.items()
            if key in told
        ]
        if bars:
            bars.sort(key=lambda bar: bar["median"], reverse=not is_more_better)
            yield {"title": title, "bars": bars}
