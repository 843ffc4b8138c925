"""Finding scans: a folder, a Medical Segmentation Decathlon folder or a data list becomes records ``{"image": ...}``.

A recursive search leaves out label folders, masks and the ``._*`` files that macOS leaves behind. A split file chooses
among what was found, by case ids.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .case_names import CaseNames, case_ids, without_channel
from .data_lists import SECTION_NAMES, data_list_sections, is_decathlon, read_json
from .errors import UserError
from .records import Record, first_few, first_names, note_links, present, record_files
from .searching import FORMATS, SUFFIXES, scan_paths, stem

logger = logging.getLogger(__name__)


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


def read_split(data_split: str | Path, folder: Path) -> dict[str, list[str]]:
    """The lists of case ids in a split file, under ``train``, ``validation`` and ``test``.

    Args:
        data_split: a JSON file, relative to the working directory or to ``folder``.
        folder: where the scans are.

    Raises:
        UserError: when the file is missing, has no such list, or lists a case in two sections.
    """
    asked = Path(data_split).expanduser()
    path = next((place for place in (asked, folder / asked) if place.is_file()), None)
    if path is None:
        raise UserError(f"data_split {str(data_split)!r} does not exist, neither here nor in {folder}: give its path.")
    content = read_json(path)
    split: dict[str, list[str]] = {}
    for name, cases in content.items() if isinstance(content, dict) else ():
        if name in SECTION_NAMES and isinstance(cases, list):
            split.setdefault(SECTION_NAMES[name], []).extend(_case_id(str(case)) for case in cases)
    if not split:
        raise UserError(f'{path}: holds no split: write {{"train": [case ids], "validation": [...], "test": [...]}}.')
    all_cases = [case for cases in split.values() for case in cases]
    twice = sorted({case for case in all_cases if all_cases.count(case) > 1})
    if twice:
        raise UserError(f"{path}: {len(twice)} cases are listed twice (first: {twice[0]}): keep each in one section.")
    return split


def _case_id(name: str) -> str:
    """A case as a split file names it, without the suffix of a scan; a folder in front of it stays."""
    return str(Path(name).parent / stem(name)) if name.endswith(SUFFIXES) else name


def split_faults(records: Sequence[Record], cases: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong with the case ids of a split, all sections together: (what, remedy), a pair for each fault.

    An id may fit several scans, and two ids may be one scan: then it would be trained on and tested on.
    """
    by_name, faults = _by_name(records), []
    said: dict[tuple[str, ...], str] = {}
    for case in cases:
        fits = by_name.get(case, [])
        if len(fits) > 1:
            names = CaseNames(fits)
            files = ", ".join(names.file(record_files(record, ("image",))[0]) for record in fits[:2])
            faults.append((f"{case!r} fits {len(fits)} scans ({files})", "write folder/name instead"))
        elif fits and (other := said.setdefault(tuple(record_files(fits[0])), case)) != case:
            faults.append((f"{other!r} and {case!r} are one scan", "keep one of them"))
    return faults


def _by_name(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records that each case id fits; one that is listed twice counts once."""
    by_name: dict[str, list[Record]] = {}
    for record in {tuple(record_files(record)): record for record in records}.values():
        for name in case_ids(record):
            by_name.setdefault(name, []).append(record)
    return by_name


def refuse_split_faults(records: Sequence[Record], split: Mapping[str, Sequence[str]], source: str) -> None:
    """Refuse a split of which an id fits several records, or several ids, of whatever sections, one record.

    Raises:
        UserError: with the first fault.
    """
    for what, remedy in split_faults(records, [case for cases in split.values() for case in cases]):
        raise UserError(f"{source}: {what}: {remedy}.")


def select_cases(records: Sequence[Record], cases: Sequence[str], source: str) -> list[Record]:
    """The records that a list of case ids names, in the list's order; ids without a record are counted in the log.

    Raises:
        UserError: when none of the ids fits any record.
    """
    by_name = _by_name(records)
    absent = [case for case in cases if case not in by_name]
    if cases and len(absent) == len(cases):
        example = CaseNames(records).id(records[0]) if records else "none"
        raise UserError(
            f"{source}: none of its {len(cases)} case ids (first: {cases[0]!r}) names a scan (a scan is called "
            f"{example!r}): use file names without their suffix."
        )
    if absent:
        logger.warning("%s: %d of %d cases have no scan: %s", source, len(absent), len(cases), first_few(absent))
    return [by_name[case][0] for case in cases if case in by_name]


def find_scans(
    dataset_dir: str | Path,
    in_channels: int = 1,
    data_split: str | Path | None = None,
    sections: Sequence[str] = ("train", "validation"),
    base_dir: str | Path | None = None,
) -> list[Record]:
    """Unlabelled records ``{"image": path or [path per channel]}``, sorted; label files are left out and counted.

    Args:
        dataset_dir: a folder searched recursively for scans of all formats (`desd_components.searching`), a Medical
            Segmentation Decathlon folder (``dataset.json``: the images of all its sections), a data-list JSON, or one
            scan.
        in_channels: channels of an image; with several, files named ``case_0000, case_0001, ...`` are one image.
        data_split: JSON with lists of case ids under ``train``, ``validation``, ``test``; only ``sections`` are taken.
        sections: the sections of ``data_split`` to take, so that pre-training never sees the test cases.
        base_dir: what the paths of a data list are relative to; None means the list's own folder.

    Raises:
        UserError: when ``dataset_dir`` is missing or holds no scan, or when the split does not fit it.
    """
    path = existing(dataset_dir)
    if path.is_file() and path.suffix == ".json":
        records = _images_of(data_list_sections(path, base_dir))
    elif path.is_file():
        records = [{"image": str(path)}]
    elif is_decathlon(path):
        listed = _images_of(data_list_sections(path / "dataset.json", within=True))
        records = present(listed, path / "dataset.json")
    else:
        records = _scans_in_folder(path, in_channels)
    if not records:
        raise UserError(f"{path}: none of the scans that its dataset.json lists exists: is the folder complete?")
    if data_split is not None:
        split = read_split(data_split, path if path.is_dir() else path.parent)
        wanted = [case for section in sections for case in split.get(SECTION_NAMES.get(section, section), [])]
        if not wanted:
            raise UserError(f"{data_split}: no case under {list(sections)}; it has {sorted(split)}: set `sections`.")
        refuse_split_faults(records, split, str(data_split))
        records = select_cases(records, wanted, str(data_split))
    records = sorted(records, key=lambda record: record_files(record)[0])
    logger.info("%s: %d scans", path, len(records))
    if path.is_dir():
        note_links(records, path)
    return records


def _images_of(sections: dict[str, list[Record]]) -> list[Record]:
    """The images of all sections, each once: a file may be listed in two sections."""
    unique = {tuple(record_files(record, ("image",))): record["image"] for part in sections.values() for record in part}
    return [{"image": image} for image in unique.values()]
