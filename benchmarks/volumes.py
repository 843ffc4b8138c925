"""Synthetic scans and volumes for the benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np


def write_scans(
    folder: Path,
    shape: tuple[int, int, int] = (320, 320, 80),
    spacing: Sequence[float] = (1, 1, 1),
    count: int = 3,
    body: float = 0.9,
) -> Path:
    """CT-like scans, whose noise keeps them from being compressed better than real ones; the folder.

    Args:
        folder: made where it is not there.
        shape, spacing: of a scan; voxels and mm.
        count: of scans.
        body: half axis of the body along x, in halves of the scan; the rest is air.
    """
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(
        *(np.linspace(-1, 1, voxels, dtype=np.float32) for voxels in shape), indexing="ij", sparse=True
    )
    for index in range(count):
        hu = 40 + 60 * np.sin(9 * x + index) * np.sin(7 * y) * np.cos(5 * z)
        hu[np.broadcast_to((x / body) ** 2 + (y / 0.7) ** 2 >= 1, shape)] = -1000
        hu += rng.standard_normal(shape, np.float32) * 12
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1])
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / f"scan_{index}.nii.gz")
    return folder


def write_tiny(folder: Path, count: int) -> Path:
    """So many volumes of 16 voxels a side, for what depends on their number alone; the folder."""
    folder.mkdir(exist_ok=True)
    voxels = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.int16)
    for index in range(count):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"volume_{index:05d}.nii")
    return folder
