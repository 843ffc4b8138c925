"""Figures of the report: small functions from data to one inline SVG each.

Where from: ours, drawn with matplotlib. Differs from plain matplotlib output in that colours and fonts become the
page's CSS variables, so that one SVG reads well in light and dark, and that nothing in it refers to anything outside.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins that matplotlib draws with; `_to_svg` turns each into the page's CSS variable of that name.
COLORS = {
    "ink": "#101112",
    "muted": "#808182",
    "grid": "#d0d1d2",
    "series-1": "#a10101",
    "series-2": "#a20202",
    "series-3": "#a30303",
    "series-4": "#a40404",
    "series-5": "#a50505",
    "series-6": "#a60606",
    "series-7": "#a70707",
    "series-8": "#a80808",
}
# of a figure in a file of its own, on white: the page's light theme
ON_WHITE = {
    "series-1": "#2368b8",
    "series-2": "#d0611a",
    "series-3": "#17876a",
    "series-4": "#8455b8",
    "series-5": "#b23a5c",
    "series-6": "#6f7415",
    "series-7": "#0d7f96",
    "series-8": "#6b6b6b",
}
TRUTH_COLOR = "#ffffff"  # on grey images, in both themes, as the arms' below
ARM_COLORS = ("#4aa8ff", "#ff8a3c", "#3fd6a0", "#d59bff", "#ff7fa3", "#d3da4a", "#4fd3ea", "#c8c8c8")
CT_WINDOW = (-160.0, 240.0)  # HU
SMOOTHED_FROM = 60  # points; shorter series are drawn as they are


@dataclass
class Line:
    """One curve: ``values`` at optimiser ``steps``; ``color`` is 1 to 5; ``points`` marks each value."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    color: int = 1
    points: bool = False


def series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of one key of a run's history; an evaluation belongs to the last step before it."""
    steps, values, step = [], [], 0.0
    for row in history:
        step = float(row.get("step", step))
        value = row.get(key)
        if isinstance(value, int | float) and np.isfinite(value):
            steps.append(step)
            values.append(float(value))
    return steps, values


def curves(
    lines: Sequence[Line],
    ylabel: str,
    *,
    xlabel: str = "optimiser step",
    reference: tuple[str, float] | None = None,
    smooth: bool = True,
    small: bool = False,
    name: str = "curves",
) -> str:
    """Curves over steps; long ones as a pale line under their running mean, unless they are exact (``smooth=False``).

    Args:
        lines: one or more; a legend appears from two on.
        ylabel, xlabel: with the unit.
        reference: a level with its name, drawn as a dashed line.
        small: for figures that stand three in a row.
        name: unique on the page.
    """
    figure, axes = _axes(*((3.4, 2.2) if small else (4.6, 2.7)))
    for line in lines:
        color = COLORS[f"series-{line.color}"]
        marker = "o" if line.points or len(line.values) < 4 else ""
        noisy = smooth and len(line.values) >= SMOOTHED_FROM and not line.points
        axes.plot(
            line.steps,
            line.values,
            color=color,
            lw=1.0 if noisy else 1.7,
            alpha=0.28 if noisy else 1,
            marker=marker,
            ms=3.5,
            label=None if noisy else line.label,
        )
        if noisy:
            axes.plot(
                line.steps, running_mean(line.values, len(line.values) // 20), color=color, lw=1.7, label=line.label
            )
    if reference:
        axes.axhline(reference[1], color=COLORS["muted"], lw=1.1, ls=(0, (4, 3)))
        axes.annotate(
            reference[0],
            (1, reference[1]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=COLORS["muted"],
        )
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(y=0.12)
    if len(lines) > 1:
        axes.legend(loc="best", fontsize=8.5, frameon=False, labelcolor=COLORS["ink"], handlelength=1.4)
    return _to_svg(figure, name)


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Centered mean over ``2 * width + 1`` values, over fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    low = np.maximum(np.arange(len(values)) - width, 0)
    high = np.minimum(np.arange(len(values)) + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def dice_bars(scores: Mapping[str, Mapping[str, Sequence[float]]], name: str = "dice") -> str:
    """Bars of mean Dice with each case as a point. ``scores``: arm -> group (a class, or "mean") -> value per case."""
    groups = list(next(iter(scores.values())))
    figure, axes = _axes(max(4.6, 1.5 + 1.35 * len(groups)), 3.1)
    width, draw = 0.8 / len(scores), np.random.default_rng(0)
    for a, (arm, values) in enumerate(scores.items()):
        color = COLORS[f"series-{a + 1}"]
        places = np.arange(len(groups)) + (a - (len(scores) - 1) / 2) * width
        means = [np.mean(values[g]) if len(values[g]) else 0.0 for g in groups]
        axes.bar(places, means, width * 0.9, color=color, alpha=0.32, edgecolor=color, lw=1.2, label=arm)
        for place, group in zip(places, groups, strict=True):
            spread = place + draw.uniform(-0.28, 0.28, len(values[group])) * width
            axes.scatter(spread, values[group], s=9, color=color, alpha=0.85, lw=0)
            if len(values[group]):
                axes.text(
                    place,
                    1.015,
                    f"{np.mean(values[group]):.3f}",
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    color=COLORS["ink"],
                )
    axes.set(xticks=range(len(groups)), ylim=(0, 1.0), ylabel="Dice (1 = same as the truth)")
    axes.set_xticklabels(groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize=9, frameon=False, labelcolor=COLORS["ink"]
    )
    return _to_svg(figure, name)


@dataclass
class Band:
    """One arm of a label curve: mean Dice with its 95 % interval at label counts; ``ticks``: the axis' words there."""

    label: str
    labels: Sequence[int]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    ticks: Sequence[str]


def label_curve(bands: Sequence[Band]) -> str:
    """Dice against the number of labels, for a page."""
    return _to_svg(_label_curve(bands, COLORS), "label-curve")


def write_label_curve(bands: Sequence[Band], caption: str, *paths: Path) -> None:
    """The same as files, with a caption below; the format is that of each file's ending; same bytes every time."""
    import matplotlib

    figure = _label_curve(bands, ON_WHITE)
    figure.set_size_inches(6.4, 4.4)
    figure.supxlabel("\n".join(textwrap.wrap(caption, 112)), fontsize=7.5, color=COLORS["muted"])
    with matplotlib.rc_context({"svg.hashsalt": "label curve"}):
        for path in paths:
            undated = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=160, facecolor="white", metadata=undated)


def _label_curve(bands: Sequence[Band], colors: Mapping[str, str]) -> Figure:
    """A line and a band for each arm, label counts on a log2 axis; arms stand a little beside each other."""
    figure, axes = _axes(6.4, 3.8)
    for number, band in enumerate(bands):
        color = colors[f"series-{number % len(ON_WHITE) + 1}"]
        axes.plot(band.labels, band.means, color=color, lw=1.8, marker="o", ms=4, label=band.label)
        if len(band.labels) > 1:
            axes.fill_between(band.labels, band.lows, band.highs, color=color, alpha=0.16, lw=0)
        spread = [[m - low for m, low in zip(band.means, band.lows, strict=True)]]
        spread += [[high - m for m, high in zip(band.means, band.highs, strict=True)]]
        axes.errorbar(band.labels, band.means, spread, color=color, lw=0, elinewidth=0.9, capsize=2.5, alpha=0.7)
    ticks = {n: tick for band in bands for n, tick in zip(band.labels, band.ticks, strict=True)}
    axes.set_xscale("log", base=2)
    axes.set(xlabel="labelled scans (log2 scale)", ylabel="Dice on test scans (mean of classes, no unit)")
    axes.set_xticks(sorted(ticks), [ticks[n] for n in sorted(ticks)])
    axes.minorticks_off()
    axes.margins(x=0.06, y=0.08)
    axes.legend(loc="best", fontsize=8.5, frameon=False, labelcolor=COLORS["ink"], handlelength=1.4)
    return figure


def case_slices(
    image: np.ndarray,
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    spacing: Sequence[float],
    name: str = "slices",
) -> str:
    """Three planes through one case, one row per arm: the truth in white, the arm's outline in its colour.

    Args:
        image, truth, predictions: (X, Y, Z), axes towards the patient's right, front and head.
        spacing: mm per voxel; panels keep the true proportions.
    """
    from matplotlib.figure import Figure

    box = _box_of_interest(truth, predictions, spacing)
    image, truth = image[box], truth[box]
    predictions = {arm: volume[box] for arm, volume in predictions.items()}
    cuts, (low, high) = best_slices(truth), window_of(image)
    sizes = [(image.shape[a] * spacing[a], image.shape[b] * spacing[b]) for _, a, b in _PLANES]
    height = 8.6 / sum(width / depth for width, depth in sizes)  # inches, so that all three planes fill the width
    figure = Figure(figsize=(8.6, (height + 0.08) * len(predictions)))
    grid = figure.subplots(len(predictions), 3, squeeze=False, gridspec_kw={"width_ratios": [w / d for w, d in sizes]})
    for row, (arm, prediction), color in zip(grid, predictions.items(), ARM_COLORS, strict=False):
        for axes, (plane, a, b) in zip(row, _PLANES, strict=True):
            picture, outline, guess = (_cut(v, a, b, cuts) for v in (image, truth, prediction))
            extent = (0, picture.shape[1] * spacing[a], 0, picture.shape[0] * spacing[b])
            axes.imshow(
                picture, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear"
            )
            _outline(axes, outline, extent, TRUTH_COLOR, 1.6)
            _outline(axes, guess, extent, color, 1.25)
            _dress(axes, plane, extent, arm if axes is row[0] else "", color)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.015, hspace=0.02)
    return _to_svg(figure, name)


# plane, the volume's axis shown from left to right, and the one from bottom to top; x and y run backwards on the page
_PLANES = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))
_SIDES = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # left, right, top, bottom of the panel


def best_slices(truth: np.ndarray) -> tuple[int, int, int]:
    """Index per axis of the slice that shows most classes, and among those most of their voxels."""
    classes = [c for c in np.unique(truth) if c != 0]
    cuts = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        areas = np.array([(truth == c).sum(axis=others) for c in classes] or [np.zeros(truth.shape[axis])])
        score = (areas > 0).sum(0) + areas.sum(0) / (1 + areas.sum(0).max())
        cuts.append(int(score.argmax()) if classes else truth.shape[axis] // 2)
    return cuts[0], cuts[1], cuts[2]


def window_of(image: np.ndarray) -> tuple[float, float]:
    """Grey window: that of soft tissue where values are HU (air is near -1000), else percentiles 1 to 99.5."""
    if np.percentile(image, 1) < -500 and image.max() < 4000:
        return CT_WINDOW
    low, high = np.percentile(image, [1, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _box_of_interest(truth: np.ndarray, predictions: Mapping[str, np.ndarray], spacing: Sequence[float]) -> tuple:
    """Slices around everything that is labelled, with 20 mm about it."""
    marked = truth > 0
    for prediction in predictions.values():
        marked = marked | (prediction > 0)
    if not marked.any():
        return (slice(None),) * 3
    places = np.argwhere(marked)
    margin = [round(20 / s) for s in spacing]
    low, high = places.min(0), places.max(0) + 1
    return tuple(slice(max(0, int(a) - m), int(b) + m) for a, b, m in zip(low, high, margin, strict=True))


def _cut(volume: np.ndarray, a: int, b: int, cuts: tuple[int, int, int]) -> np.ndarray:
    """Plane (rows: axis b from the bottom, columns: axis a reversed), as radiologists look at it."""
    axis = 3 - a - b
    plane = np.take(volume, cuts[axis], axis=axis).T
    return plane[:, ::-1]


def _outline(axes: Any, labels: np.ndarray, extent: tuple[float, ...], color: str, width: float) -> None:
    """Border of each class at half way between voxels."""
    for c in np.unique(labels):
        if c != 0:
            padded = np.pad((labels == c).astype(float), 1)
            dx, dy = extent[1] / labels.shape[1], extent[3] / labels.shape[0]
            xs = (np.arange(padded.shape[1]) - 0.5) * dx
            ys = (np.arange(padded.shape[0]) - 0.5) * dy
            axes.contour(xs, ys, padded, levels=[0.5], colors=[color], linewidths=width)


def _dress(axes: Any, plane: str, extent: tuple[float, ...], arm: str, color: str) -> None:
    """Letters of the patient's sides, a scale bar of 20 mm, the plane's and the arm's name."""
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], facecolor="black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    shade = {"facecolor": "#000000", "alpha": 0.45, "pad": 1.2, "lw": 0}  # letters stay readable on bone
    style = {"color": "#e8e8e8", "fontsize": 8.5, "transform": axes.transAxes, "bbox": shade, "zorder": 5}
    places = (
        (0.015, 0.5, "left", "center"),
        (0.985, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(_SIDES[plane], places, strict=True):
        axes.text(x, y, letter, ha=ha, va=va, **style)
    axes.text(0.985, 0.985, plane, ha="right", va="top", **style)
    axes.text(0.015, 0.985, arm, ha="left", va="top", **{**style, "color": color, "fontweight": "bold"})
    right, bottom = extent[1] * 0.97, extent[3] * 0.04
    axes.plot([right - 20, right], [bottom, bottom], color="#e8e8e8", lw=2, solid_capstyle="butt")
    axes.text(right - 10, bottom + extent[3] * 0.012, "20 mm", ha="center", va="bottom", color="#e8e8e8", fontsize=8)


def _axes(width: float, height: float) -> tuple[Figure, Any]:
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


def _to_svg(figure: Figure, name: str) -> str:
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
    svg = re.sub(
        r'\s(width|height)="[\d.]+pt"', "", svg, count=2
    )  # the page sets the width, the viewBox the proportion
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.strip()
