"""Draws what it reads from stdin to the file that is named. Run by an interpreter of its own."""

import json
import sys

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot

_OURS, _OTHERS = "#1f6feb", "#9aa4b2"
_BAR_INCHES, _MARGIN_INCHES = 0.32, 1.1


def draw(panels: list[dict], caption: str, to: str) -> None:
    """One panel below the other: a bar for each contender, a line from lowest to highest."""
    heights = [len(panel["bars"]) * _BAR_INCHES + _MARGIN_INCHES for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(9, sum(heights)), squeeze=False, height_ratios=heights
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        draw_panel(axis, panel["title"], panel["bars"])
    figure.text(0.99, 0.002, caption, ha="right", fontsize=8, color="#57606a")
    figure.tight_layout(rect=(0, 0.01, 1, 1))
    figure.savefig(to)


def draw_panel(axis: pyplot.Axes, title: str, bars: list[dict]) -> None:
    names = [bar["name"] for bar in bars]
    middles = [bar["median"] for bar in bars]
    errors = [
        [bar["median"] - bar["lowest"] for bar in bars],
        [bar["highest"] - bar["median"] for bar in bars],
    ]
    colours = [_OURS if name.startswith("tidemill") else _OTHERS for name in names]
    drawn = axis.barh(names, middles, xerr=errors, color=colours, ecolor="#24292f", capsize=2)
    axis.bar_label(drawn, labels=[f"{middle:,.6g}" for middle in middles], padding=4, fontsize=8)
    axis.set_title(title, loc="left", fontsize=10)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


if __name__ == "__main__":
    draw(**json.load(sys.stdin), to=sys.argv[1])
