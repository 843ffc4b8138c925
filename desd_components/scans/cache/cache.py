"""Preprocess each volume once with MONAI transforms and keep it on disk, to be read box by box.

Differs from ``monai.data.PersistentDataset``: a crop reads its own pages only; the key holds the state of the
transforms and of the files, so that a changed spacing or a changed scan is never served from an old entry; voxels are
checked on the way; disk need is said, and refused, beforehand. An entry is one file,
``cache_dir/<transform>/<scan>.safetensors``; it appears whole or not at all. Of the processes that see one disk a
single one looks at what lies there, and tells the others; all of them make what is missing.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple

from ...base.errors import UserError
from ...base.files import readable, require_writable
from ...base.processes import patiently_gathered, place
from ..check import class_problem, raise_problems, threaded, with_bar
from ..fingerprint import file_states
from ..names import Scan, scan_files, tell_left_out
from ..read import file_problem
from .entries import LAYOUT, SUFFIX, is_label, read_meta
from .fingerprint import describe, flat_transforms
from .making import TRIMMED, EntryMaker

logger = logging.getLogger(__name__)


_Seen = tuple[Path | None, dict[str, Any] | None, str | None]  # where an entry lies, what is known of it, what is wrong
_SAMPLED_HEADERS = 200  # headers read for the estimate of the disk need
_SHARED = ("shape", "values", "rounded", "looks_like_labels")  # what all processes are told of an entry


class VolumeCache:
    """Deterministic preprocessing of scans, kept on disk.

    Args:
        transform: MONAI dictionary transforms beginning with ``LoadImaged``: a Compose or a list; none random.
        cache_dir: where entries go; safe to delete at any time between runs.
        keys: entries of a scan to keep; those whose name starts with "label" are stored as whole numbers.
        dtype: of stored images, "float32" or "float16" (half the disk, three decimal digits).
        in_channels: channels every image must have.
        class_count: label values with the background's; None leaves them unchecked.
        num_workers: threads that make entries; 0 works in the caller's.
        trim_wider_than: slices wider than that (voxels) lose a tenth at each in-plane border; None never trims.

    Attributes:
        facts: what is known of each entry that was asked for: per key its shape, (C, X, Y, Z), and what voxels told.

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
        trim_wider_than: int | None = None,
    ) -> None:
        if dtype not in ("float32", "float16"):
            raise UserError(f"the cache's dtype is {dtype!r}: give float32 or float16.")
        self.keys, self.in_channels, self.class_count = ensure_tuple(keys), in_channels, class_count
        self.num_workers = num_workers
        transforms, lazy = flat_transforms(transform), bool(getattr(transform, "lazy", False))
        if not transforms or not isinstance(transforms[0], LoadImaged):
            raise UserError("the preprocessing does not begin with LoadImaged: add it, and EnsureChannelFirstd.")
        self.maker = EntryMaker(transforms, lazy, self.keys, np.dtype(dtype), in_channels, trim_wider_than)
        trim = (trim_wider_than, TRIMMED)
        state = [LAYOUT, monai.__version__, dtype, self.keys, lazy, trim, describe(transforms)]
        self.transform_hash = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]
        self.cache_dir = Path(cache_dir).expanduser().resolve()
        self.facts: dict[Path, dict[str, Any]] = {}
        self._paths: dict[tuple[str, ...], Path] = {}  # of those, by the files of their scans

    def path(self, scan: Scan) -> Path:
        """Where a scan's entry lies or will lie, by the transforms and by path, size and time of its files.

        Raises:
            UserError: when one of its files is not there.
        """
        for file in scan_files(scan, self.keys):
            if not os.path.exists(file):  # what else may be wrong with it is told with the faults of the others
                raise UserError(file_problem(file) or f"{file}: is gone.")
        name = hashlib.sha256(json.dumps(file_states(scan, self.keys)).encode()).hexdigest()[:24]
        return self.cache_dir / self.transform_hash / f"{name}{SUFFIX}"

    def prepare(self, scans: Sequence[Scan]) -> list[Path]:
        """Make the entries that are missing, and return all of them in the order of the scans: see `attempt`.

        Ranks of a process group share the work and meet at the end. Memory holds one volume per worker.

        Raises:
            UserError: listing every scan that cannot be used, or when the disk is too small.
        """
        paths, problems = self.attempt(scans)
        raise_problems(list(problems.values()), len(scans))
        return [path for path in paths if path is not None]

    def attempt(self, scans: Sequence[Scan], skip: bool = False) -> tuple[list[Path | None], dict[int, str]]:
        """Like `prepare`, but bad scans are handed back: each is one line by its position in ``scans``.

        Args:
            scans: ``{"image": ...[, "label": ...]}``; a cache looks at each of them once in its life.
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
        named = [tuple(scan_files(scan, self.keys)) for scan in scans]
        new = {files: scan for files, scan in zip(named, scans, strict=True) if files not in self._paths}
        problems = self._prepared(new, skip) if new else {}
        found = {position: problems[files] for position, files in enumerate(named) if files in problems}
        return [self._paths.get(files) for files in named], found

    def _prepared(self, new: Mapping[tuple[str, ...], Scan], skip: bool) -> dict[tuple[str, ...], str]:
        """Look for the entries of scans, make what is missing, and note what is good; one line for each that is not."""
        require_writable(self.cache_dir, "cache_dir")
        disk, scans = self._processes_here(), list(new.values())
        first, mine = disk[0], disk.index(place()[0])
        looked_up = list(threaded(self._look_up, scans, self.num_workers)) if mine == 0 else []
        seen: list[_Seen] = patiently_gathered(looked_up)[first]
        wanted = {path: scan for (path, facts, _), scan in zip(seen, scans, strict=True) if path and facts is None}
        full, made = None, {}
        try:
            if mine == 0:
                self._refuse_small_disk(list(wanted.values()), say=first == 0)
            if skip or not any(problem for _, _, problem in seen):
                made = self._make(dict(list(wanted.items())[mine :: len(disk)]), show=place()[0] == 0)
        except UserError as error:  # about the disk, not about a scan
            full = str(error)
        told = patiently_gathered((full, made))
        raise_problems(list(dict.fromkeys(line for line, _ in told if line)), len(scans))
        failed: dict[Path | None, str] = {path: line for _, lines in told for path, line in lines.items()}
        now: dict[Path | None, Any] = patiently_gathered({p: _facts(p) for p in wanted} if mine == 0 else {})[first]
        problems = {}
        for (files, scan), (path, facts, problem) in zip(new.items(), seen, strict=True):
            facts = facts or now.get(path)
            problem = problem or failed.get(path) or (self._facts_problem(facts, scan) if facts else None)
            if problem:
                problems[files] = problem
            elif path and facts:
                self._paths[files], self.facts[path] = path, facts
        if first == mine == 0:
            self._tell_rounded(wanted)
        return problems

    def _processes_here(self) -> list[int]:
        """The ranks that see this process's ``cache_dir``: all of them, or those of a node with a disk of its own."""
        if place()[1] == 1:
            return [0]
        mark = self.cache_dir / f"{secrets.token_hex(8)}.rank"
        mark.touch()
        marks = patiently_gathered(mark.name)
        here = [rank for rank, name in enumerate(marks) if (self.cache_dir / name).exists()]
        patiently_gathered(None)  # all have looked
        mark.unlink()
        return here

    def _look_up(self, scan: Scan) -> _Seen:
        try:
            path = self.path(scan)
        except UserError as error:
            return None, None, str(error)
        return path, _facts(path), None

    def _make(self, wanted: dict[Path, Scan], show: bool) -> dict[Path, str]:
        """Make entries; returns one line for each whose scan is bad.

        Raises:
            UserError: when the disk is full or fails.
        """
        made = threaded(lambda item: self.maker.make(*item), wanted.items(), self.num_workers)
        bar = with_bar(made, len(wanted), "preprocessing", show=show and len(wanted) > 0)
        return {path: found for path, found in zip(wanted, bar, strict=True) if found}

    def _tell_rounded(self, made: Mapping[Path, Scan]) -> None:
        labels = [(path, key) for path in made if path in self.facts for key in self.keys if is_label(key)]
        rounded = [scan_files(made[path], (key,))[0] for path, key in labels if self.facts[path][key]["rounded"]]
        told = f"of {len(labels)} labels hold numbers next to whole ones, which are rounded"
        tell_left_out(self.cache_dir, rounded, told)

    def _refuse_small_disk(self, scans: Sequence[Scan], say: bool) -> None:
        """Say how much disk the entries will take.

        Raises:
            UserError: when it is not there.
        """
        sample = scans[:: max(1, len(scans) // _SAMPLED_HEADERS)]
        sizes = [size for size in map(self.maker.estimated_bytes, sample) if size]
        need, free = len(scans) * sum(sizes) / max(1, len(sizes)), shutil.disk_usage(self.cache_dir).free
        if sizes:
            told = f"preprocessing {len(scans)} volumes into {self.cache_dir}: about {readable(need)} of disk needed"
            logger.log(logging.INFO if say else logging.DEBUG, "%s, %s free", told, readable(free))
        if need > free:
            raise UserError(
                f"{self.cache_dir}: the preprocessed volumes need about {readable(need)}, but {readable(free)} are "
                "free: set `cache_dir` to a larger disk, set `cache#dtype: float16`, or choose a coarser spacing."
            )

    def _facts_problem(self, facts: dict[str, Any], scan: Scan) -> str | None:
        """What the settings of this run find wrong with an entry that an earlier run may have made."""
        for key, known in facts.items():
            file, channels = scan_files(scan, (key,))[0], known["shape"][0]
            if is_label(key) and (found := class_problem(file, known["values"], self.class_count)):
                return found
            if not is_label(key) and channels != self.in_channels:
                return f"{file}: has {channels} channels, in_channels is {self.in_channels}: set it."
        return None


def _facts(path: Path) -> dict[str, Any] | None:
    """What all processes are told of an entry; None where it is to be made: it is not there, or not whole."""
    try:
        meta = read_meta(path)
    except UserError:
        return None
    return {key: {name: known[name] for name in _SHARED if name in known} for key, known in meta.items()}
