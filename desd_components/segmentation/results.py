"""Label maps and probabilities as NIfTI that lie on their scan in every program.

Programs differ in which of a NIfTI's two affines they believe, and in what they make of a file without any. MONAI's
writer stores one affine as both, and drops axes of one voxel: in some programs a result then lies beside its scan.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import NdarrayOrTensor, PathLike
from monai.data import NibabelWriter
from nibabel.openers import Opener

from ..base.errors import UserError
from ..base.files import written_whole
from ..scans.check import grid_problem
from ..scans.read import open_volume

#: all that a NIfTI header says of where its voxels lie
_GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units",
)  # fmt: skip


class ScanWriter(NibabelWriter):
    """Writes a volume (C, X, Y, Z) with the geometry of the scan that it was made of: ``SaveImaged(writer=...)``.

    A NIfTI scan's own affines, codes, units and axes are copied as they are stored, and its version. Of other formats,
    and where the volume lies on another grid than its scan, both affines are the volume's own, in mm.
    """

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = False, **kwargs: Any
    ) -> None:
        """Take the voxels; axes of one voxel are kept."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Take the affine, and the path of the scan."""
        super().set_metadata(meta_dict, resample, **options)
        self.scan = str((meta_dict or {}).get("filename_or_obj", ""))

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file."""
        voxels = np.asarray(self.data_obj).astype(self.output_dtype)
        voxels = voxels[..., 0] if voxels.shape[-1] == 1 else voxels
        affine = np.eye(4) if self.affine is None else np.asarray(self.affine, dtype=np.float64)
        image = _like_scan(voxels, affine, self.scan) or _by_affine(voxels, affine)
        if np.issubdtype(voxels.dtype, np.integer):
            image.header.set_intent("label")  # by which it is known wherever it is copied to
        with written_whole(Path(filename)) as part:
            nibabel.save(image, part)


def write_by_class(
    path: PathLike, volumes: Iterable[torch.Tensor], shape: Sequence[int], affine: np.ndarray, scan: str
) -> None:
    """Write volumes (X, Y, Z) as they come, as one NIfTI of this shape (X, Y, Z, C) in float32.

    Args:
        path: of the file.
        volumes: one for each class.
        affine, scan: of the grid, and the file behind it; see `ScanWriter`.
    """
    empty = np.broadcast_to(np.float32(0), shape)
    image = _like_scan(empty, affine, scan) or _by_affine(empty, affine)
    image.header.set_data_dtype(np.float32)
    image.header.set_slope_inter(1, 0)
    with written_whole(Path(path)) as part, Opener(str(part), "wb") as file:
        image.header.write_to(file)
        for volume in volumes:
            for plane in volume.cpu().permute(2, 1, 0):  # x runs fastest in a NIfTI
                file.write(plane.contiguous().numpy().astype("<f4", copy=False).tobytes())


def _by_affine(voxels: np.ndarray, affine: np.ndarray) -> Any:
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    if grid_problem(("", voxels.shape[:3], affine), ("", voxels.shape[:3], image.get_qform())):
        image.set_qform(None, 0)  # which holds no shear: programs that believe it would put the result elsewhere
    image.header.set_xyzt_units("mm")
    return image


def _like_scan(voxels: np.ndarray, affine: np.ndarray, path: str) -> Any:
    """The voxels as an image with the geometry of the NIfTI scan at `path`; None where they do not lie on one."""
    try:
        scan = open_volume(path) if Path(path).is_file() else None
    except UserError:
        scan = None
    if scan is None or scan.header is None:
        return None
    if grid_problem((path, scan.shape[:3], scan.affine), (path, voxels.shape[:3], affine)):
        return None
    if voxels.ndim == 3 and math.prod(scan.header.shape) == voxels.size:
        voxels = voxels.reshape(scan.header.shape)
    kind = nibabel.Nifti2Image if isinstance(scan.header, nibabel.Nifti2Image) else nibabel.Nifti1Image
    image = kind(voxels, None)
    for name in _GEOMETRY:
        image.header[name] = scan.header.header[name]
    return image
