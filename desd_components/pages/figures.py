"""Figures of the report: small functions from data to one inline SVG each.

Where from: ours, drawn with matplotlib. Differs from plain matplotlib output in that colours and fonts become the
page's CSS variables, so that one SVG reads well in light and dark, and that nothing in it refers to anything outside.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
# Stand-ins that matplotlib draws with; `to_svg` turns each into the page's CSS variable of that name.
COLORS = {"ink": "#101112", "muted": "#808182", "grid": "#d0d1d2"}
COLORS |= {f"series-{number}": f"#a{number}0{number}0{number}" for number in range(1, 9)}
MOST_TOLD = 200  # points of a curve whose values the page tells
SMOOTHED_FROM = 60  # points; shorter series are drawn as they are


@dataclass
class Line:
    """One curve: ``values`` at optimiser ``steps``; ``color`` is 1 to 8; ``points`` marks each value."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    color: int = 1
    points: bool = False


def curves(
    lines: Sequence[Line],
    ylabel: str,
    *,
    reference: tuple[str, float] | None = None,
    smooth: bool = True,
    small: bool = False,
    name: str = "curves",
    from_zero: bool = False,
) -> str:
    """Curves over steps; long ones as a pale line under their running mean, unless they are exact (``smooth=False``).

    Args:
        lines: one or more; a legend appears from two on.
        ylabel: with the unit.
        reference: a level with its name, drawn as a dashed line.
        small: for figures that stand three in a row.
        name: unique on the page.
        from_zero: whether the axis of the values begins there.
    """
    figure, axes = axes_of(*((3.4, 2.2) if small else (4.6, 2.7)))
    for line in lines:
        color = COLORS[f"series-{line.color}"]
        marker = "o" if line.points or len(line.values) < 4 else ""
        noisy = smooth and len(line.values) >= SMOOTHED_FROM and not line.points and np.ptp(line.values) > 0
        look = {"lw": 1.0, "alpha": 0.28} if noisy else {"lw": 1.7, "label": line.label}
        axes.plot(line.steps, line.values, color=color, marker=marker, ms=3.5, **look)
        if noisy:
            mean = running_mean(line.values, len(line.values) // 20)
            axes.plot(line.steps, mean, color=color, lw=1.7, label=line.label)
    if reference:
        axes.axhline(reference[1], color=COLORS["muted"], lw=1.1, ls=(0, (4, 3)))
        words = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": COLORS["muted"]}
        above = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
        axes.annotate(reference[0], (1, reference[1]), **above, **words)
    axes.set(xlabel="optimiser step", ylabel=ylabel)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.margins(y=0.12)
    if from_zero:
        axes.set_ylim(bottom=0)
    if len(lines) > 1:
        room = int(14 * figure.get_figwidth() / (6 + max(len(line.label) for line in lines)))
        columns = min(max(room, 1), len(lines))
        look = {"fontsize": 8.5, "frameon": False, "labelcolor": COLORS["ink"], "columnspacing": 1.2}
        figure.legend(loc="outside upper center", ncols=columns, handlelength=1.4, **look)
    return to_svg(figure, name).replace("<svg", f'<svg data-curves="{escape(json.dumps(_told(lines, axes)))}"', 1)


def _told(lines: Sequence[Line], axes: Any) -> dict[str, Any]:
    """What ``page.js`` tells of curves: values of a few hundred steps, and where on a drawn figure the steps lie."""
    (low, high), place = axes.get_xlim(), axes.get_position()
    few = [(line, sorted({round(index) for index in np.linspace(0, len(line.steps) - 1, MOST_TOLD)})) for line in lines]
    points = [
        {
            "label": line.label,
            "color": line.color,
            "x": [line.steps[index] for index in indices],
            "y": [f"{line.values[index]:.4g}" for index in indices],
        }
        for line, indices in few
    ]
    return {"left": place.x0, "right": place.x1, "low": low, "high": high, "lines": points}


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Centered mean over ``2 * width + 1`` values, over fewer at both ends."""
    window = np.ones(2 * width + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def dice_bars(scores: Mapping[str, Mapping[str, Sequence[float]]], name: str = "dice") -> str:
    """Bars of mean Dice with each case as a point. ``scores``: arm -> group (a class, or "mean") -> value per case."""
    groups = list(next(iter(scores.values())))
    figure, axes = axes_of(max(6.0, 1.5 + 1.35 * len(groups)), 3.1)
    width, draw = 0.8 / len(scores), np.random.default_rng(0)
    for a, (arm, values) in enumerate(scores.items()):
        color = COLORS[f"series-{a % 8 + 1}"]
        places = np.arange(len(groups)) + (a - (len(scores) - 1) / 2) * width
        means = [np.mean(values[g]) if len(values[g]) else 0.0 for g in groups]
        axes.bar(places, means, width * 0.9, color=color, alpha=0.32, edgecolor=color, lw=1.2, label=arm)
        for place, group in zip(places, groups, strict=True):
            spread = place + draw.uniform(-0.28, 0.28, len(values[group])) * width
            axes.scatter(spread, values[group], s=9, color=color, alpha=0.85, lw=0, clip_on=False)
            if len(values[group]):
                look = {"ha": "center", "va": "bottom", "fontsize": 8, "color": COLORS["ink"]}
                axes.text(place, 1.015, f"{np.mean(values[group]):.3f}", **look)
    room = 0.5 + max(0, 3 - len(groups)) / 2  # lest a single bar fill the figure
    axes.set(xlim=(-room, len(groups) - 1 + room), ylim=(0, 1.0), ylabel="Dice (1 = same as the truth)")
    axes.set_xticks(range(len(groups)))
    axes.set_xticklabels(groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    if len(scores) > 1:
        look = {"fontsize": 9, "frameon": False, "labelcolor": COLORS["ink"]}
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, **look)
    return to_svg(figure, name)


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    """A figure with one pair of axes in the page's look; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLORS["muted"])
    axes.grid(color=COLORS["grid"], lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=COLORS["muted"], labelcolor=COLORS["ink"], labelsize=8.5)
    axes.xaxis.label.set(color=COLORS["ink"], fontsize=9)
    axes.yaxis.label.set(color=COLORS["ink"], fontsize=9)
    return figure, axes


def to_svg(figure: Figure, name: str) -> str:
    """Inline SVG of a figure: no outside reference, CSS variables for colours, ids unique to ``name``."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)  # the page sets the width, the viewBox the rest
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.strip()
