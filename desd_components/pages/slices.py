"""Three planes through a scan, with outlines: as radiologists look at it, in true proportion, the sides lettered.

Where from: ours, drawn with matplotlib.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.transforms import generate_spatial_bounding_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure
TRUTH_COLOR = "#ffffff"  # on grey images, in both themes, as the arms' below
COLOR_WORDS = {
    "#4aa8ff": "blue", "#ff8a3c": "orange", "#3fd6a0": "green", "#d59bff": "violet",
    "#ff7fa3": "pink", "#d3da4a": "yellow", "#4fd3ea": "cyan", "#c8c8c8": "grey",
}  # fmt: skip
ARM_COLORS = tuple(COLOR_WORDS)
STACK_SIDE, MOST_SLICES = 384, 80  # pixels of a slice's longer side; of more slices every second is shown, and so on
_MOST_VOXELS = 2**23  # by which windows and slices are chosen
CT_WINDOW = (-160.0, 240.0)  # HU


#: a label map, the colour of each of its values, and the width of the lines in points
Outline = tuple[np.ndarray, Callable[[int], str], float]


def case_figure(
    image: np.ndarray, truth: np.ndarray, predictions: Mapping[str, np.ndarray], spacing: Sequence[float]
) -> Figure:
    """Three planes through one case, one row per arm: the truth in white, the arm's outline in its colour.

    Args:
        image, truth, predictions: (X, Y, Z), axes towards the patient's right, front and head.
        spacing: mm per voxel; panels keep the true proportions.
    """
    rows = {
        arm: [(truth, _always(TRUTH_COLOR), 1.6), (predictions[arm], _always(color), 1.25)]
        for arm, color in zip(predictions, ARM_COLORS, strict=False)
    }
    return _planes(image, rows, spacing)[0]


def _always(color: str) -> Callable[[int], str]:
    return lambda value: color


def labels_figure(
    image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], class_names: Sequence[str] = ()
) -> Figure:
    """Three planes through a segmented scan, each class outlined in its own colour; see `class_color`.

    Args:
        image, labels: (X, Y, Z), axes towards the patient's right, front and head.
        spacing: mm per voxel.
        class_names: name of each label value, for a legend of those found, ten at the most; none without them.
    """
    labels = labels.round().astype(np.int16)
    figure, axes = _planes(image, {"": [(labels, class_color, 1.4)]}, spacing)
    present = [int(value) for value in np.unique(labels) if 0 < value < len(class_names)]
    lines = [axes.plot([], color=class_color(value), label=class_names[value])[0] for value in present[:10]]
    if lines:
        look = {"fontsize": 8, "facecolor": "#000000", "framealpha": 0.45, "edgecolor": "none", "labelcolor": "#e8e8e8"}
        axes.legend(handles=lines, loc="upper left", **look)
    return figure


def _planes(image: np.ndarray, rows: Mapping[str, Sequence[Outline]], spacing: Sequence[float]) -> tuple[Figure, Any]:
    """A row of three panels for each name, which fill the width at the proportions of a volume; and the first panel."""
    from matplotlib.figure import Figure

    volumes = [volume for outlines in rows.values() for volume, _, _ in outlines]
    box = _box_of_interest(volumes, spacing)
    cuts = best_slices(next(filter(np.any, volumes), volumes[0])[box])
    (low, high), image = window_of(image[box]), image[box]
    sizes = [(image.shape[a] * spacing[a], image.shape[b] * spacing[b]) for _, a, b in _PLANES]  # mm
    height = 8.6 / sum(width / depth for width, depth in sizes)  # inches
    figure = Figure(figsize=(8.6, (height + 0.08) * len(rows)))
    grid = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"width_ratios": [w / d for w, d in sizes]})
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.015, hspace=0.02)
    look = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower", "interpolation": "bilinear"}
    for panels, (name, outlines) in zip(grid, rows.items(), strict=True):
        for axes, (plane, a, b), (width, depth) in zip(panels, _PLANES, sizes, strict=True):
            extent = (0.0, width, 0.0, depth)
            axes.imshow(_cut(image, a, b, cuts), extent=extent, **look)
            for volume, color, line in outlines:
                _outline(axes, _cut(volume[box], a, b, cuts), extent, color, line)
            _dress(axes, plane, extent, name if axes is panels[0] else "", outlines[-1][1](1))
    return figure, grid[0][0]


@dataclass(frozen=True)
class Stack:
    """All slices of a case across its thickest axis, one below the other in one picture.

    Attributes:
        strip: (slices * height, width, 3), 8 bits.
        slices: how many.
        first: the one to begin with, which shows most of the truth.
        plane: "axial", "coronal" or "sagittal".
    """

    strip: np.ndarray
    slices: int
    first: int
    plane: str

    def save(self, path: Path) -> None:
        """Write it as a JPEG."""
        from PIL import Image

        Image.fromarray(self.strip).save(path, quality=85)


def case_stack(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> Stack:
    """The slices of a case to leaf through: borders of the truth in white, of the prediction in the first arm's colour.

    Args:
        image, truth, prediction: (X, Y, Z), axes towards the patient's right, front and head.
        spacing: mm per voxel; slices keep the true proportions.
    """
    from PIL import Image

    box = _box_of_interest([truth, prediction], spacing)
    image, truth, prediction = image[box], truth[box], prediction[box]
    axis = max(range(3), key=lambda each: (round(spacing[each], 3), each))
    plane, a, b = next(each for each in _PLANES if axis not in each[1:])
    millimetres = np.array([image.shape[a] * spacing[a], image.shape[b] * spacing[b]])
    size = [max(1, round(side)) for side in millimetres * STACK_SIDE / millimetres.max()]
    low, high = window_of(image)
    grey = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    shown = range(0, image.shape[axis], -(-image.shape[axis] // MOST_SLICES))

    def frame(cut: int) -> np.ndarray:
        def drawn(volume: np.ndarray, how: Image.Resampling) -> np.ndarray:
            return np.asarray(Image.fromarray(_cut(volume, a, b, (cut, cut, cut))[::-1]).resize(size, how))

        colored = np.repeat(drawn(grey, Image.Resampling.BILINEAR)[..., None], 3, axis=2)
        for labels, color in ((truth, TRUTH_COLOR), (prediction, ARM_COLORS[0])):
            marked = _borders(drawn(labels.astype(np.uint8), Image.Resampling.NEAREST))
            colored[marked] = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        return colored

    first = int(np.argmin(np.abs(np.array(shown) - best_slices(truth if truth.any() else prediction)[axis])))
    return Stack(np.concatenate([frame(cut) for cut in shown]), len(shown), first, plane)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Where a class ends: voxels of it with a neighbour of another."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (inner > 0) & np.any([inner != other for other in around], axis=0)


def class_color(value: int) -> str:
    """The colour of a label value in pictures; they repeat after eight classes."""
    return ARM_COLORS[(value - 1) % len(ARM_COLORS)]


def color_word(value: int) -> str:
    """Its name, for a caption."""
    return COLOR_WORDS[class_color(value)]


def window_words(image: np.ndarray) -> str:
    """How grey values are shown."""
    low, high = window_of(image)
    return f"grey from {low:.0f} to {high:.0f}" + (" HU" if (low, high) == CT_WINDOW else " (percentiles 1 and 99.5)")


# plane, the volume's axis shown from left to right, and the one from bottom to top; x and y run backwards on the page
_PLANES = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))
_SIDES = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # left, right, top, bottom of the panel


def best_slices(truth: np.ndarray) -> tuple[int, int, int]:
    """Index per axis of the slice that shows most classes, and among those most of their voxels."""
    truth, step = _thinned(truth)
    classes = [c for c in np.unique(truth) if c != 0]
    cuts = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        areas = np.array([(truth == c).sum(axis=others) for c in classes] or [np.zeros(truth.shape[axis])])
        score = (areas > 0).sum(0) + areas.sum(0) / (1 + areas.sum(0).max())
        cuts.append(step * (int(score.argmax()) if classes else truth.shape[axis] // 2))
    return cuts[0], cuts[1], cuts[2]


def _thinned(volume: np.ndarray) -> tuple[np.ndarray, int]:
    """Of a large volume every second voxel along each axis, or every third, ...: enough to choose by."""
    step = math.ceil((volume.size / _MOST_VOXELS) ** (1 / 3))
    return volume[::step, ::step, ::step], step


def window_of(image: np.ndarray) -> tuple[float, float]:
    """Grey window: that of soft tissue where values are HU (air is near -1000), else percentiles 1 to 99.5."""
    image, _ = _thinned(image)
    if np.percentile(image, 1) < -500 and image.max() < 4000:
        return CT_WINDOW
    low, high = np.percentile(image, [1, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _box_of_interest(volumes: Sequence[np.ndarray], spacing: Sequence[float]) -> tuple:
    """Slices around everything that is labelled in any of the volumes, with 20 mm about it."""
    marked = functools.reduce(np.logical_or, (volume > 0 for volume in volumes))
    if not marked.any():
        return (slice(None),) * 3
    margin = [round(20 / size) for size in spacing]
    start, end = generate_spatial_bounding_box(marked[None], margin=margin, allow_smaller=True)
    return tuple(map(slice, start, end))


def _cut(volume: np.ndarray, a: int, b: int, cuts: tuple[int, int, int]) -> np.ndarray:
    """Plane (rows: axis b from the bottom, columns: axis a reversed), as radiologists look at it."""
    axis = 3 - a - b
    plane = np.take(volume, cuts[axis], axis=axis).T
    return plane[:, ::-1]


def _outline(
    axes: Any, labels: np.ndarray, extent: tuple[float, ...], color: Callable[[int], str], width: float
) -> None:
    """Border of each class at half way between voxels."""
    for c in np.unique(labels):
        if c != 0:
            padded = np.pad((labels == c).astype(float), 1)
            dx, dy = extent[1] / labels.shape[1], extent[3] / labels.shape[0]
            xs = (np.arange(padded.shape[1]) - 0.5) * dx
            ys = (np.arange(padded.shape[0]) - 0.5) * dy
            axes.contour(xs, ys, padded, levels=[0.5], colors=[color(int(c))], linewidths=width)


def _dress(axes: Any, plane: str, extent: tuple[float, ...], arm: str, color: str) -> None:
    """Letters of the patient's sides, a scale bar of 20 mm, the plane's and the arm's name."""
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], facecolor="black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    shade = {"facecolor": "#000000", "alpha": 0.45, "pad": 1.2, "lw": 0}  # letters stay readable on bone
    style = {"color": "#e8e8e8", "fontsize": 8.5, "transform": axes.transAxes, "bbox": shade, "zorder": 5}
    edges = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    edges += [(0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(_SIDES[plane], edges, strict=True):
        axes.text(x, y, letter, ha=ha, va=va, **style)
    axes.text(0.985, 0.985, plane, ha="right", va="top", **style)
    axes.text(0.015, 0.985, arm, ha="left", va="top", **{**style, "color": color, "fontweight": "bold"})
    right, bottom = extent[1] * 0.97, extent[3] * 0.04
    axes.plot([right - 20, right], [bottom, bottom], color="#e8e8e8", lw=2, solid_capstyle="butt")
    axes.text(right - 10, bottom + extent[3] * 0.012, "20 mm", ha="center", va="bottom", color="#e8e8e8", fontsize=8)
