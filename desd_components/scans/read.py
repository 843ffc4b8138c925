"""One reader for all formats: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, DICOM series by pydicom, and arrays.

`open_volume` reads a header and promises the voxels; the checks, the cache and `ScanReader`, which the configs give to
MONAI's ``LoadImaged``, all go through it. Differs from MONAI's readers: a DICOM series is checked before it is read
(`desd_components.scans.dicom.volume`), and what is refused is not handed on to the next reader.
"""

import contextlib
import gzip
import logging
import math
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from ..base.errors import UserError
from ..base.files import is_lfs_pointer
from .names import FORMATS, ITK_SUFFIXES, NIFTI_SUFFIXES, NNUNET_SUFFIXES, SUFFIXES, is_dicom
from .volume import UNREADABLE, Volume, dicom_room, itk_room, nnunet_room, not_read, refuse_rest, refused_as

# MONAI warns, at every loader, that a GPU decoder which nobody asked for is not there
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
_DEFLATE_LIMIT = 1032  # gzip makes nothing smaller than by that factor
_NIFTI_STARTS = tuple(struct.pack(order + "i", size) for size in (348, 540) for order in "<>")  # NIfTI-1 and NIfTI-2
_MM = {1: 1e3, 3: 1e-3}  # of a meter and a micron, by NIfTI's codes; any other unit is taken for mm


def open_volume(path: str | Path) -> Volume:
    """The header of a scan, its voxels unread.

    Args:
        path: a file, a folder that holds one DICOM series, or a slice that stands for the series it belongs to.

    Raises:
        UserError: when it is none of these, or is refused; one line that names it.
    """
    if problem := file_problem(str(path)):
        raise UserError(problem)
    volume = _opened(str(path))
    if found := _odd(volume):
        raise UserError(f"{volume.path}: {found}")

    def read() -> np.ndarray:
        try:
            return volume.read()
        except UserError:
            raise
        except UNREADABLE as error:
            raise not_read(volume.path, error) from error

    return replace(volume, read=read)


def _odd(volume: Volume) -> str | None:
    """Why no program of ours can use a volume, whatever it is to be."""
    affine, axes = volume.affine, volume.affine[:3, :3]
    if volume.dtype.names is not None:
        return "holds RGB voxels, not one value per voxel: convert it to a scalar volume or leave it out."
    if np.issubdtype(volume.dtype, np.complexfloating):
        return "holds complex voxels: write out their magnitude or leave it out."
    if not np.isfinite(affine).all() or not abs(np.linalg.det(axes)) > 1e-6 * np.linalg.norm(axes, axis=0).prod():
        return f"its affine is not a grid in space ({affine[:3].round(3).tolist()}): mend the header."
    return None


def file_problem(file: str) -> str | None:
    """A file that is missing, empty, or not there yet (git-LFS), in one line, or None."""
    if os.path.islink(file) and not os.path.exists(file):
        return f"{file}: is a link to {os.readlink(file)}, not there: fetch that (`git annex get`), or leave it out."
    if not os.path.exists(file):
        return f"{file}: does not exist: mend the data list or put the file there."
    if not (os.path.isfile(file) or os.path.isdir(file)):
        return f"{file}: is a pipe or a device, not a file: leave it out."
    if os.path.isdir(file) or not file.endswith(SUFFIXES):
        return None  # a DICOM series, whose slices are looked at one by one
    try:
        if is_lfs_pointer(file):
            return f"{file}: is a git-LFS pointer, not the scan itself: fetch it with `git lfs pull`."
    except OSError as error:
        return f"{file}: cannot be opened ({error.strerror}): mend its permissions or leave it out."
    return None if os.path.getsize(file) else f"{file}: is empty (0 bytes): copy or download it again."


def _opened(path: str) -> Volume:
    if path.endswith(NIFTI_SUFFIXES):
        return _nifti(path)
    if path.endswith(ITK_SUFFIXES):
        return itk_room(path).itk_volume(path)
    if path.endswith(NNUNET_SUFFIXES):
        return nnunet_room(path).nnunet_volume(path)
    if os.path.isdir(path) or is_dicom(path):
        room = dicom_room(path)
        return room.dicom_volume(room.series_at(path))
    raise UserError(f"{path}: is not a scan: give {FORMATS}.")


def parts(path: str) -> list[str]:
    """All files that a scan consists of: those of a series, a header with its data files, or the file alone."""
    if path.endswith(ITK_SUFFIXES):
        return [path, *itk_room(path).data_files(path)]
    if path.endswith(NIFTI_SUFFIXES) or not (os.path.isdir(path) or is_dicom(path)):
        return [path]
    return dicom_room(path).series_at(path).files


def _nifti(path: str) -> Volume:
    import nibabel

    _refuse_other_suffix(path)
    try:
        image: Any = nibabel.load(path)
        affine, dtype = np.array(image.affine, dtype=np.float64), np.dtype(image.get_data_dtype())
    except Exception as error:
        if path.endswith(".gz"):
            try:  # nibabel reads small files to their end at once, and keeps to itself what it met there
                with gzip.open(path) as stream:
                    stream.seek(0, os.SEEK_END)  # through all of it
            except UNREADABLE as fault:
                fault.__context__ = None  # which is nibabel's word
                raise not_read(path, fault) from error
        raise refused_as("NIfTI", path, error) from error
    sizes = tuple(int(size) for size in image.shape)
    if not image.header["sform_code"] and not (widths := stored_widths(path, image.header)[: len(sizes)]).all():
        told = " x ".join(f"{width:.4g}" for width in widths)
        raise UserError(f"{path}: says its voxels are {told} mm, and has no sform: mend its pixdim, or leave it out.")
    _refuse_impossible_size(path, sizes, dtype)
    if 0 <= image.dataobj.offset <= image.header.sizeof_hdr:
        within = ValueError(f"its voxels are said to begin at byte {image.dataobj.offset}, within the header")
        raise refused_as("NIfTI", path, within)
    shape = _with_channels_last(sizes)

    def read() -> np.ndarray:
        stored = image.dataobj
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as stream:
            form = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
            voxels = np.asanyarray(type(stored)(stream, form))
            stream.seek(stored.offset + math.prod(sizes) * dtype.itemsize)
            refuse_rest(stream, sizes, dtype)  # the checksum of gzip stands behind the last byte, and is compared there
        return voxels.reshape(shape, order="F")

    affine[:3] *= nifti_unit(image.header)
    return Volume(path, "NIfTI", shape, affine, dtype, read, header=image)


def _with_channels_last(stored: tuple[int, ...]) -> tuple[int, ...]:
    """(X, Y, Z) or (X, Y, Z, C) of a NIfTI's axes, where one at most holds channels: ITK writes (X, Y, Z, 1, C)."""
    space, *more = stored[:3], *stored[3:]
    return (*space, math.prod(more)) if more and sum(size > 1 for size in more) <= 1 else stored


def stored_widths(path: str, header: Any) -> np.ndarray:
    """The widths of a voxel, (3,) in mm, as the header of a NIfTI has them: nibabel takes a 0 for 1 mm."""
    from nibabel.openers import Opener

    with Opener(path) as stream:
        stored = type(header).from_fileobj(stream, check=False)
    return np.asarray(stored["pixdim"][1:4], dtype=np.float64) * nifti_unit(stored)


def nifti_unit(header: Any) -> float:
    """How many mm one unit of a NIfTI header's affines is."""
    return _MM.get(int(header["xyzt_units"]) & 7, 1.0)


def _refuse_other_suffix(path: str) -> None:
    """Refuse a compressed file whose name says that it is not, or the other way round."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        start, right = stream.read(4), path.removesuffix(".gz")
        is_gzip = start[:2] == b"\x1f\x8b"
        if is_gzip and path == right:
            raise UserError(f"{path}: is compressed, which its name does not say: rename it to {Path(path).name}.gz.")
        if not is_gzip and path != right and len(start) > 2:
            if start not in _NIFTI_STARTS:  # a page that says that one has to log in, for instance
                raise refused_as("NIfTI", path, ValueError("it is neither compressed by gzip nor a NIfTI"))
            raise UserError(f"{path}: is not compressed, as its name says: rename it to {Path(right).name}.")


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
