"""Preprocess each volume once with stock MONAI transforms and keep it on disk, to be read through a memory map.

Differs from ``monai.data.PersistentDataset``: arrays are plain ``.npy`` files, so that a crop reads its own pages only;
the key holds the state of the transforms and of the files, so that a changed spacing or a changed scan is never
served from an old entry; voxels are checked on the way; disk need is said, and refused, beforehand. An entry is a
folder ``cache_dir/<transform>/<record>/`` with one ``.npy`` per key and ``meta.json``; it appears whole or not at all.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import torch.distributed as dist
from monai.transforms import Compose, LoadImaged, Orientationd, Spacingd

from .checks import (
    class_problem,
    file_problem,
    header_problem,
    label_values,
    one_line,
    raise_problems,
    raw_problem,
    require_writable,
    threaded,
    unreadable,
)
from .entries import META_FILE, described, is_label, read_meta, to_numpy
from .errors import UserError, innermost_user_error
from .fingerprint import describe, flat_transforms
from .reading import open_volume, parts
from .scans import Record, record_files
from .searching import FORMATS

logger = logging.getLogger(__name__)

FORMAT = 1  # of an entry on disk; part of its key
_SAMPLED_HEADERS = 200  # headers read for the estimate of the disk need


class VolumeCache:
    """Deterministic preprocessing of records, kept on disk.

    Args:
        transform: stock MONAI dictionary transforms beginning with ``LoadImaged``: a Compose or a list; none random.
        cache_dir: where entries go; safe to delete at any time between runs.
        keys: entries of a record to keep; those whose name starts with "label" are stored as whole numbers.
        dtype: of stored images, "float32" or "float16" (half the disk, three decimal digits).
        in_channels: channels every image must have.
        class_count: classes with the background; None leaves label values unchecked.

    Raises:
        UserError: when the settings or ``cache_dir`` cannot be used.
    """

    def __init__(
        self,
        transform: Any,
        cache_dir: str | Path,
        keys: Sequence[str] = ("image",),
        dtype: str = "float32",
        in_channels: int = 1,
        class_count: int | None = None,
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise UserError(f"the cache's dtype is {dtype!r}: give float32 or float16.")
        self.keys = tuple(keys)
        self.dtype = np.dtype(dtype)
        self.in_channels, self.class_count = in_channels, class_count
        self.transforms = flat_transforms(transform)
        if not self.transforms:
            raise UserError("the preprocessing is empty: it begins with LoadImaged and EnsureChannelFirstd.")
        self._lazy = bool(getattr(transform, "lazy", False))
        self._own = threading.local()
        state = [
            FORMAT,
            monai.__version__,
            str(self.dtype),
            self.keys,
            self._lazy,
            describe(self.transforms),
        ]
        self.transform_hash = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]
        self.cache_dir = require_writable(cache_dir, "cache_dir").resolve()

    def _steps(self) -> tuple[Any, Compose]:
        """The loader and the rest, this thread's own: MONAI's readers remember the files of the call they are in."""
        if not hasattr(self._own, "steps"):
            first, *rest = copy.deepcopy(self.transforms)
            load, rest = (first, rest) if isinstance(first, LoadImaged) else (dict, [first, *rest])
            self._own.steps = load, Compose(rest, lazy=self._lazy)
        steps: tuple[Any, Compose] = self._own.steps
        return steps

    def folder(self, record: Record) -> Path:
        """Where a record's entry lies or will lie, by the transforms and by path, size and time of its files.

        Raises:
            UserError: when one of its files is not there.
        """
        state = []
        for file in record_files(record, self.keys):
            if not os.path.exists(file):  # what else may be wrong with it is told with the faults of the others
                raise UserError(file_problem(file) or f"{file}: is gone.")
            for part in parts(file):
                status = os.stat(part)
                state.append([os.path.abspath(part), status.st_size, status.st_mtime_ns])
        name = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:24]
        return self.cache_dir / self.transform_hash / name

    def prepare(self, records: Sequence[Record], num_workers: int = 0) -> list[Path]:
        """Make the entries that are missing, and return all of them in the order of the records.

        Ranks of a process group share the work and meet at the end. Memory holds one volume per worker.

        Args:
            records: ``{"image": ...[, "label": ...]}``.
            num_workers: threads; 0 works in this one.

        Raises:
            UserError: listing every record that cannot be used, or when the disk is too small.
        """
        folders, problems = self.attempt(records, num_workers)
        raise_problems(list(problems.values()), len(records))
        return [folder for folder in folders if folder is not None]

    def attempt(
        self, records: Sequence[Record], num_workers: int = 0, skip: bool = False
    ) -> tuple[list[Path | None], dict[int, str]]:
        """Like `prepare`, but bad records are handed back: each is one line by its position in ``records``.

        Args:
            records: ``{"image": ...[, "label": ...]}``.
            num_workers: threads; 0 works in this one.
            skip: make the good entries although a file is missing; otherwise nothing is made then.

        Returns:
            The entry of each record, None where there is none; and what is wrong with those that cannot be used.

        Raises:
            UserError: when there is no record, one lacks a key, or the disk is too small.
        """
        if not records:
            raise UserError(f"there is no scan to work on: is dataset_dir right, and are its files {FORMATS}?")
        lacking = [record for record in records if any(key not in record for key in self.keys)]
        if lacking:
            raise UserError(
                f"{record_files(lacking[0])}: {len(lacking)} records lack one of {list(self.keys)}: add it."
            )
        world, rank = (dist.get_world_size(), dist.get_rank()) if distributed() else (1, 0)
        folders, problems = self._folders(records)
        wanted = {folder: record for folder, record in zip(folders, records, strict=True) if folder is not None}
        mine = {folder: wanted[folder] for folder in list(wanted)[rank::world] if not folder.exists()}
        full = self._disk_problem([wanted[folder] for folder in wanted if not folder.exists()], say=rank == 0)
        made = self._make(mine, num_workers, show=rank == 0) if not full and (skip or not problems) else {}
        told = gathered([*full, *problems.items(), *_by_position(made, folders)])
        raise_problems([line for line in told if isinstance(line, str)], len(records))
        problems = dict(line for line in told if not isinstance(line, str))
        if not problems or skip:
            # Ranks on another machine do not see this disk: what is still missing here is made here.
            good = {folder: wanted[folder] for n, folder in enumerate(folders) if folder and n not in problems}
            left = {folder: record for folder, record in good.items() if not folder.exists()}
            made = self._make(left, num_workers, show=rank == 0)
            made |= self._meta_problems({folder: good[folder] for folder in good if folder not in made})
            problems |= dict(gathered(_by_position(made, folders)))
        return [None if n in problems else folder for n, folder in enumerate(folders)], dict(sorted(problems.items()))

    def _folders(self, records: Sequence[Record]) -> tuple[list[Path | None], dict[int, str]]:
        folders: list[Path | None] = []
        problems = {}
        for position, record in enumerate(records):
            try:
                folders.append(self.folder(record))
            except UserError as error:
                folders.append(None)
                problems[position] = str(error)
        return folders, problems

    def _make(self, wanted: dict[Path, Record], num_workers: int, show: bool) -> dict[Path, str]:
        """Make entries; returns one line for each that cannot be made."""
        if not wanted:
            return {}
        from tqdm import tqdm

        made = threaded(lambda item: self._make_one(*item), wanted.items(), num_workers)
        interval = 0.5 if sys.stderr.isatty() else 30.0  # a log file wants a line now and then, not a moving bar
        bar = tqdm(made, total=len(wanted), desc="preprocessing", unit="volume", mininterval=interval, disable=not show)
        return {folder: found for folder, found in zip(wanted, bar, strict=True) if found}

    def _make_one(self, folder: Path, record: Record) -> str | None:
        """Preprocess, check and store one record; one line about what is wrong with it, or None."""
        record = {key: record[key] for key in self.keys}
        files = record_files(record, self.keys)
        if found := header_problem(record, self.in_channels):
            return found
        load, rest = self._steps()
        try:
            loaded = load(record)
        except Exception as error:
            refused = innermost_user_error(error)
            return str(refused) if refused else unreadable(_named_file(error, files), error)
        if found := self._raw_problem(record, loaded):
            return found
        try:
            result = rest(loaded)
        except Exception as error:
            return f"{files[0]}: preprocessing failed ({one_line(error)}): leave it out, or change the preprocessing."
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, Any] = {}
        for key in self.keys:
            file = record_files(record, (key,))[0]
            array, found = self._stored(file, key, to_numpy(result[key]))
            if found:
                return found
            arrays[key] = array
            meta[key] = described(array, result[key], record_files(record, (key,)))
            if is_label(key):
                meta[key]["values"] = label_values(array)
            if "warnings" in meta[key]:
                logger.warning("%s: %s", file, meta[key]["warnings"])
        return self._write(folder, arrays, meta)

    def _raw_problem(self, record: Record, loaded: Mapping[Any, Any]) -> str | None:
        """NaN and the like, looked for before a clipping or resampling transform can hide them."""
        for key in self.keys:
            value = loaded[key]
            if not isinstance(value, np.ndarray | torch.Tensor):
                continue  # the transform does not begin with LoadImaged: the result alone is checked
            if found := raw_problem(record_files(record, (key,))[0], to_numpy(value), is_label(key)):
                return found
        return None

    def _stored(self, file: str, key: str, array: np.ndarray) -> tuple[np.ndarray, str | None]:
        """The array in the type it is stored with, and what is wrong with it after the preprocessing."""
        if array.ndim != 4:
            return (
                array,
                f"{file}: is {array.shape} after the preprocessing, not (C, X, Y, Z): add EnsureChannelFirstd.",
            )
        if found := raw_problem(file, array, is_label(key)):
            return array, f"{found[:-1]} (seen after the preprocessing)."
        if is_label(key):
            low, high = int(array.min()), int(array.max())
            kinds = ("uint8", "int16", "int32")
            kind = next((kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), "int64")
            return array.astype(kind), None
        with np.errstate(over="ignore"):  # found below
            stored = array.astype(self.dtype)
        if not np.isfinite(stored).all():
            return array, f"{file}: reaches {np.abs(array).max():.3g}, too much for float16: cache with dtype float32."
        return stored, None

    def _write(self, folder: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> str | None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            for key, array in arrays.items():
                np.save(temporary / f"{key}.npy", array)
            (temporary / META_FILE).write_text(json.dumps(meta), encoding="utf-8")
            temporary.chmod(0o755)
            temporary.rename(folder)
            return None
        except OSError as error:
            if folder.exists():  # another process was faster, with the same result
                return None
            return f"{folder.parent}: cannot be written to ({error.strerror}): set `cache_dir` to another disk."
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _disk_problem(self, records: Sequence[Record], say: bool) -> list[str]:
        """Say how much disk the entries will take; a list with one line when it is not there."""
        sample = records[:: max(1, len(records) // _SAMPLED_HEADERS)]
        sizes = [size for size in (estimated_bytes(record, self) for record in sample) if size]
        if not sizes:
            return []
        need, free = len(records) * sum(sizes) / len(sizes), shutil.disk_usage(self.cache_dir).free
        logger.log(
            logging.INFO if say else logging.DEBUG,
            "preprocessing %d volumes into %s: about %s of disk needed, %s free",
            len(records), self.cache_dir, readable(need), readable(free),
        )  # fmt: skip
        if need <= free:
            return []
        return [
            f"{self.cache_dir}: the preprocessed volumes need about {readable(need)}, but {readable(free)} are free: "
            "set `cache_dir` to a larger disk, cache as float16, or choose a coarser spacing."
        ]

    def _meta_problems(self, wanted: dict[Path, Record]) -> dict[Path, str]:
        """What the settings of this run find wrong with entries that an earlier run made."""
        problems: dict[Path, str] = {}
        for folder, record in wanted.items():
            meta = read_meta(folder)
            for key in self.keys:
                file, found = record_files(record, (key,))[0], None
                if is_label(key):
                    found = class_problem(file, meta[key]["values"], self.class_count)
                elif meta[key]["shape"][0] != self.in_channels:
                    found = f"{file}: has {meta[key]['shape'][0]} channels, in_channels is {self.in_channels}: set it."
                if found:
                    problems.setdefault(folder, found)
        return problems


def _by_position(problems: dict[Path, str], folders: Sequence[Path | None]) -> list[tuple[int, str]]:
    """Problems of entries as problems of the records that they belong to; a scan may be listed twice."""
    return [(n, problems[folder]) for n, folder in enumerate(folders) if folder is not None and folder in problems]


def _named_file(error: BaseException, files: Sequence[str]) -> str:
    """The file that an error's chain names, else the first."""
    chain: BaseException | None = error
    while chain is not None:
        if found := next((file for file in files if file in str(chain)), None):
            return found
        chain = chain.__cause__ or chain.__context__
    return files[0]


def estimated_bytes(record: Record, cache: VolumeCache) -> int:
    """Disk that a record's entry will take, from its header and the target spacing; 0 for a header that is not read."""
    import nibabel

    try:
        header = open_volume(record_files(record, ("image",))[0])
        extent, spacing = np.array(header.shape[:3]), np.linalg.norm(header.affine[:3, :3], axis=0)
    except (UserError, OSError):
        return 0  # the check of the record will say what is wrong with it
    spacer = next((each for each in cache.transforms if isinstance(each, Spacingd)), None)
    if spacer is not None:
        if any(isinstance(each, Orientationd) for each in cache.transforms):
            order = np.argsort(nibabel.io_orientation(header.affine)[:, 0])
            extent, spacing = extent[order], spacing[order]
        wanted = np.resize(np.asarray(spacer.spacing_transform.pixdim, float), 3)
        wanted = np.where(np.isfinite(wanted) & (wanted > 0), wanted, spacing)
        extent = np.round((extent - 1) * spacing / wanted) + 1
    labels = sum(map(is_label, cache.keys))
    bytes_per_voxel = (len(cache.keys) - labels) * cache.in_channels * cache.dtype.itemsize + labels
    return int(extent.prod() * bytes_per_voxel)


def readable(size: float) -> str:
    """Bytes for people."""
    unit = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**unit:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"


def distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def gathered(problems: list[Any]) -> list[Any]:
    """The problems of all ranks; also the place where they wait for each other.

    A group of its own, because preprocessing may take hours and NCCL's default patience is ten minutes.
    """
    if not distributed() or dist.get_world_size() == 1:
        return problems
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=14))
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, problems, group=group)
    dist.destroy_process_group(group)
    return list(dict.fromkeys(line for part in lists for line in part))
