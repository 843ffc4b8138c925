"""One reader for all formats: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, DICOM series by pydicom.

`open_volume` reads a header and promises the voxels; the checks, the cache and `ScanReader`, which the configs give to
MONAI's ``LoadImaged``, all go through it. Differs from MONAI's readers: a DICOM series is checked before it is read
(`desd_components.scans.dicom.volume`), and what is refused is not handed on to the next reader.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from ..base.errors import UserError
from .names import ITK_SUFFIXES, NIFTI_SUFFIXES, is_dicom
from .volume import Volume, dicom_room, optional_module, to_ras

# MONAI warns, at every loader, that a GPU decoder which nobody asked for is not there
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
_DEFLATE_LIMIT = 1032  # gzip makes nothing smaller than by that factor
_DETACHED = (".mhd", ".nhdr")  # headers that keep their voxels in a file beside them: MetaImage's and NRRD's
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*([^\r\n]+)", re.MULTILINE | re.IGNORECASE)


def open_volume(path: str | Path) -> Volume:
    """The header of a scan, its voxels unread.

    Args:
        path: a file, a folder that holds one DICOM series, or a slice that stands for the series it belongs to.

    Raises:
        UserError: when it is none of these, or is refused; one line that names it.
    """
    path = str(path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"{path}: is a pipe or a device, not a file: leave it out.")
    if path.endswith(NIFTI_SUFFIXES):
        return _nifti(path)
    if path.endswith(ITK_SUFFIXES):
        return _itk(path)
    if os.path.isdir(path) or is_dicom(path):
        room = dicom_room(path)
        volume: Volume = room.dicom_volume(room.series_at(path))
        return volume
    raise UserError(
        f"{path}: is not a scan: give .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, or a folder of one DICOM series."
    )


def parts(path: str) -> list[str]:
    """All files that a scan consists of: those of a series, a header with its data file, or the file alone."""
    if path.endswith(_DETACHED):
        beside = os.path.join(os.path.dirname(path), _data_file(path))
        return [path, beside] if os.path.isfile(beside) else [path]
    if path.endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES)) or not (os.path.isdir(path) or is_dicom(path)):
        return [path]
    files: list[str] = dicom_room(path).series_at(path).files
    return files


def _data_file(path: str) -> str:
    """What a header calls the file with its voxels, relative to its own folder; "" where it names none."""
    with open(path, "rb") as stream:
        found = _DATA_FILE.search(stream.read(1 << 16))
    return os.fsdecode(found[1].strip()) if found else ""


def _refuse_voxels_elsewhere(path: str) -> None:
    """Refuse a header whose voxels are missing, or outside of its folder: it has no business there, see SECURITY.md."""
    named = _data_file(path) if path.endswith(_DETACHED) and os.path.isfile(path) else ""
    if os.path.isabs(named) or ".." in Path(named).parts:
        raise UserError(f"{path}: its voxels are said to lie in {named!r}, outside of its folder: put them beside it.")
    plain = named and " " not in named and named.upper() not in ("LOCAL", "LIST")  # a pattern or a list is ITK's matter
    if plain and not os.path.isfile(os.path.join(os.path.dirname(path), named)):
        raise UserError(f"{path}: its voxels, {named}, are not there: copy both files, or leave it out.")


def _nifti(path: str) -> Volume:
    import nibabel

    try:
        header: Any = nibabel.load(path)
        affine, dtype = np.asarray(header.affine, dtype=np.float64), np.dtype(header.get_data_dtype())
    except Exception as error:
        raise _unreadable(path, "NIfTI", error) from error
    shape = tuple(int(size) for size in header.shape)
    _refuse_impossible_size(path, shape, dtype)
    return Volume(path, "NIfTI", shape, affine, dtype, lambda: np.asanyarray(header.dataobj), header=header)


def _refuse_impossible_size(path: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse a header that promises more voxels than the file can hold, before memory for them is asked for."""
    promised, held = math.prod(shape) * dtype.itemsize, os.path.getsize(path)
    if min(shape, default=0) < 1:
        raise UserError(f"{path}: its header says {shape} voxels: copy or download it again, or leave it out.")
    if promised > held * (_DEFLATE_LIMIT if path.endswith(".gz") else 1):
        raise UserError(
            f"{path}: is truncated or damaged (its header says {shape} voxels, {promised} bytes, and the file's {held} "
            "cannot hold them): copy or download it again, or leave it out."
        )


def _itk(path: str) -> Volume:
    kind = "MetaImage" if path.endswith((".mha", ".mhd")) else "NRRD"
    sitk = optional_module("SimpleITK", path, f"reading {kind}")
    _refuse_voxels_elsewhere(path)
    header = sitk.ImageFileReader()
    header.SetFileName(path)
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, kind, error) from error
    size, channels = header.GetSize(), header.GetNumberOfComponents()
    shape = (*size, channels) if channels > 1 else tuple(size)

    def read() -> np.ndarray:
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(path))  # (Z, Y, X), then channels
        except RuntimeError:  # which says in what line of its source, and calls any cause a missing file
            raise OSError("SimpleITK cannot read its voxels to their end") from None
        return array.transpose(*reversed(range(len(size))), *range(len(size), array.ndim))

    affine = np.eye(4)
    if len(size) >= 3:  # the fourth axis of a file holds channels; a picture of two is refused for its shape
        direction = np.reshape(header.GetDirection(), (len(size), len(size)))[:3, :3]
        affine[:3, :3], affine[:3, 3] = direction * header.GetSpacing()[:3], header.GetOrigin()[:3]
    one_voxel = sitk.Image([1] * len(size), header.GetPixelID(), channels)  # it tells the type of the values
    return Volume(path, kind, shape, to_ras(affine), sitk.GetArrayViewFromImage(one_voxel).dtype, read)


def _unreadable(path: str, kind: str, error: BaseException) -> UserError:
    # its last line: SimpleITK begins with where in its source it happened
    reason = ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:160]
    return UserError(f"{path}: cannot be read as {kind} ({reason}): copy or download it again, or leave it out.")


class ScanReader(ImageReader):
    """MONAI's way to `open_volume`: ``LoadImaged(keys="image", reader=ScanReader())``.

    Gives arrays (X, Y, Z) or (X, Y, Z, C); files of a list are stacked as channels. Its metadata hold ``affine`` and
    ``original_affine`` (RAS+, mm), ``spatial_shape``, ``original_channel_dim``; ``reader`` and ``warnings`` in words.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Every path: those that are no scan are refused by their name."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[str]:
        """The paths alone: an error here would make ``LoadImage`` try its other readers on what this one refuses."""
        return [str(path) for path in ensure_tuple(data)]

    def get_data(self, img: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """The voxels of the scans at these paths, and the metadata of the first.

        Raises:
            UserError: when a scan is refused.
        """
        volumes = [open_volume(path) for path in img]
        arrays = [volume.read() for volume in volumes]
        first, array = volumes[0], arrays[0]
        if len(arrays) > 1:  # some of which may have a trailing axis of 1
            array = np.concatenate([each.reshape(*each.shape[:3], -1) for each in arrays], axis=-1)
        channel_dim = float("nan") if array.ndim == 3 else -1
        told = dict.fromkeys(warning for volume in volumes for warning in volume.warnings)
        return array, {
            MetaKeys.AFFINE: first.affine,
            MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(first.shape[:3]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "reader": first.reader,
            "warnings": "; ".join(told),
        }
