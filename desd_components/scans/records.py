"""Records of scans, as MONAI's dictionary transforms take them: their files, which of these are there, and a hash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .formats import stem, without_suffix
from .read import parts

logger = logging.getLogger(__name__)


SAMPLE = 16_384  # bytes of a file that are read where it begins, in its middle and at its end
Record = dict[str, Any]  # {"image": path or list of paths, one per channel[, "label": path]}


def record_files(record: Record, keys: Sequence[str] = ("image", "label")) -> list[str]:
    """All files of a record, in the order of ``keys``; an image of several files gives several."""
    files: list[str] = []
    for key in keys:
        entry = record.get(key)
        if entry is not None:
            files.extend(str(file) for file in (entry if isinstance(entry, list | tuple) else [entry]))
    return files


def path_tails(path: str | Path) -> list[str]:
    """``c.nii``, ``b/c.nii``, ``a/b/c.nii`` of ``/a/b/c.nii``: all that a path may be called, the shortest first."""
    parts = Path(path).relative_to(Path(path).anchor).parts
    return ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]


def first_single(names: Sequence[str], counts: Counter[str]) -> str:
    """The first name that at most one case has; the longest, where others have all of them."""
    return next((name for name in names if counts[name] < 2), names[-1])


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def first_names(paths: Iterable[str | Path], among: Iterable[str | Path] = (), count: int = 3) -> str:
    """The first few file names, for a message, with as many folders as tell each from all others.

    Args:
        paths: of the files.
        among: all files that they may be taken for, themselves as well or not.
        count: how many are named.
    """
    files = [str(path) for path in paths]
    counts = Counter(tail for file in {*files, *map(str, among)} for tail in path_tails(file))
    named = [first_single(path_tails(file), counts) for file in files[:count]]
    return first_few([*named, *files[count:]], count)


def present(records: list[Record], source: Path) -> list[Record]:
    """The records whose files exist; those left out are counted in the log (a Decathlon folder may come in part)."""
    absent = [file for record in records for file in record_files(record) if not os.path.exists(file)]
    if absent:
        names = first_names(absent, (file for record in records for file in record_files(record)))
        logger.warning("%s lists %d files that do not exist; left out: %s", source, len(absent), names)
    return [record for record in records if all(os.path.exists(file) for file in record_files(record))]


def note_links(records: Sequence[Record], folder: Path) -> None:
    """Count in the log the files that links lead out of a folder; they are read all the same, see SECURITY.md."""
    root = Path(os.path.realpath(folder))
    files = [file for record in records for file in record_files(record)]
    outside = [file for file in files if not Path(os.path.realpath(file)).is_relative_to(root)]
    if outside:
        logger.info(
            "%s: %d of %d files are links that lead out of it: %s",
            folder,
            len(outside),
            len(files),
            first_names(outside, files),
        )


def records_hash(sections: dict[str, list[Record]]) -> str:
    """A hash of what a run was given: section, names and sizes of all files; the place of the data does not enter."""
    everything = [file for records in sections.values() for record in records for file in record_files(record)]
    root = os.path.commonpath([os.path.dirname(file) for file in everything]) if everything else ""
    lines = []
    for section, records in sorted(sections.items()):
        for record in records:
            files = [(os.path.relpath(file, root), _size(file)) for file in record_files(record)]
            lines.append(json.dumps([section, files]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def data_fingerprint(sections: dict[str, list[Record]]) -> str:
    """How many scans a run was given, and a hash that also tells when their voxels have changed: for its state.

    It reads 16 kB at the beginning, in the middle and at the end of each file; of a series, of three slices.
    """
    found = hashlib.sha256(records_hash(sections).encode())
    everything = [file for records in sections.values() for record in records for file in record_files(record)]
    for file in sorted(filter(os.path.exists, everything)):
        whole = parts(file)
        for part in (whole[0], whole[len(whole) // 2], whole[-1]):
            found.update(_sample(part))
    return f"{sum(map(len, sections.values()))} scans, contents {found.hexdigest()[:12]}"


def _sample(file: str) -> bytes:
    size, read = os.path.getsize(file), []
    with open(file, "rb") as stream:
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            stream.seek(max(0, start))
            read.append(stream.read(SAMPLE))
    return b"".join(read)


def _size(file: str) -> int:
    """Bytes of a scan, of all slices where it is a series; -1 where it is missing."""
    return sum(map(os.path.getsize, parts(file))) if os.path.exists(file) else -1


_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")  # nnU-Net's file names: case_0000, case_0001, ... one file per channel


def without_channel(name: str) -> str:
    """nnU-Net's case of a file's stem: ``case`` of ``case_0000``."""
    return _CHANNEL_SUFFIX.sub("", name)


def case_ids(record: Record) -> list[str]:
    """The names under which a split file may list a record, the likeliest first."""
    first = Path(record_files(record, ("image",))[0])
    alone, *tails = [without_suffix(tail) for tail in path_tails(first)]
    names = [alone, without_channel(alone), *tails[:1], first.parent.name, *tails[1:]]
    if "label" in record:
        names.insert(0, stem(record["label"]))
    return list(dict.fromkeys(names))


class CaseNames:
    """Names for the cases of one data set, each fitting one case alone.

    They hold for any part of the data: whoever scores three scans of a hundred calls them as the hundred do. A case
    that cannot be mistaken for another keeps the short name of its file.

    Args:
        records: ``{"image": path or [path per channel][, "label": path]}`` of all cases; one may stand there twice. By
            default none is known, and each case is called by its file alone.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        cases = {tuple(record_files(record)): record for record in records}.values()
        images = {record_files(record, ("image",))[0] for record in cases}
        self._ids = Counter(name for record in cases for name in case_ids(record))
        self._tails = Counter(tail for image in images for tail in path_tails(image))

    def id(self, record: Record) -> str:
        """The case id for a split file: the first of `case_ids` that names no other case."""
        return first_single(case_ids(record), self._ids)

    def file(self, image: str | Path) -> str:
        """The file of an image, or of its first channel: ``imaging.nii.gz``, or ``case_00000/imaging.nii.gz``."""
        return first_single(path_tails(image), self._tails)

    def image(self, image: str | Path) -> str:
        """The same without the suffix of the format, for people to read."""
        return without_suffix(self.file(image))
