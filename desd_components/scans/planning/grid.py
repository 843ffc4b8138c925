"""Grid, window, strides and kernels: one decision, for a window must see the organ, and a budget limits voxels.

Ours, after what nnU-Net (Isensee et al., Nature Methods 2021) does for a GPU's memory: here the grid gives way first.
An axis is coarsened only as far as the finest ones have caught up with it, so thick slices stay as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

SAME = 0.05  # relative difference up to which two spacings count as equal
NEARLY = 1.25  # a grid that would be so much coarser alone stays as it is, and the window sees a little less
ANISOTROPIC = 3.0  # a spacing so many times the others', whose own tenth percentile is taken, as in nnU-Net
LEAST_MAP = 4  # voxels that an axis keeps when it is halved; 2 at the deepest stage
THICK = 1.75  # times the finest spacing, beyond which a kernel has one voxel along an axis; nnU-Net: 2
COARSE = 2.0  # the same beyond which an axis waits to be halved, and slices count as thick for the stem
WIDE = 64  # voxels along two axes from which on the stem halves, too
WIDE_PLANE = 96  # the same where slices are thick, so that it would halve the plane alone, which saves less
LEAST_SIDE = 8  # voxels of a window's axis, unless the volumes have fewer


def own_spacing(spacings: np.ndarray) -> np.ndarray:
    """The spacing, (3,) in mm, that N scans (N, 3) have: the median; of a thick-sliced axis the tenth percentile."""
    found = np.median(spacings, axis=0)
    coarsest = int(np.argmax(found))
    if found[coarsest] > ANISOTROPIC * np.delete(found, coarsest).max():
        found[coarsest] = max(np.percentile(spacings[:, coarsest], 10), np.delete(found, coarsest).max())
    return found


def alike(spacings: np.ndarray, spacing: np.ndarray) -> bool:
    """Whether all scans have this spacing, to `SAME`."""
    return bool((np.abs(spacings / spacing - 1) <= SAME).all())


def fitted_spacing(own: np.ndarray, field: np.ndarray, extent: np.ndarray, voxels: float) -> np.ndarray:
    """The finest spacing at which a window of `voxels` shows a field of view; never finer than the scans' own.

    Each axis keeps its own spacing, or has that of the coarsened ones where that is coarser. All are (3,) in mm, the
    field and the extent of a volume as well.
    """

    def count(finest: float) -> float:
        spacing = np.maximum(own, finest)
        return float(np.prod(np.maximum(field / spacing, _least_sides(np.maximum(extent / spacing, 1.0)))))

    low, high = float(own.min()), float(max(field.max(), own.max()))
    if count(low * NEARLY) <= voxels:
        return own.copy()
    _, finest = _bisected(low, high, lambda finest: count(finest) > voxels)
    return np.maximum(own, round(finest, 2))


def window_size(spacing: np.ndarray, field: np.ndarray, extent: np.ndarray, voxels: float) -> list[int]:
    """Voxels (x, y, z) of a window of about so many: the field of view, widened up to the volume while there is room.

    Spacing, field and extent of a volume are (3,) in mm.
    """
    most = np.maximum(np.round(extent / spacing), 1)

    def sides(scale: float) -> np.ndarray:
        return np.minimum(np.maximum(scale * field / spacing, _least_sides(most)), most)

    scale, _ = _bisected(0.05, 50.0, lambda scale: bool(sides(scale).prod() <= voxels))
    return [_stepped(side) for side in sides(scale)]


def _bisected(low: float, high: float, is_low: Callable[[float], bool]) -> tuple[float, float]:
    """Two numbers next to each other, the one too low and the other not."""
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_low(middle) else (low, middle)
    return low, high


def _least_sides(most: np.ndarray) -> np.ndarray:
    """Voxels that a window has along each axis, of volumes of so many."""
    return np.minimum(LEAST_SIDE, most)


def _stepped(side: float) -> int:
    """To the nearest multiple of 8 from 48 voxels on, of 4 from 14 on, of 2 below."""
    step = 8 if side >= 48 else 4 if side >= 14 else 2
    return max(2, step * round(side / step))


class Levels(NamedTuple):
    """Strides and kernels (x, y, z) of the stem and of the four stages."""

    strides: list[list[int]]
    kernels: list[list[int]]

    def cost(self, thin: float) -> float:
        """Of the network, in that of the same one with kernels of 3 x 3 x 3: channels double from stage to stage.

        Args:
            thin: cost of a kernel that does not reach along one axis, in that of one that reaches along all.
        """
        halvings = np.cumprod(np.prod(self.strides[1:], axis=1))
        work = 4.0 ** np.arange(4) / halvings
        return float((work * thin ** (np.array(self.kernels[1:]) == 1).sum(axis=1)).sum() / work.sum())


def levels(window: Sequence[int], spacing: np.ndarray) -> Levels:
    """What suits windows of a grid.

    Axes that are finer than the others are halved first, so that kernels see about as far in mm along each; an axis
    keeps `LEAST_MAP` voxels, two at the deepest stage. The stem halves where windows are wide. While voxels are much
    thicker along an axis than along the finest, kernels do not reach along it, much as in nnU-Net.
    """
    size, mm = np.array(window, dtype=float), np.array(spacing, dtype=float)
    strides: list[list[int]] = []
    kernels: list[list[int]] = []
    is_wide = sorted(window)[1] >= (WIDE if mm.max() <= COARSE * mm.min() else WIDE_PLANE)
    for level in range(5):
        rests = level == 1 or (level == 0 and not is_wide)  # stage 1 keeps the resolution of the stem
        least = 2 if level == 4 else LEAST_MAP
        halved = (mm <= COARSE * mm[size >= 2 * least].min(initial=np.inf)) & (size >= 2 * least) & (not rests)
        strides.append([2 if axis else 1 for axis in halved])
        size, mm = np.ceil(size / strides[-1]), mm * strides[-1]
        kernels.append([1 if axis else 3 for axis in (mm > THICK * mm.min()) & ~halved])  # no slice goes unseen
    return Levels(strides, kernels)


def deepest(window: Sequence[int], all_strides: Sequence[Sequence[int]]) -> list[int]:
    """Voxels of the map that strides, one after the other, leave of a window: rounding up may wait for the last."""
    along = zip(*all_strides, strict=True)
    return [math.ceil(side / math.prod(steps)) for side, steps in zip(window, along, strict=True)]
