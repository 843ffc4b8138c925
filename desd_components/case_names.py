"""What cases are called: by the name of a file, with as many of the folders above it as tell the case from all others.

KiTS keeps ``imaging.nii.gz`` in a folder per case, BraTS several scans in each; there a file's name alone would say
nothing. What is called the same in tables, pictures, split files and results is the same scan.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .records import Record, first_single, path_tails, record_files
from .searching import stem, without_suffix

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
