"""Scans by name: data lists and ``dataset.json`` say which there are, split files choose among them by case ids."""

import functools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import read_json
from ..base.processes import from_first, place
from .find import existing_or_told, note_links, present, scans_in_folder
from .names import (
    SUFFIXES,
    CaseNames,
    Scan,
    Sections,
    case_ids,
    channel_files,
    each_once,
    first_few,
    repeated,
    scan_files,
    scans_by_id,
    tell_left_out,
    without_suffix,
)

logger = logging.getLogger(__name__)

SECTION_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def find_scans(
    dataset_dir: str | Path,
    in_channels: int = 1,
    data_split: str | Path | None = None,
    sections: Sequence[str] = ("train", "validation"),
) -> list[Scan]:
    """Unlabelled scans ``{"image": path or [path per channel]}``, sorted; label files are left out and counted.

    Where ``dataset_dir`` does not exist there is none, and the log says so: see `require_scans`. In a process group the
    first process searches a folder for all.

    Args:
        dataset_dir: a folder searched recursively for scans of all formats (`desd_components.scans.find`), a Medical
            Segmentation Decathlon folder (``dataset.json``: the images of all its sections), a data-list JSON, or one
            scan.
        in_channels: channels of an image; with several, files named ``case_0000, case_0001, ...`` are one image.
        data_split: JSON with lists of case ids under ``train``, ``validation``, ``test``; only ``sections`` are taken.
        sections: the sections of ``data_split`` to take, so that pre-training never sees the test cases.

    Raises:
        UserError: when ``dataset_dir`` holds no scan, or when the split does not fit it.
    """
    path = existing_or_told(dataset_dir)
    if path is None:
        return []
    if path.is_file():
        scans = _images_of(data_list_sections(path)) if path.suffix == ".json" else [{"image": str(path)}]
    elif is_decathlon(path):
        source = path / "dataset.json"
        scans = present({"": _images_of(data_list_sections(source, within=True))}, source)[""]
    else:
        scans = from_first(functools.partial(scans_in_folder, path, in_channels))
    if data_split is not None:
        scans = scans_of_sections(data_split, path, scans, sections)
    scans = sorted(scans, key=lambda scan: scan_files(scan)[0])
    logger.info("%s: %d scans", path, len(scans))
    if path.is_dir() and place()[0] == 0:
        note_links(scans, path)
    return scans


def _images_of(sections: Sections) -> list[Scan]:
    """The images of all sections, each once: a file may be listed in two sections."""
    return each_once({"image": scan["image"]} for part in sections.values() for scan in part)


# data lists


def data_list_sections(path: Path, within: bool = False, tell: bool = True) -> Sections:
    """The scans of a data list by section: ``train``, ``validation``, ``test``; paths are absolute, not looked up.

    A list that somebody names may name files anywhere, by absolute paths; one that comes with a folder (`within`) only
    files of that folder: a downloaded data set has no business elsewhere.

    What of it is not used, or is odd, is told in the log unless not `tell`.

    Raises:
        UserError: when it lists nothing, an entry has no image, or a path leads where it may not.
    """
    content = read_json(path)
    listed = _by_section(content, path)
    sections = {name: [_entry_scan(entry, path, within) for entry in part] for name, part in listed.items()}
    if not any(sections.values()):
        raise UserError(
            f'{path}: has no list of scans: write {{"training": [{{"image": "a.nii.gz", "label": "a_seg.nii.gz"}}], '
            '"validation": [...]}, with paths relative to the file.'
        )
    if tell:
        _tell_oddities(path, content, listed)
        scans = [scan for part in sections.values() for scan in part]
        images = [scan_files(scan, ("image",))[0] for scan in scans]
        tell_left_out(path, repeated(images), "scans are listed again; those of two sections judge themselves", images)
        labels = [scan["label"] for scan in each_once(scans) if "label" in scan]
        tell_left_out(path, repeated(labels), "label files are listed for several images each", labels)
    return {name: each_once(part) for name, part in sections.items()}


def _tell_oddities(path: Path, content: dict[str, Any], listed: dict[str, list[Any]]) -> None:
    """Say what of a data list is not used: sections of other names, other keys of its entries, and folds."""
    keys = {key for entries in listed.values() for entry in entries if isinstance(entry, dict) for key in entry}
    if others := sorted(keys.difference(("image", "images", "label", "fold"))):
        logger.info("%s: of its entries image and label are used, not %s", path, others)
    used = {name: SECTION_NAMES.get(name.lower()) for name in content}
    if unused := [name for name, entries in content.items() if not used[name] and _lists_scans(entries)]:
        logger.warning("%s: the scans under %s are not used: its sections are %s", path, unused, list(SECTION_NAMES))
    if "validation" in listed and "validation" not in used.values():
        logger.info("%s: its fold 0 is for validation, all others for training, as in Auto3DSeg", path)
    elif len(set(map(_fold, listed.get("train", [])))) > 1:
        logger.warning("%s: the folds of its scans are not used, for none is 0, or others are for validation", path)


def _fold(entry: Any) -> str:
    """The fold of an entry of Auto3DSeg's lists, 0 and 0.0 alike; "" without."""
    fold = entry.get("fold") if isinstance(entry, dict) else None
    return "" if fold is None else str(fold).removesuffix(".0")


def _lists_scans(entries: Any) -> bool:
    """Whether this is a list of scans, whatever its name."""
    listed = entries if isinstance(entries, list) else []
    images = [entry.get("image") if isinstance(entry, dict) else entry for entry in listed]
    return any(isinstance(image, list) or str(image).endswith(SUFFIXES) for image in images)


def _by_section(content: Any, source: Path) -> dict[str, list[Any]]:
    """The lists of a JSON file under the names of sections, whichever of these it writes; or mappings from case names.

    Cases of nnU-Net's entry ``dataset`` train; Auto3DSeg's fold 0 validates, as it does there, where nothing else does.

    Raises:
        UserError: when a section is something else.
    """
    content = content if isinstance(content, dict) else {}
    sections: dict[str, list[Any]] = {}
    for name, entries in content.items():
        is_mapping = isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values())
        listed = list(entries.values()) if is_mapping else entries or []
        if section := SECTION_NAMES.get(name.lower()) or ("train" if name == "dataset" and is_mapping else None):
            if not isinstance(listed, list):
                what = f"{name} is {json.dumps(listed)[:80]}, no list"
                raise UserError(f"{source}: {what}: give one, or take it out (`val_fraction` draws a share).")
            sections.setdefault(section, []).extend(listed)
    training = sections.get("train", [])
    folds = list(map(_fold, training))
    if "validation" not in sections and "0" in folds and len(set(folds)) > 1:
        for name, judged in (("train", False), ("validation", True)):
            sections[name] = [entry for entry, fold in zip(training, folds, strict=True) if (fold == "0") is judged]
    return sections


def is_decathlon(folder: Path) -> bool:
    """Whether the folder's ``dataset.json`` lists the scans (nnU-Net's files of that name do not)."""
    path = folder / "dataset.json"
    return path.is_file() and any(_by_section(read_json(path), path).values())


def _entry_scan(entry: Any, source: Path, within: bool) -> Scan:
    """One entry of a data list (a path, or a dictionary with ``image`` and perhaps ``label``) with absolute paths."""
    fields = entry if isinstance(entry, dict) else {"image": entry}
    image, label = fields.get("image", fields.get("images")), fields.get("label")
    parts = image if isinstance(image, list) else [image]
    if not image or not all(isinstance(part, str) for part in parts) or not isinstance(label, str | None):
        raise UserError(
            f'{source}: the entry {json.dumps(entry)[:120]} is not of the form {{"image": path or [path per channel], '
            '"label": path}: mend it.'
        )
    files = [file for part in parts for file in channel_files(_placed(str(part), source, within))]
    scan: Scan = {"image": files if len(files) > 1 else files[0]}
    return {**scan, "label": _placed(label, source, within)} if label else scan


def _placed(file: str, source: Path, within: bool) -> str:
    """The absolute path of a file that a list names; refused where it leads out of the list's folder, as only a list
    may that somebody names, and only by an absolute path. Links are not followed: stores such as git-annex keep a scan
    under a name that is none. A backslash, as Windows writes it, parts folders.
    """
    file = file.replace("\\", "/")
    path = Path(os.path.abspath(source.parent / file))
    if path.is_relative_to(os.path.abspath(source.parent)) or (os.path.isabs(file) and not within):
        return str(path)
    remedy = "Write it relative to that folder" if within else "Write an absolute path if you mean it"
    raise UserError(f"{source}: {file!r} leads out of its folder. {remedy}.")


# split files


def read_split(data_split: str | Path, data: Path) -> dict[str, list[str]]:
    """The lists of case ids in a split file, under ``train``, ``validation`` and ``test``.

    Args:
        data_split: a JSON file, relative to the working directory or to the folder of the scans.
        data: that folder, or a file in it.

    Raises:
        UserError: when the file is missing, has no such list, or lists a case in two sections.
    """
    folder, asked = data if data.is_dir() else data.parent, Path(data_split).expanduser()
    path = next((place for place in (asked, folder / asked) if place.is_file()), None)
    if path is None:
        raise UserError(f"data_split {str(data_split)!r} does not exist, neither here nor in {folder}: give its path.")
    content = read_json(path)
    if isinstance(content, list) and content:  # nnU-Net's splits_final.json
        logger.info("%s: the first of its %d folds is taken", path, len(content))
        content = content[0]
    listed = _by_section(content, path)
    # a scan's suffix is no part of its name; a folder in front of it is
    split = {
        section: [without_suffix(str(Path(case))) if case.endswith(SUFFIXES) else case for case in map(str, cases)]
        for section, cases in listed.items()
    }
    if not split:
        raise UserError(f'{path}: holds no split: write {{"train": [case ids], "validation": [...], "test": [...]}}.')
    if twice := sorted(repeated(case for cases in split.values() for case in cases)):
        raise UserError(f"{path}: {len(twice)} cases are listed twice (first: {twice[0]}): keep each in one section.")
    return split


def split_faults(scans: Sequence[Scan], cases: Sequence[str]) -> list[tuple[str, str]]:
    """What is wrong with the case ids of a split, all sections together: (what, remedy), a pair for each fault.

    An id may fit several scans, and two ids may be one scan: then it would be trained on and tested on.
    """
    by_name, faults = scans_by_id(scans), []
    said: dict[tuple[str, ...], str] = {}
    for case in cases:
        fits = by_name.get(case, [])
        if len(fits) > 1:
            names = CaseNames(fits)
            files = ", ".join(names.file(scan_files(scan, ("image",))[0]) for scan in fits[:2])
            alike = all(case_ids(scan) == case_ids(fits[0]) for scan in fits)
            remedy = "keep one of them, or rename one" if alike else "write folder/name instead"
            faults.append((f"{case!r} fits {len(fits)} scans ({files})", remedy))
        elif fits and (other := said.setdefault(tuple(scan_files(fits[0])), case)) != case:
            faults.append((f"{other!r} and {case!r} are one scan", "keep one of them"))
    return faults


def fitting_split(data_split: str | Path, data: Path, scans: Sequence[Scan]) -> dict[str, list[str]]:
    """`read_split`, refused where `split_faults` finds any in it.

    Raises:
        UserError: with the first fault.
    """
    split = read_split(data_split, data)
    for what, remedy in split_faults(scans, [case for cases in split.values() for case in cases]):
        raise UserError(f"{data_split}: {what}: {remedy}.")
    return split


def scans_of_sections(data_split: str | Path, data: Path, scans: Sequence[Scan], sections: Sequence[str]) -> list[Scan]:
    """The scans that a split file has under some of its sections.

    Raises:
        UserError: when the split does not fit the scans, or has no case there.
    """
    split = fitting_split(data_split, data, scans)
    wanted = [case for section in sections for case in split.get(SECTION_NAMES.get(section, section), [])]
    if not wanted:
        raise UserError(f"{data_split}: no case under {list(sections)}; it has {sorted(split)}: set `sections`.")
    return select_cases(scans, wanted, str(data_split))


def select_cases(scans: Sequence[Scan], cases: Sequence[str], source: str) -> list[Scan]:
    """The scans that a list of case ids names, in the list's order; ids without a scan are counted in the log.

    Raises:
        UserError: when none of the ids fits any scan.
    """
    by_name = scans_by_id(scans)
    absent = [case for case in cases if case not in by_name]
    if cases and len(absent) == len(cases):
        example = CaseNames(scans).id(scans[0]) if scans else "none"
        raise UserError(
            f"{source}: none of its {len(cases)} case ids (first: {cases[0]!r}) names a scan (a scan is called "
            f"{example!r}): use file names without their suffix."
        )
    if absent:
        logger.warning("%s: %d of %d cases have no scan: %s", source, len(absent), len(cases), first_few(absent))
    return [by_name[case][0] for case in cases if case in by_name]
