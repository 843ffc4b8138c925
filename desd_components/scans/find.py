"""Looking for scans below a folder: files of the formats that are read, and folders with DICOM series in them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UserError
from .dicom.series import may_be_dicom, series_paths
from .formats import FORMATS, SUFFIXES, stem
from .records import Record, first_names, without_channel
from .volume import MissingPackage

logger = logging.getLogger(__name__)


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


_LABEL_WORD = r"(gm|wm|sc|lesion)?(seg|segs|segmentation|segmentations|label|labels|labelmap|mask|masks|gt)\d*"
_LABEL_FOLDER = re.compile(rf"({_LABEL_WORD}|labels?t[rs]|annotations?|ground[_-]?truth)", re.IGNORECASE)
_LABEL_TOKEN = re.compile(_LABEL_WORD, re.IGNORECASE)


def is_mask(path: Path, root: Path) -> bool:
    """Whether a file below ``root`` is a label by its name (``x_seg.nii.gz``) or by a folder's (``labelsTr``).

    A DICOM series never is: its headers have said already that it holds slices.
    """
    if not path.name.endswith(SUFFIXES):
        return False
    relative = path.relative_to(root)
    if any(_LABEL_FOLDER.fullmatch(folder) for folder in relative.parts[:-1]):
        return True
    return any(_LABEL_TOKEN.fullmatch(token) for token in re.split(r"[_\-. ]", stem(path)))


def existing(dataset_dir: str | Path) -> Path:
    """The absolute path of ``dataset_dir``, which may be a folder or a file.

    Raises:
        UserError: when nothing is there.
    """
    if not str(dataset_dir).strip():
        raise UserError("dataset_dir is empty: give a folder of scans, or a data-list JSON, with `--dataset_dir DIR`.")
    path = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    if not path.exists():
        raise UserError(
            f"dataset_dir {str(dataset_dir)!r} does not exist (looked at {path}): give a folder of scans "
            f"({FORMATS}), a Medical Segmentation Decathlon folder, or a data-list JSON, with `--dataset_dir DIR`."
        )
    return path


def group_channels(images: Sequence[Path], in_channels: int) -> list[Record]:
    """Records of files; for several channels, nnU-Net's ``case_0000, case_0001, ...`` become one record."""
    if in_channels == 1:
        return [{"image": str(path)} for path in images]
    cases: dict[tuple[Path, str], list[str]] = {}
    for path in images:
        cases.setdefault((path.parent, without_channel(stem(path))), []).append(str(path))
    return [{"image": files if len(files) > 1 else files[0]} for files in cases.values()]


def _scans_in_folder(folder: Path, in_channels: int) -> list[Record]:
    files = scan_paths(folder)
    masks = [path for path in files if is_mask(path, folder)]
    left = set(masks)
    images = [path for path in files if path not in left]
    if masks:
        logger.info(
            "%s: %d label or mask files left out of %d (%s)", folder, len(masks), len(files), first_names(masks, files)
        )
    if not images:
        found = f"all {len(masks)} files in it are labels or masks by their names" if masks else "no such file"
        raise UserError(f"{folder}: no scan found ({found}): dataset_dir is searched recursively for {FORMATS}.")
    return group_channels(images, in_channels)


def require_scans(dataset_dir, scans):
    """SHIM"""
