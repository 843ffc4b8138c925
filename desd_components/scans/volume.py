"""What a scan of any format becomes: a grid in space, known before a voxel is read, and the values of its voxels.

World coordinates are NIfTI's, RAS+ in mm. DICOM, NRRD and MetaImage count in LPS+; `to_ras` turns their affines, and
nothing else does, so that it happens once.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..base.errors import UserError, chain_of, left_out, one_line, optional_module

UNREADABLE = (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error)  # what reading voxels may raise
NNUNET_READER = "nnU-Net's array"  # as metadata name it
#: in a message, of a package that reads or writes scans
NOT_INSTALLED = "which is not installed: pip install pydicom highdicom SimpleITK pillow"


@dataclass(frozen=True)
class Volume:
    """A scan whose header was read.

    Attributes:
        path: as a data list does.
        reader: the format that it was read as: NIfTI, NRRD, MetaImage or DICOM.
        shape: voxels (X, Y, Z), or (X, Y, Z, C) where a file holds channels.
        affine: (4, 4), voxel to RAS+ in mm.
        dtype: of the values.
        read: gives the values, of that shape; rescaled (DICOM: to HU) where the format says how. From `open_volume` it
            raises a `UserError` that names the file where they cannot be read, or fail a checksum of the format.
        warnings: what a user should know of how it was read, one phrase each.
        header: nibabel's image, of NIfTI alone.
    """

    path: str
    reader: str
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    warnings: tuple[str, ...] = ()
    header: Any = None

    @property
    def ras_order(self) -> list[int]:
        """Its axes in the order right, anterior, superior."""
        from nibabel import io_orientation

        return [int(axis) for axis in np.argsort(io_orientation(self.affine)[:, 0])]

    @property
    def ras_shape(self) -> tuple[int, int, int]:
        """Voxels along right, anterior, superior."""
        x, y, z = (int(self.shape[axis]) for axis in self.ras_order)
        return x, y, z

    @property
    def ras_spacing(self) -> tuple[float, float, float]:
        """Mm along right, anterior, superior."""
        x, y, z = (voxel_size_of(self.affine)[axis] for axis in self.ras_order)
        return x, y, z


def to_ras(affine: np.ndarray) -> np.ndarray:
    """An affine (4, 4) from voxels to LPS+ as one from voxels to RAS+; or the other way round."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)


def refused_as(kind: str, path: str, error: BaseException) -> UserError:
    """The refusal of a file whose header is none of its `kind`, with the last line of what its reader says."""
    # SimpleITK begins with where in its source it happened
    reason = ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:160]
    return UserError(f"{path}: cannot be read as {kind} ({reason}): copy or download it again, or leave it out.")


def refuse_rest(stream: Any, sizes: Sequence[int], dtype: np.dtype) -> None:
    """Raise a ValueError for what follows voxels in a file, but for padding: its header may say int8 for int16."""
    if any(rest.strip(b"\0\r\n") for rest in iter(lambda: stream.read(1 << 20), b"")):
        raise ValueError(f"more follows its {tuple(sizes)} voxels of {dtype}, so that its header is of another volume")


def not_read(path: str, error: BaseException) -> UserError:
    """The refusal of a file whose header is good and whose voxels were not read; only its content makes it damaged."""
    chain = list(chain_of(error))
    of_the_system = any(isinstance(each, MemoryError) or getattr(each, "errno", None) for each in chain)
    if not of_the_system and any(isinstance(each, UNREADABLE) for each in chain):
        return UserError(
            f"{path}: is truncated or damaged ({one_line(error)}): copy or download it again, or leave it out."
        )
    why = getattr(chain[-1], "strerror", None) or one_line(error)
    return UserError(f"{path}: could not be read ({why}): mend that and start again, or leave it out.")


def dicom_room(path: str | Path) -> Any:
    """`desd_components.scans.dicom`, which a packed bundle may have left out: the only way in from elsewhere.

    Raises:
        MissingPackage: naming the file that needs it, and what to do without.
    """
    need = f"{path}: needs the reader of DICOM series, {left_out('scans')}"
    return optional_module(f"{__package__}.dicom", f"{need}, or convert the series to NIfTI with dcm2niix.")


def itk_room(path: str | Path) -> Any:
    """`desd_components.scans.itk`, likewise."""
    need = f"{path}: needs the reader of NRRD and MetaImage, {left_out('scans')}"
    return optional_module(f"{__package__}.itk", f"{need}, or convert it to NIfTI.")


def nnunet_room(path: str | Path) -> Any:
    """`desd_components.scans.nnunet`, likewise."""
    need = f"{path}: is an array, as nnU-Net's preprocessed cases are, and needs their reader"
    return optional_module(f"{__package__}.nnunet", f"{need}, {left_out('encoders')}.")


def voxel_size(image: torch.Tensor) -> tuple[float, ...]:
    """Voxel size in mm (x, y, z), from the affine of a `MetaTensor`; 1 mm for a plain tensor."""
    if not isinstance(image, MetaTensor):
        return (1.0, 1.0, 1.0)
    return voxel_size_of(np.asarray(image.affine.cpu(), dtype=float))


def voxel_size_of(affine: np.ndarray) -> tuple[float, ...]:
    """Voxel size in mm (x, y, z), from an affine (4, 4)."""
    return tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))


def scan_path(image: torch.Tensor) -> str | None:
    """The file behind a `MetaTensor`; None where it is not known."""
    path = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return None if path is None else str(path)
