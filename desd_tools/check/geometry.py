"""What a header says of the grid of a volume: findings beyond those that stop a training.

A training refuses what it cannot use; a spacing of 400 mm or two affines that contradict each other it would use, and
learn from volumes that lie elsewhere than people think.
"""

from typing import Any

import numpy as np

from desd_components.scans.check import GRID_TOLERANCE, corner_gap
from desd_components.scans.read import nifti_unit, stored_widths
from desd_components.scans.volume import Volume

from .findings import REMARK, Finding

SPACINGS = (0.01, 30.0)  # mm; micro-CT to thick scouts
FEWEST, FEW = 4, 8  # voxels of an axis: below the first nothing can be learnt across it, below the second little
OBLIQUE = 1.0  # degrees between an axis of the volume and one of the patient


def geometry_findings(volume: Volume, is_label: bool = False) -> list[Finding]:
    """Findings about the grid of a scan; its voxels are not read.

    A label's extent and tilt are not told again: it has to lie on its image's grid anyway.
    """
    file, shape = volume.path, volume.shape[:3]
    found = [_spacing(volume)]
    found += [] if volume.header is None else [_two_affines(file, volume.header, shape)]
    found += [] if is_label else [_extent(file, shape), _oblique(file, volume.affine)]
    return [finding for finding in found if finding]


def _spacing(volume: Volume) -> Finding | None:
    """Both spacings that a NIfTI header holds: nibabel mends a stored 0 in silence and reads it as 1 mm."""
    file, used = volume.path, np.linalg.norm(volume.affine[:3, :3], axis=0)
    stored = [] if volume.header is None else [stored_widths(file, volume.header.header)]
    for spacing in (used, *stored):
        if not ((np.abs(spacing) >= SPACINGS[0]) & (np.abs(spacing) <= SPACINGS[1])).all():
            size = " x ".join(f"{value:.4g}" for value in spacing)
            return Finding(file, f"says its voxels are {size} mm", "mend the header; was the unit mm?", "spacing")
    return None


def _two_affines(file: str, header: Any, shape: tuple[int, ...]) -> Finding | None:
    """Readers differ in which of the two they believe; nibabel, and so MONAI, takes the sform. Without, they guess."""
    get_qform = getattr(header, "get_qform", None)
    qform = get_qform(coded=True)[0] if get_qform else None
    sform = header.get_sform(coded=True)[0] if get_qform else None
    if qform is None and sform is None:
        what = "says nowhere how it lies in the patient (sform and qform codes are 0), and programs guess differently"
        return Finding(file, what, "copy the affine of the original, if sides matter", "no affine", REMARK)
    if qform is None or sform is None:
        return None
    unit = nifti_unit(header.header)
    gap = corner_gap(shape, sform, qform) * unit
    if gap <= GRID_TOLERANCE * np.linalg.norm(sform[:3, :3], axis=0).min() * unit:
        return None
    what = f"its qform and its sform place a corner {gap:.2f} mm apart"
    return Finding(file, what, "set the wrong one to the other: programs differ in which they believe", "affine")


def _extent(file: str, shape: tuple[int, ...]) -> Finding | None:
    fewest = min(shape)
    if fewest >= FEW:
        return None
    what = f"is only {fewest} voxel{'s' * (fewest > 1)} wide along an axis {shape}"
    if fewest < FEWEST:
        return Finding(file, what, "leave it out: it is a slice or a fragment, not a volume", "extent")
    return Finding(file, what, "keep it only if all scans are as thin", "extent", REMARK)


def _oblique(file: str, affine: np.ndarray) -> Finding | None:
    from nibabel.affines import obliquity

    degrees = float(np.rad2deg(obliquity(affine)).max())
    if degrees <= OBLIQUE:
        return None
    what = f"is oblique: an axis leans by {degrees:.0f} degrees"
    return Finding(file, what, "nothing: axes are brought near to RAS, not resampled to it", "oblique", REMARK)
