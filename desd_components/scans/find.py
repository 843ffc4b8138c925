"""Looking for scans below a folder: files of the formats that are read, and folders with DICOM series in them.

Label maps, told by name or header, results of this package, and the ``._*`` files of macOS are left out.
"""

import contextlib
import logging
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import MissingPackage, UserError
from .label_maps import is_mask, own_results, segmented_by
from .names import (
    FORMATS,
    SUFFIXES,
    Scan,
    Sections,
    files_of,
    first_few,
    may_be_dicom,
    scan_files,
    stem,
    tell_left_out,
    why_unread,
    without_channel,
)
from .read import open_volume
from .volume import dicom_room

logger = logging.getLogger(__name__)

FOLDER_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))


def existing(dataset_dir: str | Path) -> Path:
    """The absolute path of ``dataset_dir``, which may be a folder or a file.

    Raises:
        UserError: when nothing is there.
    """
    path = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    if str(dataset_dir).strip() and path.exists():
        return path
    what = f"{str(dataset_dir)!r} does not exist (looked at {path})" if str(dataset_dir).strip() else "is empty"
    raise UserError(
        f"dataset_dir {what}: give a folder of scans ({FORMATS}), a Medical Segmentation Decathlon folder, or "
        "a data-list JSON, with `--dataset_dir DIR`."
    )


def existing_or_told(dataset_dir: str | Path) -> Path | None:
    """The same for a config that is built where its data are not: None, and a warning in the log."""
    try:
        return existing(dataset_dir)
    except UserError as nothing:
        logger.warning("%s", nothing)
        return None


def require_scans(dataset_dir: str | Path, scans: Sequence[Scan]) -> None:
    """Refuse to run on nothing: a config can be built where its data are not, a run cannot.

    Raises:
        UserError: when no scan was found, nor put in its place, saying where they were looked for.
    """
    if not scans:
        existing(dataset_dir)
        raise UserError(f"there is no scan to work on: is dataset_dir right, and are its files {FORMATS}?")


def _tell_closed(error: OSError) -> None:
    logger.warning("%s: cannot be looked into (%s): what it holds is left out", error.filename, error.strerror)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its files, nothing hidden; links are followed, each folder once."""
    seen: set[str] = set()
    for directory, folders, files in os.walk(folder, onerror=_tell_closed, followlinks=True):
        real = os.path.realpath(directory)
        # a link to a folder above itself would be walked for ever
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield directory, [name for name in files if not name.startswith(".")]


def scan_paths(folder: Path, results: bool = False) -> list[Path]:
    """All scans below a folder, sorted; hidden files and folders (``._*``) are ignored.

    Links are followed, those to folders too, each folder once.
    A DICOM series is named by its folder, or by its first slice where a folder holds several series.

    Args:
        folder: that is searched.
        results: False leaves out, and counts in the log, what an inference of this package wrote there.

    Raises:
        UserError: when there are DICOM files alone, and what reads them is not installed.
    """
    found: list[Path] = []
    unread: list[tuple[str, str]] = []  # the phrase with the remedy, and the file
    segmented: dict[Path, set[str]] = {}
    missing: MissingPackage | None = None
    for directory, names in _walk(folder):
        found += [Path(directory, name) for name in names if name.endswith(SUFFIXES)]
        unread += [(f"{why[1]} ({why[2]})", name) for name in names if (why := why_unread(name))]
        if known := segmented_by(Path(directory), names):
            segmented[Path(directory)] = known
        if any(may_be_dicom(os.path.join(directory, name)) for name in names):
            try:
                found += dicom_room(directory).series_paths(directory)
            except MissingPackage as error:
                missing = error
    for phrase in sorted({phrase for phrase, _ in unread}):
        tell_left_out(folder, sorted(name for why, name in unread if why == phrase), f"files left out, for {phrase}")
    if missing is not None:
        if not found:
            raise missing
        logger.warning("DICOM files are left out: %s", missing)
    own = [] if results else own_results(found, segmented)
    tell_left_out(folder, own, f"results of inferences left out of {len(found)} files", found)
    return sorted(set(found).difference(own))


def namesakes(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files of one folder that differ in the suffix alone, such as a.nii and a.nii.gz, the earlier first."""
    first: dict[Path, Path] = {}
    pairs = [(first.setdefault(path.parent / stem(path), path), path) for path in sorted(paths)]
    return [(known, path) for known, path in pairs if known != path]


def refuse_namesakes(found: Sequence[tuple[Path, Path]]) -> None:
    """Refuse `namesakes` where a scan is known by its name: one of them would be taken and the other not.

    Raises:
        UserError: naming the first two.
    """
    if found:
        known, path = found[0]
        more = f" (one of {len(found)} such files)" if len(found) > 1 else ""
        raise UserError(f"{path}: has the name of {known.name} beside it{more}: keep one of the two, or rename one.")


def group_channels(images: Sequence[Path], in_channels: int) -> list[Scan]:
    """Scans of files; for several channels, nnU-Net's ``case_0000, case_0001, ...`` become one scan.

    Unless one of these files holds several itself, or a number is missing: then each is a scan, which is said.
    """
    if in_channels == 1:
        return [{"image": str(path)} for path in images]
    cases: dict[tuple[Path, str], list[str]] = {}
    for path in images:
        cases.setdefault((path.parent, without_channel(stem(path))), []).append(str(path))
    whole = [files for files in cases.values() if len(files) > 1 and not _are_channels(files)]
    if whole:
        count, first = sum(map(len, whole)), first_few([Path(file).name for file in whole[0]])
        logger.info("%d files are scans each; channels hold one, and are numbered from _0000 on: %s", count, first)
    alone = {file for files in whole for file in files}
    groups = [[file] for file in alone] + [files for files in cases.values() if files[0] not in alone]
    return [{"image": files if len(files) > 1 else files[0]} for files in sorted(groups)]


def _are_channels(files: Sequence[str]) -> bool:
    """Whether they bear the numbers from 0000 on, and none of them, as far as it can be read, holds several itself."""
    for number, file in enumerate(files):
        with contextlib.suppress(UserError):
            if stem(file)[-4:] != f"{number:04}" or math.prod(open_volume(file).shape[3:]) > 1:
                return False
    return True


@dataclass
class FolderPairs:
    """What a folder of images and one of labels hold: complete pairs, and what has no partner of its name, or two.

    `others` are files of another ending than was asked for.
    """

    pairs: list[Scan]
    lonely_images: list[Scan]
    lonely_labels: list[Path]
    others: list[Path]
    namesakes: list[tuple[Path, Path]]


def pair_folders(folder: Path) -> list[tuple[str, str]]:
    """The names of the folders of images and of labels in `folder`; of several such pairs the first is taken."""
    return [pair for pair in FOLDER_PAIRS if all((folder / name).is_dir() for name in pair)]


def pairs_by_name(images_dir: Path, labels_dir: Path, in_channels: int = 1, ending: str = "") -> FolderPairs:
    """Pair the images of one folder with the labels of another by their names, sorted; of files with that ending."""
    every = scan_paths(images_dir), scan_paths(labels_dir, results=True)  # a model's may be learnt from
    others = [path for paths in every for path in paths if not path.name.endswith(ending)]
    images, label_files = ([path for path in paths if path.name.endswith(ending)] for paths in every)
    labels = {_relative_stem(path, labels_dir): path for path in reversed(label_files)}
    alike = {_relative_stem(path, images_dir): path for path in reversed(images)}
    alone = {name: alike[name] for name in labels if name in alike}  # whatever its number
    rest = group_channels(sorted(set(images).difference(alone.values())), in_channels)
    named: dict[str, Scan] = {_case_name(scan, images_dir): scan for scan in reversed(rest)}
    named |= {name: {"image": str(path)} for name, path in alone.items()}
    # nnU-Net writes one channel, too, as case_0000 beside the label case
    found = {name: named.get(name) or named.get(f"{name}_0000") for name in sorted(labels)}
    pairs = [{**scan, "label": str(labels[name])} for name, scan in found.items() if scan]
    used = set(files_of(pairs))
    return FolderPairs(
        pairs,
        [scan for scan in rest if used.isdisjoint(scan_files(scan))],
        [path for path in label_files if str(path) not in used],
        others,
        [*namesakes(images), *namesakes(label_files)],
    )


def _case_name(scan: Scan, root: Path) -> str:
    files = scan_files(scan)
    name = _relative_stem(Path(files[0]), root)
    return without_channel(name) if len(files) > 1 else name


def _relative_stem(path: Path, root: Path) -> str:
    """By which partners are known; macOS writes an accent behind its letter, others both as one sign."""
    return unicodedata.normalize("NFC", str(path.relative_to(root).parent / stem(path)))


def scans_in_folder(folder: Path, in_channels: int) -> list[Scan]:
    """All scans below a folder but masks, which are counted in the log.

    Raises:
        UserError: when there is none, or when two files may be the same channel.
    """
    files = scan_paths(folder)
    masks = [path for path in files if is_mask(path, folder)]
    images = sorted(set(files).difference(masks))
    tell_left_out(folder, masks, f"label or mask files left out of {len(files)}", files, logging.INFO)
    if not images:
        found = f"all {len(masks)} files in it are labels or masks by their names" if masks else "no such file"
        raise UserError(f"{folder}: no scan found ({found}): dataset_dir is searched recursively for {FORMATS}.")
    if in_channels > 1:
        refuse_namesakes(namesakes(images))
    return group_channels(images, in_channels)


def present(sections: Sections, source: Path) -> Sections:
    """The scans whose files exist; those left out are counted in the log (a Decathlon folder may come in part).

    Raises:
        UserError: when there is none.
    """
    files = files_of(scan for part in sections.values() for scan in part)
    absent = [file for file in files if not os.path.exists(file)]
    tell_left_out(source, absent, "files that do not exist left out", files)
    there = {name: [s for s in part if all(map(os.path.exists, scan_files(s)))] for name, part in sections.items()}
    if not any(there.values()):
        raise UserError(
            f"{source}: of no scan that it lists all files exist (missing first: {absent[0]}): is the folder complete?"
        )
    return there


def note_links(scans: Sequence[Scan], folder: Path) -> None:
    """Count in the log the files that links lead out of a folder; they are read all the same, see SECURITY.md."""
    root, files = Path(os.path.realpath(folder)), files_of(scans)
    outside = [file for file in files if not Path(os.path.realpath(file)).is_relative_to(root)]
    tell_left_out(folder, outside, f"of {len(files)} files are links that lead out of it", files, logging.INFO)
