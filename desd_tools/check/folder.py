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
from desd_components.scans.find import (
    existing,
    group_channels,
    is_miscased,
    namesakes,
    pair_folders,
    pairs_by_name,
    scan_paths,
)
from desd_components.scans.label_maps import is_mask
from desd_components.scans.labelled import classes_of_data, file_ending, said_of_data
from desd_components.scans.lists import (
    SECTION_NAMES,
    data_list_sections,
    find_scans,
    is_decathlon,
    read_split,
    split_faults,
)
from desd_components.scans.names import UNREAD_SUFFIXES, Scan, case_ids, scan_files

from .findings import REMARK, Finding

JUNK = {".ds_store", "thumbs.db", "desktop.ini"}
_SECTION_FOLDERS = {**SECTION_NAMES, "imagestr": "train", "imagesva": "validation", "imagests": "test"}
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
        root: the folder, or that of the data list.
        source: what says which scans there are, for findings about all of them.
        cases: all scans.
        findings: about files that have no partner, are missing, or are not scans.
        classes: of the labels; None where nothing names them.
        dataset_dir: what was asked for, as a training takes it.
    """

    root: Path
    source: str
    cases: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    classes: Classes | None = None
    dataset_dir: str = ""

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
    if path.is_file():
        found = _from_list(path) if path.suffix == ".json" else _plain(path.parent, [path], in_channels)
    elif is_decathlon(path):
        found = _decathlon(path, in_channels)
    elif pair_folders(path):
        found = _pairs(path, in_channels)
    else:
        found = _plain(path, scan_paths(path), in_channels)
    if not found.cases and not found.findings:
        find_scans(path, in_channels)  # which says what was looked for, and where
    found.dataset_dir = str(path)
    if path.is_dir():
        found.findings += _passed_over(path)
    if class_names is not None or said_of_data(path)[1].get("labels"):
        found.classes = classes_of_data(path, class_names)
    if data_split is not None:
        _apply_split(found, data_split)
    return found


def section_of_path(path: Path, root: Path) -> str:
    """The section that a file belongs to by the names of its folders (``imagesTs``, ``validation``); else train."""
    folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
    return next((_SECTION_FOLDERS[name] for name in folders if name in _SECTION_FOLDERS), "train")


def _from_list(path: Path, within: bool = False) -> DataFolder:
    found = DataFolder(path.parent, str(path))
    sections = data_list_sections(path, within=within)
    found.cases = [Case(scan, name) for name, scans in sections.items() for scan in scans]
    if found.labelled:
        found.findings += _lonely_images(case.scan for case in found.cases if _lacks_label(case))
    return found


def _lacks_label(case: Case) -> bool:
    return "label" not in case.scan and case.section != "test"


def _decathlon(folder: Path, in_channels: int) -> DataFolder:
    """The listed cases whose files are there; halves of pairs; and the files that the list does not name."""
    found = _from_list(folder / "dataset.json", within=True)
    found.root = folder
    absent = 0
    listed, found.cases = found.cases, []
    for case in listed:
        there = {key: value for key, value in case.scan.items() if _all_exist(case.scan, key)}
        if there.keys() == case.scan.keys():
            found.cases.append(case)
        elif "image" in there:
            found.cases.append(Case(there, case.section))
            found.findings += _lonely_images([there])
        elif "label" in there:
            found.cases.append(Case(there, case.section))
            found.findings += _lonely_labels([Path(there["label"])])
        else:
            absent += 1
    if absent:
        what = f"lists {absent} cases of which no file is there"
        remedy = "nothing, if the folder came in part; else fetch the rest"
        found.findings.append(Finding(found.source, what, remedy, "not there", REMARK))
    _add_unlisted(found, {file for case in listed for file in scan_files(case.scan)}, in_channels)
    return found


def _all_exist(scan: Scan, key: str) -> bool:
    return all(os.path.exists(file) for file in scan_files(scan, (key,)))


def _add_unlisted(found: DataFolder, known: set[str], in_channels: int) -> None:
    """The scans below the root that no case holds, as cases that no training uses."""
    rest = [path for path in scan_paths(found.root) if str(path) not in known]
    for case in _plain(found.root, rest, in_channels).cases:
        case.section = "test" if case.section == "test" else UNUSED
        found.cases.append(case)
        if case.section == UNUSED:
            remedy = "list it, or move it elsewhere, if it should be used"
            file = scan_files(case.scan)[0]
            found.findings.append(Finding(file, "is used by no training", remedy, "unused", REMARK))


def _pairs(folder: Path, in_channels: int) -> DataFolder:
    images, labels = pair_folders(folder) or ("", "")
    paired = pairs_by_name(folder / images, folder / labels, in_channels, file_ending(said_of_data(folder)[1]))
    found = DataFolder(folder, str(folder))
    found.cases = [Case(scan, "train") for scan in [*paired.pairs, *paired.lonely_images]]
    found.cases += [Case({"label": str(path)}, "train") for path in paired.lonely_labels]
    found.findings = [*_lonely_images(paired.lonely_images), *_lonely_labels(paired.lonely_labels)]
    found.findings += _namesakes(paired.namesakes)
    _add_unlisted(found, {file for case in found.cases for file in scan_files(case.scan)}, in_channels)
    return found


def _plain(root: Path, files: Sequence[Path], in_channels: int) -> DataFolder:
    """Images and masks by their names alone, without pairs."""
    found = DataFolder(root, str(root), findings=_namesakes(namesakes(files)) if in_channels > 1 else [])
    masks = {path for path in files if len(files) > 1 and is_mask(path, root)}
    for scan in group_channels([path for path in files if path not in masks], in_channels):
        found.cases.append(Case(scan, section_of_path(Path(scan_files(scan)[0]), root)))
    found.cases += [Case({"label": str(path)}, section_of_path(path, root)) for path in sorted(masks)]
    return found


def _lonely_images(scans: Iterable[Scan]) -> list[Finding]:
    remedy = "add a label of its name, or move it to a folder of unlabelled scans"
    return [Finding(scan_files(scan)[0], "has no label, while others have", remedy, "no label") for scan in scans]


def _lonely_labels(paths: Iterable[Path]) -> list[Finding]:
    remedy = "add an image of its name, or remove it"
    return [Finding(str(path), "is a label without an image", remedy, "no image") for path in paths]


def _namesakes(pairs: Sequence[tuple[Path, Path]]) -> list[Finding]:
    remedy = "keep one of the two, or rename one"
    return [Finding(str(path), f"has the name of {known.name} beside it", remedy, "name") for known, path in pairs]


def _passed_over(folder: Path) -> Iterator[Finding]:
    """Files that every reader passes over: what a system left behind, and volumes by names that are not read."""
    for path in sorted(Path(base, name) for base, _, names in os.walk(folder) for name in names):
        name = path.name.lower()
        if name in JUNK or name.startswith("._"):
            what = "is no scan but left by an operating system; it is passed over"
            yield Finding(str(path), what, "delete it", "junk", REMARK)
        elif not name.startswith("."):
            if is_miscased(path.name):
                yield Finding(str(path), "is not read, for its suffix is not in small letters", "rename it", "suffix")
            if name.endswith(UNREAD_SUFFIXES):
                yield Finding(str(path), "is not read, for its format", "convert it to NIfTI", "format")


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
