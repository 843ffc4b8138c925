"""One file, read once: what is wrong with it, and what the rest of the check needs to know of it.

The checks are those of a training's start (`desd_components.scans.check`), in the same order and words.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from desd_components.base.classes import IGNORE, Classes, label_count
from desd_components.base.errors import UserError
from desd_components.scans.check import class_problem, header_problem, label_values, raw_problem
from desd_components.scans.label_maps import looks_like_labels
from desd_components.scans.planning.survey import ClassFacts, Values, class_facts, values_of
from desd_components.scans.read import open_volume
from desd_components.scans.volume import Volume

from .findings import REMARK, Finding, from_line
from .geometry import geometry_findings


@dataclass
class FileReport:
    """A file, and what is known of it.

    Attributes:
        file: its path.
        is_label: whether it is to hold class numbers.
        findings: about it alone.
        volume: its header, where that could be read.
        digest: of shape and values, the same for any storage type; None where the voxels were not read.
        values: what a plan knows of an image's values.
        looks_like_labels: whether an image does.
        class_voxels: of a label, voxels by value.
        classes: of a label, what a plan knows of its classes.
    """

    file: str
    is_label: bool
    findings: list[Finding] = field(default_factory=list)
    volume: Volume | None = None
    digest: str | None = None
    values: Values | None = None
    looks_like_labels: bool = False
    class_voxels: dict[int, int] = field(default_factory=dict)
    classes: ClassFacts = ({}, {})

    @property
    def usable(self) -> bool:
        """Whether its voxels were read and nothing is wrong with it."""
        return self.digest is not None and all(finding.severity == REMARK for finding in self.findings)


def inspect(file: str, is_label: bool, channels: int = 1, classes: Classes | None = None) -> FileReport:
    """Look at a file's header, then at its voxels, which are read this once.

    Args:
        file: its path.
        is_label: whether it holds class numbers.
        channels: that an image must have in its last dimension.
        classes: of a label; None leaves its values unchecked.
    """
    report = FileReport(file, is_label)
    if line := header_problem({"label" if is_label else "image": file}, channels):
        report.findings.append(from_line(line, [file], "file"))
        return report
    volume = report.volume = open_volume(file)
    report.findings += geometry_findings(volume, is_label)
    report.findings += [Finding(file, warning, "look at it", "reading", REMARK) for warning in volume.warnings]
    try:
        voxels = volume.read()
    except UserError as error:
        report.findings.append(from_line(str(error), [file], "damaged"))
        return report
    if line := raw_problem(file, voxels, is_label):
        report.findings.append(from_line(line, [file], "voxels"))
        return report
    report.digest, report.values = digest(voxels), values_of(voxels)
    if is_label:
        report.classes = class_facts(voxels, volume.ras_order, classes.ignore if classes else None)
        _look_at_label(report, voxels, classes)
    elif looks_like_labels(voxels):
        report.looks_like_labels = True
        what = "looks like a label map (a few whole numbers in patches, and zero): a pre-training leaves it out"
        remedy = "name it as one, such as x_seg.nii.gz; or, if it is a scan, name it in a data list"
        report.findings.append(Finding(file, what, remedy, "label map", REMARK))
    return report


def digest(voxels: np.ndarray) -> str:
    """A hash of shape and values; slice by slice in float64, so that a change of the storage type changes nothing."""
    known = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    for slice_ in np.moveaxis(voxels, 2, 0):
        known.update((np.ascontiguousarray(slice_, dtype=np.float64) + 0.0).data)  # + 0.0: minus zero is zero
    return known.hexdigest()


def _look_at_label(report: FileReport, voxels: np.ndarray, classes: Classes | None) -> None:
    file, whole = report.file, np.rint(voxels)
    rounded = int(np.count_nonzero(whole != voxels))
    values, counts = np.unique(whole, return_counts=True)
    report.class_voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    if np.issubdtype(voxels.dtype, np.floating):
        what = f"holds whole numbers stored as {voxels.dtype}" + f", {rounded} of them to be rounded" * (rounded > 0)
        report.findings.append(Finding(file, what, "nothing; as uint8 it would be smaller", "float label", REMARK))
    known = [IGNORE if classes and value == classes.ignore else value for value in label_values(values)]
    count = label_count(classes.names, classes.regions) if classes else None
    if line := class_problem(file, known, count):
        report.findings.append(from_line(line, [file], "label values"))
    if not np.any(values):
        what = "is an empty label: every voxel is background"
        remedy = "nothing, if the scan shows none of the classes; else mend it, or leave it out"
        report.findings.append(Finding(file, what, remedy, "empty label", REMARK))
