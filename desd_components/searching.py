"""Looking for scans below a folder: files of the formats that are read, and folders with DICOM series in them."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from .dicom_series import may_be_dicom, series_paths
from .volumes import MissingPackage

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
FORMATS = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd or DICOM series"
_LFS = b"version https://git-lfs"
_SUFFIX = re.compile(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm|ima)$", re.IGNORECASE)


def stem(path: str | Path) -> str:
    """The name of a scan: that of its file without the format's suffix, or that of its series' folder."""
    return without_suffix(Path(path).name)


def without_suffix(path: str) -> str:
    """A path without the suffix of a scan's format; the folders in front stay."""
    return _SUFFIX.sub("", path)


def result_name(path: str | Path, postfix: str = "", extension: str | None = None) -> str:
    """The file name of a scan's result: of the given extension, or NIfTI, compressed unless the scan is not."""
    return f"{stem(path)}{postfix}{extension or ('.nii' if Path(path).name.endswith('.nii') else '.nii.gz')}"


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file only says where git-LFS keeps its content."""
    with open(path, "rb") as stream:
        return stream.read(len(_LFS)) == _LFS


def miscased_paths(folder: Path) -> list[Path]:
    """Files below a folder that would be scans if their suffix were in small letters, as all writers have it."""
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names if not name.startswith("."))
    return sorted(path for path in files if _is_miscased(path.name))


def _is_miscased(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.endswith(SUFFIXES)


def scan_paths(folder: Path) -> list[Path]:
    """All scans below a folder, sorted; hidden files and folders (``._*``) are ignored.

    Links are followed, those to folders too, each folder once.
    A DICOM series is named by its folder, or by its first slice where a folder holds several series.

    Raises:
        UserError: when there are DICOM files alone, and pydicom is not installed.
    """
    found: list[Path] = []
    seen: set[str] = set()
    missing: MissingPackage | None = None
    miscased: list[str] = []
    for directory, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link to a folder above itself would be walked for ever
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in files if not name.startswith(".")]
        found += [Path(directory, name) for name in names if name.endswith(SUFFIXES)]
        miscased += [name for name in names if _is_miscased(name)]
        if any(may_be_dicom(os.path.join(directory, name)) for name in names):
            try:
                found += series_paths(directory)
            except MissingPackage as error:
                missing = error
    if miscased:
        logger.warning(
            "%s: %d files are left out, for their suffix is not in small letters; rename them: %s",
            folder, len(miscased), ", ".join(sorted(miscased)[:3]),
        )  # fmt: skip
    if missing is not None:
        if not found:
            raise missing
        logger.warning("DICOM files are left out: %s", missing)
    return sorted(found)
