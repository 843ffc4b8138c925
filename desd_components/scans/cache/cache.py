"""Preprocess each volume once with stock MONAI transforms and keep it on disk, to be read through a memory map.

Differs from ``monai.data.PersistentDataset``: arrays are plain ``.npy`` files, so that a crop reads its own pages only;
the key holds the state of the transforms and of the files, so that a changed spacing or a changed scan is never
served from an old entry; voxels are checked on the way; disk need is said, and refused, beforehand. An entry is a
folder ``cache_dir/<transform>/<scan>/`` with one ``.npy`` per key and ``meta.json``; it appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
from monai.utils import ensure_tuple

from ...base.errors import UserError
from ...base.files import require_writable
from ...base.processes import patiently_gathered, place
from ..check import class_problem, file_problem, raise_problems, threaded, with_bar
from ..fingerprint import file_states
from ..names import Scan, first_names, scan_files
from .entries import is_label, read_meta
from .fingerprint import describe, flat_transforms
from .making import EntryMaker

logger = logging.getLogger(__name__)


FORMAT = 2  # of an entry on disk; part of its key
_SAMPLED_HEADERS = 200  # headers read for the estimate of the disk need


class VolumeCache:
    """Deterministic preprocessing of scans, kept on disk.

    Args:
        transform: stock MONAI dictionary transforms beginning with ``LoadImaged``: a Compose or a list; none random.
        cache_dir: where entries go; safe to delete at any time between runs.
        keys: entries of a scan to keep; those whose name starts with "label" are stored as whole numbers.
        dtype: of stored images, "float32" or "float16" (half the disk, three decimal digits).
        in_channels: channels every image must have.
        class_count: label values with the background's; None leaves them unchecked.
        num_workers: threads that make entries; 0 works in the caller's.

    Raises:
        UserError: when the settings cannot be used.
    """

    def __init__(
        self,
        transform: Any,
        cache_dir: str | Path,
        keys: Sequence[str] = ("image",),
        dtype: str = "float32",
        in_channels: int = 1,
        class_count: int | None = None,
        num_workers: int = 0,
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise UserError(f"the cache's dtype is {dtype!r}: give float32 or float16.")
        self.keys, self.in_channels, self.class_count = ensure_tuple(keys), in_channels, class_count
        self.num_workers = num_workers
        transforms, lazy = flat_transforms(transform), bool(getattr(transform, "lazy", False))
        if not transforms:
            raise UserError("the preprocessing is empty: it begins with LoadImaged and EnsureChannelFirstd.")
        self.maker = EntryMaker(transforms, lazy, self.keys, np.dtype(dtype), in_channels)
        state = [FORMAT, monai.__version__, dtype, self.keys, lazy, describe(transforms)]
        self.transform_hash = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]
        self.cache_dir = Path(cache_dir).expanduser().resolve()

    def folder(self, scan: Scan) -> Path:
        """Where a scan's entry lies or will lie, by the transforms and by path, size and time of its files.

        Raises:
            UserError: when one of its files is not there.
        """
        for file in scan_files(scan, self.keys):
            if not os.path.exists(file):  # what else may be wrong with it is told with the faults of the others
                raise UserError(file_problem(file) or f"{file}: is gone.")
        name = hashlib.sha256(json.dumps(file_states(scan, self.keys)).encode()).hexdigest()[:24]
        return self.cache_dir / self.transform_hash / name

    def prepare(self, scans: Sequence[Scan]) -> list[Path]:
        """Make the entries that are missing, and return all of them in the order of the scans: see `attempt`.

        Ranks of a process group share the work and meet at the end. Memory holds one volume per worker.

        Raises:
            UserError: listing every scan that cannot be used, or when the disk is too small.
        """
        folders, problems = self.attempt(scans)
        raise_problems(list(problems.values()), len(scans))
        return [folder for folder in folders if folder is not None]

    def attempt(self, scans: Sequence[Scan], skip: bool = False) -> tuple[list[Path | None], dict[int, str]]:
        """Like `prepare`, but bad scans are handed back: each is one line by its position in ``scans``.

        Args:
            scans: ``{"image": ...[, "label": ...]}``.
            skip: make the good entries although a file is missing; otherwise nothing is made then.

        Returns:
            The entry of each scan, None where there is none; and what is wrong with those that cannot be used.

        Raises:
            UserError: when a scan lacks a key, ``cache_dir`` cannot be used, or the disk is too small.
        """
        lacking = [scan for scan in scans if any(key not in scan for key in self.keys)]
        if lacking:
            what = f"{len(lacking)} scans lack one of {list(self.keys)}"
            raise UserError(f"{scan_files(lacking[0])}: {what}: add it.")
        if scans:
            require_writable(self.cache_dir, "cache_dir")
        rank, world = place()
        folders, problems = self._folders(scans)
        wanted = {folder: scan for folder, scan in zip(folders, scans, strict=True) if folder is not None}
        mine = {folder: wanted[folder] for folder in list(wanted)[rank::world] if not folder.exists()}
        full = self._disk_problem([wanted[folder] for folder in wanted if not folder.exists()], say=rank == 0)
        made = self._make(mine, show=rank == 0) if not full and (skip or not problems) else {}
        told = patiently_gathered([*full, *problems.items(), *_by_position(made, folders)])
        raise_problems([line for line in told if isinstance(line, str)], len(scans))
        problems = dict(line for line in told if not isinstance(line, str))
        if not problems or skip:
            good = {folder: wanted[folder] for n, folder in enumerate(folders) if folder and n not in problems}
            problems |= dict(patiently_gathered(_by_position(self._completed(good, rank == 0), folders)))
        return [None if n in problems else folder for n, folder in enumerate(folders)], dict(sorted(problems.items()))

    def _completed(self, good: dict[Path, Scan], show: bool) -> dict[Path, str]:
        """What is wrong with entries that all processes have made; what this one cannot see is made here."""
        left = {folder: scan for folder, scan in good.items() if not folder.exists()}  # on another machine's disk
        problems = self._make(left, show)
        told = {folder: self._meta_problem(folder, good[folder]) for folder in good if folder not in problems}
        return problems | {folder: line for folder, line in told.items() if line}

    def _folders(self, scans: Sequence[Scan]) -> tuple[list[Path | None], dict[int, str]]:
        folders: list[Path | None] = []
        problems = {}
        for position, scan in enumerate(scans):
            try:
                folders.append(self.folder(scan))
            except UserError as error:
                folders.append(None)
                problems[position] = str(error)
        return folders, problems

    def _make(self, wanted: dict[Path, Scan], show: bool) -> dict[Path, str]:
        """Make entries; returns one line for each that cannot be made."""
        if not wanted:
            return {}
        made = threaded(lambda item: self.maker.make(*item), wanted.items(), self.num_workers)
        bar = with_bar(made, len(wanted), "preprocessing", show=show)
        problems = {folder: found for folder, found in zip(wanted, bar, strict=True) if found}
        good = [(folder, key) for folder in wanted if folder not in problems for key in self.keys if is_label(key)]
        rounded = [scan_files(wanted[folder], (key,))[0] for folder, key in good if read_meta(folder)[key]["rounded"]]
        if rounded:
            told = "%d of %d labels hold numbers next to whole ones, which are rounded: %s"
            logger.warning(told, len(rounded), len(good), first_names(rounded))
        return problems

    def _disk_problem(self, scans: Sequence[Scan], say: bool) -> list[str]:
        """Say how much disk the entries will take; a list with one line when it is not there."""
        sample = scans[:: max(1, len(scans) // _SAMPLED_HEADERS)]
        sizes = [size for size in map(self.maker.estimated_bytes, sample) if size]
        if not sizes:
            return []
        need, free = len(scans) * sum(sizes) / len(sizes), shutil.disk_usage(self.cache_dir).free
        told = f"preprocessing {len(scans)} volumes into {self.cache_dir}: about {readable(need)} of disk needed"
        logger.log(logging.INFO if say else logging.DEBUG, "%s, %s free", told, readable(free))
        remedy = "set `cache_dir` to a larger disk, set `cache#dtype: float16`, or choose a coarser spacing."
        line = f"the preprocessed volumes need about {readable(need)}, but {readable(free)} are free: {remedy}"
        return [f"{self.cache_dir}: {line}"] if need > free else []

    def _meta_problem(self, folder: Path, scan: Scan) -> str | None:
        """What the settings of this run find wrong with an entry that an earlier run may have made."""
        for key, known in read_meta(folder).items():
            file, channels = scan_files(scan, (key,))[0], known["shape"][0]
            if is_label(key) and (found := class_problem(file, known["values"], self.class_count)):
                return found
            if not is_label(key) and channels != self.in_channels:
                return f"{file}: has {channels} channels, in_channels is {self.in_channels}: set it."
        return None


def _by_position(problems: dict[Path, str], folders: Sequence[Path | None]) -> list[tuple[int, str]]:
    """Problems of entries as problems of the scans that they belong to; a scan may be listed twice."""
    return [(n, problems[folder]) for n, folder in enumerate(folders) if folder is not None and folder in problems]


def readable(size: float) -> str:
    """Bytes for people."""
    unit = next((power for power in range(4) if size < 1000 ** (power + 1)), 4)
    return f"{size / 1000**unit:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"
