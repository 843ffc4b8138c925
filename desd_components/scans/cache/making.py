"""Make one entry of the cache: load a scan, check it, preprocess it, check again, store it whole or not at all."""

import copy
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Spacingd

from ...base.errors import UserError, innermost_user_error, one_line
from ...base.files import told_if_unwritable
from ..check import header_problem, label_values, raw_problem
from ..label_maps import looks_like_labels
from ..names import Scan, scan_files
from ..read import ScanReader, open_volume
from ..volume import not_read
from .entries import is_label, write_entry

logger = logging.getLogger(__name__)

TRIMMED = 0.1  # of the width of a wide slice, taken off each in-plane border


@dataclass
class EntryMaker:
    """Makes entries, one at a time, by the settings of a `VolumeCache`; several threads may share it.

    Attributes:
        transforms: in order; the first is ``LoadImaged``.
        lazy: whether MONAI composes the spatial ones of them into one resampling.
    """

    transforms: Sequence[Any]
    lazy: bool
    keys: tuple[str, ...]
    dtype: np.dtype
    in_channels: int
    trim_wider_than: int | None = None
    _own: threading.local = field(default_factory=threading.local, repr=False)

    def make(self, path: Path, scan: Scan) -> str | None:
        """Make the entry of a scan as `path`; one line about what is wrong with the scan, or None.

        Raises:
            UserError: when the disk is full or fails.
        """
        scan = {key: scan[key] for key in self.keys}
        try:
            loaded = self._loaded(scan)
            seen = {key: _seen(_to_numpy(loaded[key]), is_label(key)) for key in self.keys}
            result = self._preprocessed(scan, loaded)
            arrays = {key: self._stored(_first_file(scan, key), key, _to_numpy(result[key])) for key in self.keys}
            meta = {key: seen[key] | self._described(scan, key, arrays[key], result[key]) for key in self.keys}
        except UserError as refused:
            return str(refused)
        with told_if_unwritable(path):
            write_entry(path, arrays, meta)
        return None

    def steps(self) -> tuple[Any, Compose]:
        """The loader and the rest, this thread's own: MONAI's readers remember the files of the call they are in."""
        if not hasattr(self._own, "steps"):
            load, *rest = copy.deepcopy(self.transforms)
            self._own.steps = load, Compose(rest, lazy=self.lazy)
        return self._own.steps

    def _loaded(self, scan: Scan) -> Mapping[Any, Any]:
        """The scan as it is stored, looked at before a clipping or resampling transform can hide NaN and the like."""
        if found := header_problem(scan, self.in_channels):
            raise UserError(found)
        try:
            loaded = self.steps()[0](scan)
        except Exception as error:
            refused = innermost_user_error(error) or not_read(_first_file(scan, self.keys[0]), error)
            raise UserError(str(refused)) from error
        for key in self.keys:
            if found := raw_problem(_first_file(scan, key), _to_numpy(loaded[key]), is_label(key)):
                stored = ScanReader().get_data(scan_files(scan, (key,)))[0]  # whose values float32 may not hold
                raise UserError(raw_problem(_first_file(scan, key), stored, is_label(key)) or found)
        return loaded

    def _preprocessed(self, scan: Scan, loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
        try:
            return dict(self.steps()[1](loaded))
        except Exception as error:
            what = f"preprocessing failed ({one_line(error)})"
            raise UserError(
                f"{_first_file(scan, self.keys[0])}: {what}: leave it out, or change the preprocessing."
            ) from error

    def _stored(self, file: str, key: str, array: np.ndarray) -> np.ndarray:
        """A preprocessed array (C, X, Y, Z) in the type it is stored with."""
        if array.ndim != 4:
            what = f"is {array.shape} after the preprocessing, not (C, X, Y, Z)"
            raise UserError(f"{file}: {what}: add EnsureChannelFirstd.")
        if found := raw_problem(file, array, is_label(key)):
            raise UserError(f"{found[:-1]} (seen after the preprocessing).")
        left, top = self.borders(*array.shape[1:3])
        array = array[:, left : array.shape[1] - left, top : array.shape[2] - top]
        if is_label(key):
            whole = np.rint(array)
            return whole.astype(_smallest_kind(whole))
        high = max(float(array.max()), -float(array.min()))
        if high > float(np.finfo(self.dtype).max):
            raise UserError(f"{file}: reaches {high:.3g}, too much for float16: set cache#dtype: float32.")
        return array.astype(self.dtype)

    def _described(self, scan: Scan, key: str, array: np.ndarray, result: Any) -> dict[str, Any]:
        """What an entry says of an array: shape, type, affine, the files it comes from, and how they were read."""
        source = scan_files(scan, (key,))
        meta: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "source": source}
        if isinstance(result, MetaTensor):
            meta |= {name: str(result.meta[name]) for name in ("reader", "warnings") if result.meta.get(name)}
            affine = result.affine.numpy().astype(np.float64)
            affine[:3, 3] += affine[:3, :2] @ self.borders(*result.shape[1:3])
            affines = {"affine": affine, "original_affine": result.meta.get("original_affine")}
            meta |= {name: np.asarray(a, np.float64).tolist() for name, a in affines.items() if a is not None}
        if is_label(key):
            meta["values"] = label_values(array)
        if "warnings" in meta:
            logger.warning("%s: %s", _first_file(scan, key), meta["warnings"])
        return meta

    def borders(self, x: int, y: int) -> tuple[int, int]:
        """Voxels to take off each border along x and y of slices of x by y voxels."""
        if self.trim_wider_than is None or max(x, y) <= self.trim_wider_than:
            return 0, 0
        return int(TRIMMED * x), int(TRIMMED * y)

    def estimated_bytes(self, scan: Scan) -> int:
        """Disk that an entry will take, from the scan's header and the target spacing; 0 for one that is not read."""
        try:
            header = open_volume(_first_file(scan, "image"))
            extent, spacing = np.array(header.ras_shape), np.array(header.ras_spacing)
        except (UserError, IndexError):  # the latter of two dimensions
            return 0  # the check of the scan will say what is wrong with it
        spacer = next((each for each in self.transforms if isinstance(each, Spacingd)), None)
        if spacer is not None:
            wanted = np.resize(np.asarray(spacer.spacing_transform.pixdim, float), 3)
            wanted = np.where(np.isfinite(wanted) & (wanted > 0), wanted, spacing)
            extent = np.round((extent - 1) * spacing / wanted) + 1
        labels = sum(map(is_label, self.keys))
        extent[:2] -= 2 * np.array(self.borders(*map(int, extent[:2])))
        return int(extent.prod() * ((len(self.keys) - labels) * self.in_channels * self.dtype.itemsize + labels))


def _seen(voxels: np.ndarray, label: bool) -> dict[str, bool]:
    """What voxels as stored in the file tell: of a label whether it is rounded, of an image if it looks like one."""
    if label:
        return {"rounded": not np.array_equal(voxels, np.rint(voxels))}
    return {"looks_like_labels": looks_like_labels(voxels)}


def _to_numpy(value: Any) -> np.ndarray:
    """A tensor or array as a numpy array without copying."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _first_file(scan: Scan, key: str) -> str:
    return scan_files(scan, (key,))[0]


def _smallest_kind(labels: np.ndarray) -> str:
    """The smallest type that holds all values of a label map."""
    low, high = int(labels.min()), int(labels.max())
    kinds = ("uint8", "int16", "int32")
    return next((kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), "int64")
