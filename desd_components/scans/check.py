"""Checks of scans and labels before anything is trained: each problem is one line with the file and the remedy.

Headers are looked at first, which costs about a millisecond a file; voxels are looked at once, while they are cached
(`desd_components.scans.cache`). All bad files are gathered before the run is refused.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..base.classes import IGNORE
from ..base.errors import UserError
from .label_maps import are_whole
from .names import Scan, scan_files
from .read import open_volume

THREADS = 4  # that look at headers
LISTED = 10  # problems named in one message; the rest is a count
GRID_TOLERANCE = 0.1  # in voxels: image and label grids may differ by that much at any corner (headers are rounded)


def raise_problems(problems: Sequence[str], checked: int) -> None:
    """Refuse a run because of its files, of which so many were `checked`; nothing happens where no problem is.

    Raises:
        UserError: with the one problem, or with the first ten of them and a count.
    """
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        told = "\n  ".join([f"{len(problems)} of {checked} scans cannot be used:", *problems[:LISTED], *more])
        raise UserError(told)


def check_records(scans: Sequence[Scan], in_channels: int = 1) -> None:
    """Refuse scans whose headers say that they cannot be used, all of them in one message.

    Args:
        scans: ``{"image": path or [path per channel][, "label": path]}``.
        in_channels: channels an image must have; a 4D file holds them in its last dimension.

    Raises:
        UserError: naming each file and what to do about it, ten at most, then a count.
    """
    found = threaded(functools.partial(header_problem, in_channels=in_channels), scans, THREADS)
    raise_problems([problem for problem in found if problem], len(scans))


def threaded(function: Callable[[Any], Any], items: Iterable[Any], num_workers: int) -> Iterable[Any]:
    """The function over the items, in order; in ``num_workers`` threads, or in this one when that is 0."""
    if num_workers < 1:
        return (yield from map(function, items))
    pool = ThreadPoolExecutor(num_workers)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for ten thousand volumes


def with_bar(items: Iterable[Any], total: int, doing: str, unit: str = "volume", show: bool = True) -> Iterable[Any]:
    """The items, with a bar that says how many of `total` have come; where nobody watches, a line now and then."""
    from tqdm import tqdm

    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(items, total=total, desc=doing, unit=unit, mininterval=interval, disable=not show)


def header_problem(scan: Scan, in_channels: int = 1) -> str | None:
    """What is wrong with a scan as far as its headers tell, in one line, or None."""
    images, labels = scan_files(scan, ("image",)), scan_files(scan, ("label",))
    grids: list[Grid] = []
    if own := {os.path.realpath(file) for file in images} & {os.path.realpath(file) for file in labels}:
        return f"{labels[0]}: is image and label in one ({own.pop()}): give the label that belongs to the image."
    try:
        headers = {file: open_volume(file) for file in scan_files(scan)}
    except UserError as error:
        return str(error)
    for file, header in headers.items():
        what = "label" if file in labels else "image" if images == [file] else "channel"
        if found := _shape_problem(file, header.shape, in_channels if what == "image" else 1, what):
            return found
        grids.append((file, header.shape[:3], header.affine))
    if len(images) not in (0, 1, in_channels):
        told = ", ".join(os.path.basename(file) for file in images)
        return (
            f"{images[0]}: comes with {len(images)} files ({told}), but in_channels is {in_channels}: set "
            f"`--in_channels {len(images)}` if they are its channels, else rename them."
        )
    return next(filter(None, (grid_problem(grids[0], grid) for grid in grids[1:])), None)


def _shape_problem(file: str, shape: tuple[int, ...], channels: int, what: str) -> str | None:
    if shape[3:] == (channels,) or (len(shape) == 3 and channels == 1):
        return None
    if len(shape) == 3:
        remedy = "give its other channels, too (x_0000, x_0001, ..., or a data list), or set `--in_channels 1`."
        return f"{file}: is 3D {shape}, one channel, but in_channels is {channels}: {remedy}"
    if len(shape) == 4:
        odd = f"is 4D {shape}, and its last dimension is not {channels} channel{'s' * (channels > 1)}"
        if what == "image":
            remedy = f"split it into 3D files, or set `--in_channels {shape[3]}` if that dimension holds channels."
        elif what == "channel":
            remedy = "split it into 3D files, one for each channel."
        else:
            odd = f"is a 4D label {shape}, and a label is 3D, with one class number for each voxel"
            remedy = "where its last dimension holds a map of each class, background first, save its argmax(-1)."
        return f"{file}: {odd}: {remedy}"
    return f"{file}: has {len(shape)} dimensions {shape}, not a 3D volume: convert it or leave it out."


Grid = tuple[str, tuple[int, ...], np.ndarray]  # a file, its shape in voxels, its affine


def grid_problem(first: Grid, second: Grid) -> str | None:
    """How the grid of a label, or of another channel, differs from that of the image, in one line, or None."""
    (file, shape, affine), (other, other_shape, other_affine) = first, second
    if shape != other_shape:
        return f"{other}: has shape {other_shape}, but {file} has {shape}: they must lie on one grid; resample one."
    gap = corner_gap(shape, affine, other_affine)
    if gap > GRID_TOLERANCE * np.linalg.norm(affine[:3, :3], axis=0).min():
        return (
            f"{other}: its affine places a corner {gap:.2f} mm away from that of {file}: one of the two headers is "
            "wrong; copy the image's affine if the voxels agree, else resample."
        )
    return None


def corner_gap(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """How far apart, in mm, two affines place the corner of a volume on which they differ most."""
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def raw_problem(file: str, voxels: np.ndarray, is_label: bool) -> str | None:
    """NaN, infinity, a constant image or a label that is not whole numbers, in one line, or None."""
    if np.issubdtype(voxels.dtype, np.floating):
        bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
        if bad:
            return (
                f"{file}: {bad} of {voxels.size} voxels are NaN or infinite: set them to the background value and save "
                "the file again, or leave it out."
            )
        if is_label and not are_whole(voxels):
            example = float(voxels.flat[np.argmax(np.abs(voxels - np.rint(voxels)))])
            return (
                f"{file}: is not integer-valued (a voxel holds {example:.6g}): a label holds class numbers; was it "
                "resampled with linear interpolation? Resample the original with nearest neighbour."
            )
    if not is_label:
        low, high = (voxels.min(), voxels.max()) if voxels.size else (0, 0)
        if low == high:
            return f"{file}: every voxel has the same value: there is nothing to see; leave it out."
        with np.errstate(over="ignore"):
            ends = np.array([low, high]).astype(np.float32)
        if ends[0] == ends[1] or not np.isfinite(ends).all():
            told = f"its values, {low} to {high}, are not to be told apart, or too large, in float32"
            return f"{file}: {told}, in which networks compute: take their mean off or rescale them, or leave it out."
    return None


def label_values(voxels: np.ndarray) -> list[int]:
    """The distinct values of an integer-valued label, sorted; what is next to a whole number is rounded."""
    return sorted({int(value) for value in np.rint(np.unique(voxels))})


def class_problem(file: str, values: Sequence[int], class_count: int | None) -> str | None:
    """Label values outside 0 .. class_count - 1, or none but `IGNORE`, in one line, or None."""
    if list(values) == [IGNORE]:
        return f"{file}: holds the label value to ignore alone: there is nothing to learn; leave it out."
    if class_count is None:
        return None
    outside = [value for value in values if not 0 <= value < class_count and value != IGNORE]
    if not outside:
        return None
    shown = f"{outside[:8]}" + (f" and {len(outside) - 8} more" if len(outside) > 8 else "")
    remedy = "name all classes (`class_names`, or labels in dataset.json), or change the values"
    if len(values) <= 2 and class_count == 2:
        coded = sorted(values, key=lambda value: value != 0)  # 0, where it occurs, is the background
        meant = [0, 1][-len(coded) :]
        rewrite = ", ".join(f"{value} as {right}" for value, right in zip(coded, meant, strict=True) if value != right)
        remedy = (
            f"it is a binary mask coded {{{', '.join(map(str, values))}}}: rewrite {rewrite}, or add "
            f"MapLabelValued(orig_labels={coded}, target_labels={meant}) to the preprocessing"
        )
    return f"{file}: holds the label values {shown}, but the classes are 0 to {class_count - 1}: {remedy}."
