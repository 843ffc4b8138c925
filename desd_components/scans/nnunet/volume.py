"""Cases that nnU-Net has preprocessed: arrays (C, X, Y, Z) in ``.b2nd``, ``.npy``, ``.npz``, on the grid of its plans.

Axes are those of the arrays, which nnU-Net calls z, y, x, or as its plans transpose them. The ``.pkl`` beside a case is
not opened, for reading it would execute it; what is needed stands in the plans.
"""

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import UserError, optional_module
from ...base.files import read_json
from ..volume import NNUNET_READER, Volume, refused_as


def nnunet_volume(path: str) -> Volume:
    """The header of a preprocessed case, its voxels unread.

    Raises:
        UserError: when no plans tell of its folder, it holds no array of four axes, or blosc2, which ``.b2nd`` needs,
            is not installed.
    """
    spacing = spacing_of(Path(path).parent)
    if spacing is None:
        raise UserError(f"{path}: is not a scan, nor a case of nnU-Net's: no plans beside its folder name that folder.")
    try:
        stored, dtype, read = _opened(path)
    except UserError:
        raise
    except Exception as error:
        raise refused_as(NNUNET_READER, path, error) from error
    if len(stored) != 4:
        raise refused_as(NNUNET_READER, path, ValueError(f"shape {stored}, not (C, X, Y, Z)"))
    channels, *space = stored
    shape = (*space, channels) if channels > 1 else tuple(space)

    def voxels() -> np.ndarray:
        try:
            array = np.asarray(read())
        except (zipfile.BadZipFile, RuntimeError) as error:  # of a checksum, and of blosc2
            raise OSError(str(error)) from error
        return np.moveaxis(array, 0, -1).reshape(shape)

    return Volume(path, NNUNET_READER, shape, np.diag([*spacing, 1.0]), dtype, voxels)


def _opened(path: str) -> tuple[tuple[int, ...], np.dtype, Callable[[], Any]]:
    """Shape and type of the array in a file, and what reads it."""
    if path.endswith(".b2nd"):
        blosc2 = optional_module("blosc2", "blosc2 is not installed: pip install blosc2, or preprocess to .npz.")
        array = blosc2.open(path, mode="r", dparams={"nthreads": 1})
        return tuple(array.shape), np.dtype(array.dtype), lambda: array[:]
    if path.endswith(".npy"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.shape, array.dtype, lambda: array
    with zipfile.ZipFile(path) as archive, archive.open("data.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype, lambda: np.load(path, allow_pickle=False)["data"]


@functools.lru_cache
def spacing_of(folder: Path) -> tuple[float, ...] | None:
    """mm between the voxels of a folder's cases, by the plans beside it; None where none names the folder."""
    for path in sorted(folder.parent.glob("*.json")):
        content = read_json(path)
        found = content.get("configurations") if isinstance(content, dict) else None
        for configuration in (found or {}).values():
            if configuration.get("data_identifier") == folder.name and len(configuration.get("spacing", ())) == 3:
                return tuple(map(float, configuration["spacing"]))
    return None
