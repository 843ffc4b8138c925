"""Settings that suit the volumes that were seen, each with its reason.

Ours. The view follows the volumes: it must be really smaller than they are, or both views come from the same box, and
stage 4 must keep two voxels of it along each axis. Everything else follows from the view and the number of volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .intensity import share_inside
from .survey import Survey
from .volume import Facts

SAME_SPACING = 0.05  # relative difference up to which scans count as equally spaced
SMALLER = 1.4  # how much larger than a view all but the smallest tenth of the volumes are, along each axis
CONTEXT = (1.2, 1.5)  # of the view, where the volumes allow it
MAX_STRIDES = 3  # halvings by stages 2 to 4, stage 1 keeping all detail; one more by the stem where views are wide
WIDE_VIEW = 64  # voxels of every axis that is halved by the stem
STEPS = 1500  # of a pre-training of the small recipe
BATCH = 8
FINETUNING_BATCH, FINETUNING_CROPS = 2, 100
MANY = 1000  # volumes from which on, with a GPU, the published encoder is proposed
VOXELS = {"cpu": 32**3, "cuda": 96 * 96 * 16}  # of a view; the latter is published
PROTOTYPES = {"cpu": (64, 1024), "cuda": (64, 65536)}


@dataclass(frozen=True)
class Setting:
    """A line of an overlay: a knob, its value (a list of settings for a block), and why."""

    name: str
    value: Any
    why: str

    def plain(self) -> Any:
        """The value as a config holds it."""
        return {part.name: part.plain() for part in self.value} if self.is_block else self.value

    @property
    def is_block(self) -> bool:
        """Whether it holds further settings."""
        return isinstance(self.value, list) and bool(self.value) and isinstance(self.value[0], Setting)


@dataclass(frozen=True)
class Sizes:
    """Extents in voxels of the grid that volumes are brought to, (N, 3) along x, y, z (RAS), and that grid."""

    extents: np.ndarray
    spacing: list[float] | None
    apart: float

    @property
    def small(self) -> np.ndarray:
        """The extent that all but a tenth of the volumes have, (3,)."""
        return np.percentile(self.extents, 10, axis=0)

    @property
    def middle(self) -> np.ndarray:
        """The median extent, (3,)."""
        return np.median(self.extents, axis=0)


def sizes_of(images: Sequence[Facts]) -> Sizes:
    """The grid to bring volumes to: their own where they agree, else the median spacing of each axis."""
    shapes = np.array([facts.ras_shape for facts in images], dtype=np.float64)
    spacings = np.array([facts.ras_spacing for facts in images])
    median = np.median(spacings, axis=0)
    apart = float(np.abs(spacings / median - 1).max())
    if apart <= SAME_SPACING:
        return Sizes(shapes, None, apart)
    target = [round(float(value), 3) for value in median]
    return Sizes(np.round((shapes - 1) * spacings / np.array(target)) + 1, target, apart)


def view_size(small: np.ndarray, spacing: np.ndarray, voxels: int) -> list[int]:
    """Voxels (x, y, z) of a view: a cube in mm where the volumes allow it, thinner along an axis where they do not.

    Args:
        small: extents of the smallest volumes that count, in voxels.
        spacing: mm of a voxel.
        voxels: of a view at most.
    """
    side = float(np.median(small * spacing / SMALLER))
    view = [_even(min(extent / SMALLER, side / mm)) for extent, mm in zip(small, spacing, strict=True)]
    while math.prod(view) > voxels and max(view) > 8:
        widest = view.index(max(view))
        view[widest] = _even(view[widest] - 1)
    return view


def _even(size: float) -> int:
    """Rounded down to a multiple of 4 (of 2 below 12), at least 2."""
    step = 4 if size >= 12 else 2
    return max(2, int(size // step) * step)


def context_scales(view: Sequence[int], small: np.ndarray) -> list[list[float]]:
    """Per axis, how much larger than a view the box is that both views come from; never beyond the small volumes."""
    highs = [min(CONTEXT[1], math.floor(20 * extent / size) / 20) for extent, size in zip(small, view, strict=True)]
    return [[min(CONTEXT[0], max(high, 1.0)), max(high, 1.0)] for high in highs]


def strides(view: Sequence[int]) -> tuple[list[int], list[Any]]:
    """Strides of the stem and of the four stages that leave at least two voxels an axis at stage 4."""
    halvings = [_halvings(size) for size in view]
    stem = [2 if count > MAX_STRIDES else 1 for count in halvings]
    stages = [[2 if min(count, MAX_STRIDES) >= 4 - stage else 1 for count in halvings] for stage in range(4)]
    return stem, [axes[0] if len(set(axes)) == 1 else axes for axes in stages]


def _halvings(size: int) -> int:
    most = MAX_STRIDES + (size >= WIDE_VIEW)
    return max(count for count in range(most + 1) if count == 0 or math.ceil(size / 2**count) >= 2)


def window_size(view: Sequence[int], middle: np.ndarray, voxels: int) -> list[int]:
    """Voxels of a fine-tuning crop: multiples of the encoder's strides, up to the median volume, at least a view."""
    steps = [2 ** _halvings(size) for size in view]
    sides = [max(size, int(extent // step) * step) for size, extent, step in zip(view, middle, steps, strict=True)]
    while math.prod(sides) > voxels:
        room = [side - step if side - step >= size else 0 for side, step, size in zip(sides, steps, view, strict=True)]
        if not any(room):
            break
        widest = max(range(3), key=lambda axis: sides[axis] if room[axis] else 0)
        sides[widest] = room[widest]
    return sides


def preprocessing_settings(seen: Survey, images: Sequence[Facts], sizes: Sizes, window: list[float]) -> list[Setting]:
    """Spacing, intensity and window, which both bundles must share."""
    if sizes.spacing is None:
        why = f"all {len(images)} scans have the same voxels, to {100 * SAME_SPACING:.0f} %: nothing to resample"
    else:
        why = f"mm, the median of each axis; the scans differ by up to {100 * sizes.apart:.0f} %"
    settings = [Setting("spacing", sizes.spacing, why)]
    if seen.intensity == "hu":
        shown = float(np.mean([share_inside(facts, window) for facts in images]))
        settings.append(Setting("intensity", "hu", "the values are Hounsfield units: air, fat and tissue are there"))
        why = f"HU; shows {100 * shown:.0f} % of the span from the 1st to the 99th percentile, in the mean of the scans"
        return [*settings, Setting("hu_window", window, why)]
    low, high = (edge([facts.high for facts in images]) for edge in (min, max))
    why = f"no Hounsfield units; maxima run from {low:.4g} to {high:.4g}, so each scan is normalised by itself"
    return [*settings, Setting("intensity", "zscore", why)]


def encoder_settings(view: Sequence[int], name: str, large: bool = False) -> Setting:
    """The encoder of the small recipe, or one as large as published, with strides that suit the view."""
    stem, stages = strides(view)
    wide = max(stem) > 1
    map_size = [math.ceil(size / 2 ** _halvings(size)) for size in view]
    parts = [
        Setting("depth", 50 if large else 10, "as published" if large else f"as in small.yaml, below {MANY} volumes"),
        Setting("width", 64 if large else 16, f"planes of the first stage, as {'published' if large else 'there'}"),
        Setting("norm", "group", "instance norm would remove what pooling reads from maps this small"),
        Setting("stem_kernel", 5 if wide else 3, "wide views, wide stem" if wide else "small views, small stem"),
        Setting("stem_stride", stem, "only along axes of 64 voxels and more; elsewhere detail is worth more"),
        Setting("stem_pool", False, "would halve every map once more"),
        Setting("stage_strides", stages, f"stage 4 keeps {' x '.join(map(str, map_size))} voxels of a view: never one"),
    ]
    return Setting(name, parts, "shared by pre-training and fine-tuning")


def epoch_settings(images: Sequence[Facts], sizes: Sizes, view: Sequence[int], device: str) -> list[Setting]:
    """Batch, contexts of a volume, prototypes, and length of a pre-training."""
    count, context = len(images), math.prod(view) * float(np.mean(CONTEXT)) ** 3
    ratio = float(np.prod(sizes.middle)) / context
    per_volume = max(1, min(8, round(ratio)), -(-4 // count))
    samples = count * per_volume
    batch = min(BATCH, 2 ** int(math.log2(samples / 2)))
    epochs = max(4, min(400, round(STEPS / (samples // batch))))
    low, high = PROTOTYPES[device]
    prototypes = max(low, min(high, 2 ** int(math.log2(max(1, samples / 4)))))
    return [
        Setting(
            "train#dataset#samples_per_volume", per_volume, f"a median volume holds {ratio:.1f} contexts; 8 at most"
        ),
        Setting("batch_size", batch, f"an epoch has {samples} samples; at least two steps, {BATCH} at most"),
        Setting("num_prototypes", prototypes, f"K: about a quarter of an epoch's samples, from {low} to {high}"),
        Setting("max_epochs", epochs, f"about {STEPS} steps, as in small.yaml, in {samples // batch} steps an epoch"),
        Setting(
            "warmup_steps", "$@steps.of_epochs(min(1, @max_epochs - 1))", "an epoch, unless that were the whole run"
        ),
        Setting("val_interval", max(1, epochs // 4), "epochs between two label-free scores: four in all"),
    ]
