"""All files of a folder together: read once each, in threads, then compared with each other.

Threads serve here, although Python is one at a time: decompression, hashing and numpy's passes release its lock.
"""

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from desd_components.base.classes import class_members
from desd_components.scans.check import grid_problem, threaded, with_bar
from desd_components.scans.names import scan_files
from desd_components.scans.planning import survey as planning
from desd_components.scans.planning.intensity import chosen_intensity

from .findings import REMARK, Finding, from_line
from .folder import UNUSED, Case, DataFolder
from .intensity import intensity_findings
from .volume import FileReport, inspect


@dataclass
class Survey:
    """What was seen.

    Attributes:
        folder: what was looked at.
        reports: by file.
        findings: all of them, by file.
        intensity: "hu" or "zscore": asked for, or as a plan chooses.
    """

    folder: DataFolder
    reports: dict[str, FileReport]
    findings: list[Finding]
    intensity: str

    @property
    def for_plan(self) -> planning.Survey:
        """What a plan knows of the usable scans that a training may use."""
        return _for_plan(self.folder, self.reports)


def survey(
    folder: DataFolder,
    in_channels: int = 1,
    intensity: str = "auto",
    hu_window: Sequence[float] = (-1024.0, 1024.0),
    num_workers: int = 2,
) -> Survey:
    """Read every file once and compare.

    Args:
        folder: as of `look`.
        in_channels: channels of an image.
        intensity: "hu", "zscore", or "auto": as a plan chooses.
        hu_window: that images are clipped to with "hu".
        num_workers: threads.
    """
    reports = _read(folder, in_channels, num_workers)
    chosen = chosen_intensity(_for_plan(folder, reports)).kind if intensity == "auto" else intensity
    findings = [finding for report in reports.values() for finding in report.findings]
    findings += [*folder.findings, *_grids(folder.cases, reports), *_twice_listed(folder.cases)]
    findings += _duplicates(folder.cases, reports)
    images = {file: report.values for file, report in reports.items() if report.values and not report.is_label}
    findings += intensity_findings(images, chosen, hu_window)
    findings += _missing_classes(folder, reports)
    return Survey(folder, reports, sorted(findings, key=lambda finding: (finding.severity, finding.file)), chosen)


def _for_plan(folder: DataFolder, reports: dict[str, FileReport]) -> planning.Survey:
    scans = []
    for case in folder.cases:
        images, labels = ([reports[file] for file in scan_files(case.scan, (key,))] for key in ("image", "label"))
        if case.section != UNUSED and images and (volume := images[0].volume) and images[0].usable:
            if images[0].looks_like_labels and not labels:
                continue
            grid = images[0].file, volume.ras_shape, volume.ras_spacing
            scans.append(planning.Surveyed(*grid, images[0].values, *(labels[0].classes if labels else ({}, {}))))
    first = [case.scan for case in folder.cases if "image" in case.scan][:1]
    return planning.Survey(scans, planning.declared_modality(folder.dataset_dir, first))


def _read(folder: DataFolder, in_channels: int, num_workers: int) -> dict[str, FileReport]:
    tasks: dict[str, tuple[bool, int]] = {}
    for case in folder.cases:
        images = scan_files(case.scan, ("image",))
        tasks |= {file: (False, 1 if len(images) > 1 else in_channels) for file in images}
        tasks |= {file: (True, 1) for file in scan_files(case.scan, ("label",))}
    reports = threaded(
        lambda task: inspect(task[0], task[1][0], task[1][1], folder.classes), tasks.items(), num_workers
    )
    return {report.file: report for report in with_bar(reports, len(tasks), "checking", "file")}


def _grids(cases: Sequence[Case], reports: dict[str, FileReport]) -> Iterator[Finding]:
    """Labels, and further channels, on another grid than the first file of their scan."""
    for case in cases:
        files = scan_files(case.scan)
        known = [(file, volume.shape[:3], volume.affine) for file in files if (volume := reports[file].volume)]
        if len(known) < len(files):
            continue
        for other in known[1:]:
            if line := grid_problem(known[0], other):
                yield from_line(line, files, "grid")


def _twice_listed(cases: Sequence[Case]) -> Iterator[Finding]:
    """One file in two sections."""
    sections: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for file in scan_files(case.scan, ("image",)):
            sections[file].add(case.section)
    for file, names in sections.items():
        if len(names - {UNUSED}) > 1:
            what = f"is listed under {' and '.join(sorted(names))}"
            yield Finding(file, what, "keep it in one: a score on a scan that was trained on says nothing", "leak")


def _duplicates(cases: Sequence[Case], reports: dict[str, FileReport]) -> Iterator[Finding]:
    """Files with the voxels of an earlier one; in two sections they are one case, trained on and tested on."""
    section = {file: case.section for case in cases for file in scan_files(case.scan)}
    groups: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for file, report in reports.items():
        if report.digest and set(report.class_voxels) != {0}:  # two empty labels are no duplicates
            groups[report.is_label, report.digest].append(file)
    for (is_label, _), (first, *others) in groups.items():
        for other in others:
            files = os.path.isfile(first) and os.path.isfile(other)  # a DICOM series may be a folder
            how = "byte for byte" if files and filecmp.cmp(first, other, shallow=False) else "voxel for voxel"
            yield _duplicate(first, other, how, is_label, {section[first], section[other]} - {UNUSED})


def _duplicate(first: str, other: str, how: str, is_label: bool, sections: set[str]) -> Finding:
    what = f"is {how} the same as {first}"
    if is_label:
        remedy = "look whether one of the two was saved under the wrong name, or belongs to a copied image"
        return Finding(other, what, remedy, "duplicate label", REMARK)
    if len(sections) > 1:
        what += f": one case under {' and '.join(sorted(sections))}"
        return Finding(other, what, "keep one: a score on a scan that was trained on says nothing", "leak")
    return Finding(other, what, "keep one of the two", "duplicate")


def _missing_classes(folder: DataFolder, reports: dict[str, FileReport]) -> Iterator[Finding]:
    """Classes that are named but occur in no label; and values that nobody names."""
    files = [file for case in folder.cases for file in scan_files(case.scan, ("label",))]
    seen = {value for file in files for value in reports[file].class_voxels}
    if not seen:
        return
    if folder.classes is None:
        values = sorted(seen)
        what = f"nothing names the classes; its labels hold the values {values[:20]}{' ...' * (len(values) > 20)}"
        yield Finding(str(folder.source), what, "name them: `--class_names \"['liver']\"`", "classes", REMARK)
        return
    names = folder.classes.names
    for number, members in enumerate(class_members(len(names), folder.classes.regions)):
        if number > 0 and not seen & set(members):
            what = f"class {number} ({names[number]}) occurs in none of {len(set(files))} labels"
            yield Finding(str(folder.source), what, "add labels that hold it, or leave the class out", "missing class")


def shown(file: str, root: Path) -> str:
    """The file relative to the root, where it lies below it."""
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else file
