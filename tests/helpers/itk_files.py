"""NRRD and MetaImage files for tests, as SimpleITK writes them."""

from pathlib import Path

import numpy as np
import pytest
from scan_files import oblique_affine

from desd_components.scans.volume import to_ras

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed: NRRD and MetaImage are not tried")


def write_itk(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A volume (X, Y, Z) or (X, Y, Z, C) with an RAS+ affine, as SimpleITK writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = (2, 1, 0, 3)[: voxels.ndim]
    image = sitk.GetImageFromArray(voxels.transpose(axes).astype(np.float32), isVector=voxels.ndim == 4)
    lps = to_ras(oblique_affine() if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=path.suffix == ".nrrd")
    return path
