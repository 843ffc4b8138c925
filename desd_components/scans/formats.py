"""The formats of scans, by the suffixes of their files, and the names that results get."""

from __future__ import annotations

import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
FORMATS = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd or DICOM series"
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
