"""A DICOM series as a volume: its slices put in order by their positions, checked, and laid on one regular grid.

Differs from MONAI's ``PydicomReader``, which sorts by ``InstanceNumber`` or file order, takes the spacing of the first
two slices and one rescale slope for all: here positions along the normal decide, every slice is rescaled by its own
slope and intercept, frames of a multi-frame file are slices like others, and what is no grid is interpolated with a
warning (missing or uneven slices, gantry tilt) or refused (mixed sizes, several images at one position, no pixels).
"""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.errors import UserError, optional_module
from ..names import first_few
from ..volume import Volume, to_ras
from .series import Series
from .slices import NO_READER, Slice, files_of, opened, slice_values

TOLERANCE = 0.1  # of a voxel, by which positions may miss the grid: they are rounded in the headers
LARGEST_GAP = 4.0  # steps between two slices; a wider gap is not filled
_DIRECTION_TOLERANCE = 1e-3  # of a unit vector's components


@dataclass(frozen=True)
class Stack:
    """Slices in order, and the grid that they are laid on.

    Attributes:
        slices: along the normal.
        places: of each slice on the grid's third axis, in steps; whole numbers where nothing is interpolated.
        offsets: (n, 2), pixels (x, y) by which each slice lies within the grid's planes; zero without tilt.
        shape: voxels (X, Y, Z) of the grid.
        affine: (4, 4), voxel to LPS+ in mm.
        warnings: one phrase each.
    """

    slices: tuple[Slice, ...]
    places: np.ndarray
    offsets: np.ndarray
    shape: tuple[int, int, int]
    affine: np.ndarray
    warnings: tuple[str, ...]


def dicom_volume(series: Series) -> Volume:
    """A series as a volume in HU (or whatever its rescaling gives), float32.

    Raises:
        UserError: when it is no volume; one line that names it.
    """
    stack = stack_of(series)
    affine, dtype = to_ras(stack.affine), np.dtype(np.float32)
    return Volume(series.path, "DICOM", stack.shape, affine, dtype, lambda: _voxels(stack), stack.warnings)


def stack_of(series: Series) -> Stack:
    """The slices of a series in order, and their grid.

    Raises:
        UserError: when they are no volume.
    """
    slices, told = _without_copies(series)
    _refuse_what_is_no_volume(series.path, slices)
    row, column = np.reshape(np.array(slices[0].orientation), (2, 3))
    normal = np.cross(row, column)
    slices = sorted(slices, key=lambda one: float(np.array(one.position) @ normal))
    positions = np.array([one.position for one in slices])
    heights = (positions - positions[0]) @ normal
    step, count, gaps = _grid_along(series.path, heights, _parted(slices))
    between = np.array(slices[0].spacing)[::-1]  # mm from column to column, then from row to row
    offsets, extra, tilt = _tilt((positions - positions[0]) @ np.stack([row, column], axis=1), heights, between)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * between[0], column * between[1], normal * step], axis=1)
    affine[:3, 3] = positions[0] - affine[:3, :2] @ offsets[0]  # the corner of the grid, of which slices keep off
    shape = (slices[0].size[1] + extra[0], slices[0].size[0] + extra[1], count)
    return Stack(tuple(slices), _places(heights, step), offsets, shape, affine, (*told, *gaps, *tilt))


def _places(heights: np.ndarray, step: float) -> np.ndarray:
    """Heights (mm) in steps of the grid; whole numbers where all of them nearly are."""
    places = heights / step
    whole = np.rint(places)
    return whole if np.abs(places - whole).max() <= TOLERANCE else places


def _without_copies(series: Series) -> tuple[list[Slice], list[str]]:
    """Each instance once, for people copy folders into each other; and what a user should know of the slices.

    A copy lies where the instance does: not all who make names anonymous give each slice one of its own.
    """
    unique: dict[tuple[Any, ...], Slice] = {}
    for one in series.slices:
        unique.setdefault((one.instance or one.file, one.frame, one.position), one)
    slices, warnings = list(unique.values()), []
    if copies := len(series.files) - len(files_of(slices)):
        warnings.append(f"{copies} files are copies of others and were passed over")
    if series.unreadable:
        name = os.path.basename(series.unreadable[0])
        warnings.append(f"{len(series.unreadable)} files beside it cannot be read as DICOM (first: {name})")
    # which DICOM means for the screen alone, and newer ITK turns into values
    if white := [one for one in slices if one.low_is_white]:
        warnings.append(f"{_count(white, slices)} show low values white (MONOCHROME1): taken as stored")
    return slices, warnings


def _refuse_what_is_no_volume(path: str, slices: Sequence[Slice]) -> None:
    """What has no pixels, no place in space, another grid than its neighbours, or pixels that cannot be read."""
    single = "is a single slice, not a volume: leave it out, or put its series beside it." if len(slices) < 2 else None
    if found := _incomplete(slices) or _mixed(slices) or _not_readable(slices) or single:
        raise UserError(f"{path}: {found}")


def _incomplete(slices: Sequence[Slice]) -> str | None:
    if bare := [one for one in slices if not one.has_pixels]:
        return f"{_count(bare, slices)} hold no pixel data: export the series again, or leave it out."
    if lost := [one for one in slices if None in (one.position, one.orientation, one.spacing)]:
        return f"{_count(lost, slices)} do not say where they lie (position, orientation, pixel spacing): leave it out."
    return None


def _count(some: Sequence[Slice], slices: Sequence[Slice]) -> str:
    return f"{len(some)} of {len(slices)} slices (first: {os.path.basename(some[0].file)})"


def _parted(slices: Sequence[Slice]) -> str:
    """How to part slices that are no volume together."""
    if len(files_of(slices)) > 1:
        return "give each part its own folder"
    return "convert this file of several stacks to a NIfTI for each, for instance with dcm2niix"


def _mixed(slices: Sequence[Slice]) -> str | None:
    """Slices of several sizes, spacings or directions under one series number."""
    sizes = Counter(one.size for one in slices)
    if len(sizes) > 1:
        told = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in sizes.most_common(3))
        return f"mixes slices of several sizes ({told}): {_parted(slices)}."
    for name in ("spacing", "orientation"):
        values = np.array([getattr(one, name) for one in slices])
        if np.abs(values - values[0]).max() > _DIRECTION_TOLERANCE * max(1.0, float(np.abs(values[0]).max())):
            return f"mixes slices of several {name}s: {_parted(slices)}."
    if 0 < len(bare := [one for one in slices if not one.is_rescaled]) < len(slices):
        return f"{_count(bare, slices)} say no rescale slope, as others do: export it again, or leave it out."
    return None


def _not_readable(slices: Sequence[Slice]) -> str | None:
    """Colours, and pixels that no installed package can decode, in any of the slices."""
    if not all(one.is_grey for one in slices):
        return "holds pixels of colours, not one value per pixel: leave it out."
    pydicom = optional_module("pydicom", f"{slices[0].file}: {NO_READER}")
    for uid in map(pydicom.uid.UID, dict.fromkeys(one.syntax for one in slices)):
        try:
            decoder = pydicom.pixels.get_decoder(uid)
        except NotImplementedError:  # which pydicom raises for syntaxes that it does not know, a video's among them
            return f"is stored as {uid.name}, for which there is no decoder: export it again, or leave it out."
        if not decoder.is_available:
            return f"is compressed ({uid.name}), and no decoder for it is installed: pip install pylibjpeg[all]"
    return None


def _grid_along(path: str, heights: np.ndarray, remedy: str) -> tuple[float, int, list[str]]:
    """Step (mm) and count of the grid's planes, and a warning where slices are missing or uneven."""
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    if same := int((gaps <= max(TOLERANCE * step, 1e-3)).sum()):
        raise UserError(
            f"{path}: {same} of {len(heights)} slices lie where another one lies (several times, echoes or "
            f"reconstructions in one series): {remedy}."
        )
    if gaps.max() > LARGEST_GAP * step:
        raise UserError(
            f"{path}: a gap of {gaps.max():.4g} mm after slice {int(gaps.argmax()) + 1} of {len(heights)} ({step:.4g} "
            f"mm apart elsewhere) is too wide to be filled: fetch the missing slices, or {remedy}."
        )
    count = round(float(heights[-1]) / step) + 1
    step = float(heights[-1]) / (count - 1)
    holes = np.diff(np.rint(heights / step)) > 1
    if count > len(heights) and holes.any():
        told = first_few([str(n + 1) for n in np.flatnonzero(holes)])
        return step, count, [f"{count - len(heights)} of {count} slices are missing (after slice {told}): interpolated"]
    if np.array_equal(_places(heights, step), np.arange(len(heights))):
        return step, count, []
    return step, count, [f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart: interpolated to {step:.4g} mm"]


def _tilt(moved: np.ndarray, heights: np.ndarray, between: np.ndarray) -> tuple[np.ndarray, tuple[int, int], list[str]]:
    """Where slices lie within the planes of an upright grid.

    Args:
        moved: (n, 2), mm along rows and down columns by which each slice is shifted against the first.
        heights: (n,), mm along the normal.
        between: mm from column to column, and from row to row.

    Returns:
        Offsets (n, 2) in pixels, none of them negative; pixels to add to rows and columns; a warning where it leans.
    """
    offsets = moved / between
    if np.abs(offsets).max() <= TOLERANCE:
        return np.zeros_like(offsets), (0, 0), []
    degrees = np.rad2deg(np.arctan2(np.linalg.norm(moved[-1]), heights[-1]))
    offsets = offsets - offsets.min(axis=0)
    extra = np.ceil(offsets.max(axis=0) - TOLERANCE).astype(int)
    told = f"the stack leans by {degrees:.1f} degrees (gantry tilt): resampled to an upright grid"
    return offsets, (int(extra[0]), int(extra[1])), [told]


def _voxels(stack: Stack) -> np.ndarray:
    """All slices, rescaled and on the grid: (X, Y, Z) float32."""
    dataset = functools.lru_cache(maxsize=1)(opened)  # the next slice may be another frame of the same file
    plane = functools.lru_cache(maxsize=2)(lambda n: _plane(stack, n, dataset(stack.slices[n].file)))
    voxels = np.empty(stack.shape, dtype=np.float32, order="F")  # so that a slice is written in one go
    for z in range(stack.shape[2]):
        above = int(np.searchsorted(stack.places, z - 1e-6))
        below = above if stack.places[above] <= z else above - 1
        weight = (z - stack.places[below]) / max(stack.places[above] - stack.places[below], 1e-6)
        blend = above != below
        voxels[:, :, z] = (1 - weight) * plane(below) + weight * plane(above) if blend else plane(above)
    return voxels


def _plane(stack: Stack, number: int, dataset: Any) -> np.ndarray:
    """One slice (X, Y) in float32, shifted into the grid's plane where the stack leans."""
    pixels = slice_values(dataset, stack.slices[number]).T
    offset = stack.offsets[number]
    if stack.shape[:2] == pixels.shape and not offset.any():
        return pixels
    from scipy import ndimage

    # outside of a slice is what its darkest pixel shows, which is air
    outside = {"order": 1, "mode": "grid-constant", "cval": float(pixels.min())}
    return ndimage.affine_transform(pixels, np.eye(2), -offset, output_shape=stack.shape[:2], **outside)
