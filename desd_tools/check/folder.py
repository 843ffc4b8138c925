"""What a data folder holds: every scan below it, as a training would take it, and the files that it would not.

Built on `desd_components.scans.lists` and `desd_components.scans.labelled`, which find the scans of a training;
beyond them, a file that has no partner, is not listed, or is missing becomes a finding instead of a line of the log.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desd_components.base.classes import Classes
from desd_components.scans.find import existing, group_channels, namesakes, pair_folders, pairs_by_name, scan_paths
from desd_components.scans.label_maps import is_mask
from desd_components.scans.labelled import classes_of_data, file_ending, said_of_data, section_of_path
from desd_components.scans.lists import (
    data_list_sections,
    find_scans,
    is_decathlon,
    read_split,
    split_faults,
)
from desd_components.scans.names import Scan, case_ids, scan_files, why_unread

from .findings import REMARK, Finding

JUNK = {".ds_store", "thumbs.db", "desktop.ini"}
UNUSED = "unused"


@dataclass
class Case:
    """A scan ``{"image": ...[, "label": ...]}``, or a label alone, and the section that it belongs to."""

    scan: Scan
    section: str


@dataclass
class DataFolder:
    """Everything that is looked at.

    Attributes:
        dataset_dir: what was asked for, as a training takes it: a folder, or a file.
        source: what says which scans there are, for findings about all of them.
        cases: all scans.
        findings: about files that have no partner, are missing, or are not scans.
        classes: of the labels; None where nothing names them.
    """

    dataset_dir: Path
    source: Path
    cases: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    classes: Classes | None = None

    @property
    def root(self) -> Path:
        """The folder, or that of the file."""
        return self.dataset_dir if self.dataset_dir.is_dir() else self.dataset_dir.parent

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any({"image", "label"} <= case.scan.keys() for case in self.cases)


def look(data: str | Path, in_channels: int = 1, data_split: str | None = None, class_names: Any = None) -> DataFolder:
    """Find everything below a folder, or in a data list.

    Args:
        data: as ``dataset_dir`` of a training.
        in_channels: channels of an image.
        data_split: as of a training; cases in none of its sections are looked at, too.
        class_names: see `classes_of`; wins over what ``dataset.json`` says.

    Raises:
        UserError: when there is nothing to look at, or a list or split cannot be read.
    """
    path = existing(data)
    found = DataFolder(path, path)
    if path.suffix == ".json" or is_decathlon(path):
        _add_listed(found)
    elif pair_folders(path):
        _add_pairs(found, in_channels)
    else:
        _add_plain(found, scan_paths(path) if path.is_dir() else [path], in_channels)
    if path.is_dir():
        if found.source != path or pair_folders(path):
            _add_unlisted(found, in_channels)
        found.findings += _passed_over(path)
    if not found.cases and not found.findings:
        find_scans(path, in_channels)  # which says what was looked for, and where
    if class_names is not None or said_of_data(path)[1].get("labels"):
        found.classes = classes_of_data(path, class_names)
    if data_split is not None:
        _apply_split(found, data_split)
    return found


def _add_listed(found: DataFolder) -> None:
    """The cases of a data list; of a Decathlon folder's, which may come in part, what is there of each."""
    partly = found.dataset_dir.is_dir()
    found.source = found.dataset_dir / "dataset.json" if partly else found.dataset_dir
    sections = data_list_sections(found.source, within=partly)
    listed = [Case(scan, section) for section, scans in sections.items() for scan in scans]
    if partly:
        there = [Case({k: v for k, v in case.scan.items() if _exists(case.scan, k)}, case.section) for case in listed]
        found.cases = [case for case in there if case.scan]
    else:
        found.cases = listed
    if absent := len(listed) - len(found.cases):
        what = f"lists {absent} cases of which no file is there"
        remedy = "nothing, if the folder came in part; else fetch the rest"
        found.findings.append(Finding(str(found.source), what, remedy, "not there", REMARK))
    if any("label" in case.scan for case in listed):
        found.findings += _lonely(case for case in found.cases if case.section != "test")


def _exists(scan: Scan, key: str) -> bool:
    return all(map(os.path.exists, scan_files(scan, (key,))))


def _add_unlisted(found: DataFolder, in_channels: int) -> None:
    """The scans below the root that no case holds, as cases that no training uses."""
    known = {file for case in found.cases for file in scan_files(case.scan)}
    rest = DataFolder(found.root, found.source)
    _add_plain(rest, [path for path in scan_paths(found.root) if str(path) not in known], in_channels)
    for case in rest.cases:
        case.section = "test" if case.section == "test" else UNUSED
        if case.section == UNUSED:
            remedy = "list it, or move it elsewhere, if it should be used"
            file = scan_files(case.scan)[0]
            found.findings.append(Finding(file, "is used by no training", remedy, "unused", REMARK))
    found.cases += rest.cases


def _add_pairs(found: DataFolder, in_channels: int) -> None:
    images, labels = pair_folders(found.root)[0]
    ending = file_ending(said_of_data(found.root)[1])
    paired = pairs_by_name(found.root / images, found.root / labels, in_channels, ending)
    alone: list[Scan] = [{"label": str(path)} for path in paired.lonely_labels]
    found.cases = [Case(scan, "train") for scan in [*paired.pairs, *paired.lonely_images, *alone]]
    found.findings = [*_lonely(found.cases), *_namesakes(paired.namesakes)]


def _add_plain(found: DataFolder, files: Sequence[Path], in_channels: int) -> None:
    """Images and masks by their names alone, without pairs."""
    found.findings += _namesakes(namesakes(files)) if in_channels > 1 else []
    masks = {path for path in files if len(files) > 1 and is_mask(path, found.root)}
    scans = group_channels([path for path in files if path not in masks], in_channels)
    scans += [{"label": str(path)} for path in sorted(masks)]
    found.cases += [Case(scan, section_of_path(Path(scan_files(scan)[0]), found.root)) for scan in scans]


def _lonely(cases: Iterable[Case]) -> Iterator[Finding]:
    """Halves of pairs."""
    for case in cases:
        if "image" not in case.scan:
            remedy = "add an image of its name, or remove it"
            yield Finding(scan_files(case.scan)[0], "is a label without an image", remedy, "no image")
        elif "label" not in case.scan:
            remedy = "add a label of its name, or move it to a folder of unlabelled scans"
            yield Finding(scan_files(case.scan)[0], "has no label, while others have", remedy, "no label")


def _namesakes(pairs: Sequence[tuple[Path, Path]]) -> list[Finding]:
    remedy = "keep one of the two, or rename one"
    return [Finding(str(path), f"has the name of {known.name} beside it", remedy, "name") for known, path in pairs]


def _passed_over(folder: Path) -> Iterator[Finding]:
    """Files that every reader passes over: what a system left behind, and volumes by names that are not read."""
    for path in sorted(Path(base, name) for base, _, names in os.walk(folder) for name in names):
        if path.name.lower() in JUNK or path.name.startswith("._"):
            what = "is no scan but left by an operating system; it is passed over"
            yield Finding(str(path), what, "delete it", "junk", REMARK)
        elif not path.name.startswith(".") and (why := why_unread(path.name)):
            kind, reason, remedy = why
            yield Finding(str(path), f"is left out, for {reason}", remedy, kind)


def _apply_split(found: DataFolder, data_split: str) -> None:
    """Sections as a split file says; cases that it does not name are in none."""
    split = read_split(data_split, found.root)
    listed = [case.scan for case in found.cases if "image" in case.scan and case.section != UNUSED]
    for what, remedy in split_faults(listed, [case for cases in split.values() for case in cases]):
        found.findings.append(Finding(str(data_split), what, remedy, "split"))
    section_by_name = {name: section for section, names in split.items() for name in names}
    seen: set[str] = set()
    for case in found.cases:
        names = case_ids(case.scan) if "image" in case.scan else []
        listed_as = [name for name in names if name in section_by_name]
        case.section = section_by_name[listed_as[0]] if listed_as else UNUSED
        seen.update(listed_as)
    absent = [name for name in section_by_name if name not in seen]
    if absent:
        what = f"names {len(absent)} cases that are not there (first: {absent[0]})"
        found.findings.append(Finding(str(data_split), what, "mend the split or add the scans", "split"))
