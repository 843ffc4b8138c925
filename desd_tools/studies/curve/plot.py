"""The plot of a label curve: Dice against the number of labels, for the page and as files of its own.

Where from: ours, in the look of the pages' figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from desd_components.pages.figures import COLORS, axes_of, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
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
    return to_svg(_label_curve(bands, COLORS), "label-curve")


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
    figure, axes = axes_of(6.4, 3.8)
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
