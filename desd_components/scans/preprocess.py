"""The settings of a preprocessing, as configs give them and manifests carry them: grid and intensities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.errors import UserError
from .check import file_problem, raise_problems
from .names import Record, record_files
from .read import open_volume

INTENSITIES = ("hu", "zscore")


def target_spacing(spacing: Any, records: Sequence[Record], on_bad_volume: str = "stop") -> list[float] | None:
    """The voxel size to resample to, in mm along the R, A, S axes; None keeps each scan's own grid.

    Args:
        spacing: null, one number, three numbers, or "median": per axis, of the scans in `records`; None of none.
        records: the training records.
        on_bad_volume: "skip" takes the median of the scans whose header can be read; see `usable_records`.

    Raises:
        UserError: when `spacing` is none of these, or a header cannot be read.
    """
    if spacing is None or (spacing == "median" and not records):
        return None
    if spacing == "median":
        return _median_spacing(records, skip=on_bad_volume == "skip")
    values = [spacing] * 3 if isinstance(spacing, int | float) else spacing
    good = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == 3
    if not good or not all(isinstance(v, int | float) and v > 0 for v in values):
        raise UserError(f"spacing={spacing!r}: give mm as one number, as [x, y, z], as median, or null for no change.")
    return [float(value) for value in values]


def _median_spacing(records: Sequence[Record], skip: bool) -> list[float]:
    found = [_ras_voxel_size(record_files(record)[0]) for record in records]
    sizes = [size for size in found if not isinstance(size, str)]
    if not sizes or not skip:
        raise_problems([size for size in found if isinstance(size, str)], len(records))
    return [round(float(size), 4) for size in np.median(sizes, axis=0)]


def _ras_voxel_size(file: str) -> np.ndarray | str:
    """Voxel size of a scan, (3,) in mm along R, A, S; or one line about why it cannot be read."""
    import nibabel

    if problem := file_problem(file):
        return problem
    try:
        affine = open_volume(file).affine
    except UserError as error:
        return str(error)
    sizes = np.empty(3)
    for axis, (ras_axis, _) in enumerate(nibabel.io_orientation(affine)[:3]):
        if not np.isfinite(ras_axis):
            return f"{file}: its affine is not a grid in space: mend the header."
        sizes[int(ras_axis)] = np.linalg.norm(affine[:3, axis])
    return sizes


def preprocessing_settings(
    spacing: list[float] | None, intensity: str, hu_window: Sequence[float], orientation: str = "RAS"
) -> dict[str, Any]:
    """What the preprocessing did, as a manifest carries it.

    Raises:
        UserError: when `intensity` or the window is no such thing.
    """
    if intensity not in INTENSITIES:
        raise UserError(f"intensity={intensity!r}: choose hu (a window, for CT) or zscore (per volume, for MR).")
    if len(hu_window) != 2 or hu_window[0] >= hu_window[1]:
        raise UserError(f"hu_window={hu_window!r}: give the lower and the upper end in HU, such as [-1024, 1024].")
    window = [float(value) for value in hu_window] if intensity == "hu" else None
    return {"orientation": orientation, "spacing": spacing, "intensity": intensity, "hu_window": window}
