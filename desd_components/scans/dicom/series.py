"""DICOM series on disk: which files of a folder belong together, told by their headers and not by their names.

A series is one ``SeriesInstanceUID`` within one folder: a file for each slice, or one of many frames. Its path is the
folder where that holds no other series, else its first file, which stands for all of it. Left out, and said so:
localizers, single images, and objects that are no slices in space (reports, structure sets, DICOM-SEG).
"""

import functools
import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...base.errors import UserError, optional_module
from ..names import first_few, may_be_dicom, tell_left_out
from ..volume import UNREADABLE
from .slices import NO_READER, TAGS, Slice, files_of, read_dicom, slices_of

logger = logging.getLogger(__name__)


_NO_SLICES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "DOC", "FID"}  # modalities
_TAGS = ["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType", *TAGS]
_REMEMBERED_FOLDERS = 64


@dataclass(frozen=True)
class Series:
    """The slices of one series in one folder, by file name and frame.

    Attributes:
        path: what a data list names: the folder, or its first file.
        uid: ``SeriesInstanceUID``; may be empty where a tool for anonymising took it away.
        number: ``SeriesNumber``, or an empty text.
        description: ``SeriesDescription``, or an empty text.
        slices: all images of the series.
        unreadable: files of the folder that look like DICOM and cannot be read; whose they are is not known.
    """

    path: str
    uid: str
    number: str
    description: str
    slices: tuple[Slice, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def is_volume(self) -> bool:
        """Whether it is more than a single image."""
        return len(self.slices) > 1

    @property
    def files(self) -> list[str]:
        """The files that hold its slices."""
        return files_of(self.slices)

    def told(self) -> str:
        """In a message: what it is, and the file to name it by."""
        words = f"series {self.number or '?'} {self.description}".strip()
        return f"{words} ({len(self.slices)} slices, {os.path.basename(self.slices[0].file)})"


def series_paths(folder: str | Path) -> list[Path]:
    """The paths of all series of a folder that are volumes; what is left out goes to the log.

    Raises:
        UserError: when pydicom is not installed.
    """
    all_series = series_in(folder)
    if single := [series.told() for series in all_series if not series.is_volume]:
        logger.warning("%s: %d single images left out: %s", folder, len(single), first_few(single))
    return [Path(series.path) for series in all_series if series.is_volume]


def series_at(path: str | Path) -> Series:
    """The series that a path names.

    Args:
        path: a folder that holds one series, or a file of the series.

    Raises:
        UserError: when there is none, when a folder holds several, or when pydicom is not installed.
    """
    if os.path.isdir(path):
        known = series_in(path)
        fits = [series for series in known if series.is_volume] or known
        absence = "holds no DICOM series that can be read: name a file, or a folder with one series."
    else:
        fits = [series for series in series_in(os.path.dirname(path)) if os.path.abspath(path) in series.files]
        absence = "is no slice of a DICOM series (or cannot be read as one): copy it again or leave it."
    if len(fits) > 1:
        told = first_few([series.told() for series in fits])
        raise UserError(f"{path}: mixes {len(fits)} series: {told}: name one by a file of it, or give each a folder.")
    if not fits:
        raise UserError(f"{path}: {absence}")
    return fits[0]


def series_in(folder: str | Path) -> tuple[Series, ...]:
    """All series of a folder, its sub-folders not looked at, by their first file's name."""
    absolute = os.path.abspath(folder)
    return _series_in(absolute, os.stat(absolute).st_mtime_ns)


@functools.lru_cache(maxsize=_REMEMBERED_FOLDERS)
def _series_in(folder: str, changed: int) -> tuple[Series, ...]:
    """Remembered, for the check, the cache and the reader all ask; until the folder changes."""
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    headers = {file: _header(file) for file in files if os.path.isfile(file) and may_be_dicom(file)}
    unreadable = tuple(file for file, header in headers.items() if header is None)
    for reason, count in Counter(header for header in headers.values() if isinstance(header, str)).items():
        logger.info("%s: %d DICOM files left out: %s", folder, count, reason)
    tell_left_out(folder, unreadable, "files look like DICOM and cannot be read")
    groups: dict[str, list[Series]] = {}
    for part in headers.values():
        if isinstance(part, Series):
            groups.setdefault(part.uid, []).append(part)
    known = [
        replace(group[0], slices=tuple(one for part in group for one in part.slices), unreadable=unreadable)
        for group in groups.values()
    ]
    alone = sum(series.is_volume for series in known) == 1
    return tuple(replace(series, path=folder) if alone and series.is_volume else series for series in known)


def _header(file: str) -> Series | str | None:
    """The part of its series that a file holds; why it is no slice, in words; or None for what cannot be read."""
    pydicom = optional_module("pydicom", f"{file}: {NO_READER}")
    try:
        with open(file, "rb") as stream:
            header = read_dicom(stream, file, stop_before_pixels=True, specific_tags=_TAGS)
            has_pixels = stream.tell() < os.path.getsize(file)
        if header.file_meta.TransferSyntaxUID == pydicom.uid.DeflatedExplicitVRLittleEndian:
            has_pixels = "PixelData" in read_dicom(file, file)  # a deflated file is read to its end either way
        if reason := _no_slice(header):
            return reason
        told = [str(header.get(f"Series{name}") or "") for name in ("InstanceUID", "Number", "Description")]
        return Series(file, told[0], told[1], told[2], slices_of(file, header, has_pixels))
    except (pydicom.errors.InvalidDicomError, *UNREADABLE, TypeError, AttributeError, KeyError):
        return None


def _no_slice(header: Any) -> str | None:
    """Why a DICOM object is no slice of a volume, or None."""
    modality = str(header.get("Modality") or "")
    if modality in _NO_SLICES:
        return f"no slices but {modality}"
    kind = header.get("ImageType") or ()
    if "LOCALIZER" in ([kind] if isinstance(kind, str) else kind):
        return "localizers"
    return None if header.get("Rows") and header.get("Columns") else "no images"
