"""The formats of scans, by the suffixes and the first bytes of their files, and the names that results get."""

from __future__ import annotations

import os
import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
FORMATS = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd or DICOM series"
_SUFFIX = re.compile(r"\.(nii(\.gz)?|nrrd|nhdr|mha|mhd|dcm|ima)$", re.IGNORECASE)
_DICOM_SUFFIXES = (".dcm", ".ima")
# files that people keep beside scans; the first bytes of anything else are looked at
_OTHER_SUFFIXES = (
    ".nii", ".gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".json", ".txt", ".csv", ".tsv", ".md", ".png", ".jpg",
    ".xml", ".npy", ".npz", ".zip", ".pt", ".py", ".yaml", ".yml", ".pdf", ".log",
)  # fmt: skip
# tags (0002,0000), (0008,0000), (0008,0005), (0008,0008): the first of a file without preamble, as they lie there
_FIRST_ELEMENTS = (b"\2\0\0\0", b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0")


def stem(path: str | Path) -> str:
    """The name of a scan: that of its file without the format's suffix, or that of its series' folder."""
    return without_suffix(Path(path).name)


def without_suffix(path: str) -> str:
    """A path without the suffix of a scan's format; the folders in front stay."""
    return _SUFFIX.sub("", path)


def result_name(path: str | Path, postfix: str = "", extension: str | None = None) -> str:
    """The file name of a scan's result: of the given extension, or NIfTI, compressed unless the scan is not."""
    return f"{stem(path)}{postfix}{extension or ('.nii' if Path(path).name.endswith('.nii') else '.nii.gz')}"


def may_be_dicom(file: str) -> bool:
    """Whether a file is worth a look: by its suffix, or by how it begins."""
    lower = file.lower()
    return lower.endswith(_DICOM_SUFFIXES) or (not lower.endswith(_OTHER_SUFFIXES) and is_dicom(file))


def is_dicom(file: str) -> bool:
    """Whether a file bears DICOM's suffix or mark, or begins as DICOM does where the mark was left out."""
    if not os.path.isfile(file):  # a named pipe would be waited for, without end
        return False
    if file.lower().endswith(_DICOM_SUFFIXES):
        return True
    try:
        with open(file, "rb") as stream:
            start = stream.read(132)
            return start[128:] == b"DICM" or start[:4] in _FIRST_ELEMENTS
    except OSError:
        return False
