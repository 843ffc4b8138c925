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
from desd_components.scans.planning.survey import ClassFacts, Values, class_facts, ras_order, values_of
from desd_components.scans.read import open_volume
from desd_components.scans.volume import Volume

from .findings import REMARK, Finding, from_line
from .geometry import geometry_findings


@dataclass
class Facts:
    """What is known of a file.

    Attributes:
        shape: voxels (x, y, z) in the order of the file.
        affine: voxel to mm.
        ras_shape, ras_spacing: voxels and mm along right, anterior, superior.
        digest: of shape and values, the same for any storage type; None where the voxels were not read.
        values: what a plan knows of an image's values.
        class_voxels: of a label, voxels by value.
        classes: of a label, what a plan knows of its classes.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    ras_shape: tuple[int, ...]
    ras_spacing: tuple[float, ...]
    digest: str | None = None
    values: Values | None = None
    class_voxels: dict[int, int] = field(default_factory=dict)
    classes: ClassFacts = ({}, {})


@dataclass
class FileReport:
    """A file, its findings, its facts where its header could be read, and whether an image looks like a label map."""

    file: str
    is_label: bool
    findings: list[Finding]
    facts: Facts | None = None
    looks_like_labels: bool = False

    @property
    def usable(self) -> bool:
        """Whether its voxels were read and nothing is wrong with it."""
        return self.facts is not None and self.facts.digest is not None and not self.faults

    @property
    def faults(self) -> list[Finding]:
        """Its findings without the remarks."""
        return [finding for finding in self.findings if finding.severity != REMARK]


def inspect(file: str, is_label: bool, channels: int = 1, classes: Classes | None = None) -> FileReport:
    """Look at a file's header, then at its voxels, which are read this once.

    Args:
        file: its path.
        is_label: whether it holds class numbers.
        channels: that an image must have in its last dimension.
        classes: of a label; None leaves its values unchecked.
    """
    report = FileReport(file, is_label, [])
    if line := header_problem({"label" if is_label else "image": file}, channels):
        report.findings.append(from_line(line, [file], "file"))
        return report
    volume = open_volume(file)
    report.findings += geometry_findings(volume, is_label)
    report.findings += [Finding(file, warning, "look at it", "reading", REMARK) for warning in volume.warnings]
    report.facts = _grid_facts(volume)
    try:
        voxels = volume.read()
    except UserError as error:
        report.findings.append(from_line(str(error), [file], "damaged"))
        return report
    if line := raw_problem(file, voxels, is_label):
        report.findings.append(from_line(line, [file], "voxels"))
        return report
    report.facts.digest = digest(voxels)
    report.facts.values = values_of(voxels)
    if is_label:
        ignore = classes.ignore if classes else None
        report.facts.classes = class_facts(voxels, ras_order(volume.affine), ignore)
        report.findings += _label_findings(file, voxels, report.facts, classes)
    elif looks_like_labels(voxels):
        report.looks_like_labels = True
        what = "looks like a label map (a few whole numbers in patches, and zero): a pre-training leaves it out"
        remedy = "name it as one, such as x_seg.nii.gz; or, if it is a scan, name it in a data list"
        report.findings.append(Finding(file, what, remedy, "label map", REMARK))
    return report


def _grid_facts(volume: Volume) -> Facts:
    affine, shape, order = volume.affine, volume.shape[:3], ras_order(volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return Facts(shape, affine, tuple(shape[i] for i in order), tuple(float(spacing[i]) for i in order))


def digest(voxels: np.ndarray) -> str:
    """A hash of shape and values; slice by slice in float64, so that a change of the storage type changes nothing."""
    known = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    for slice_ in np.moveaxis(voxels, 2, 0):
        known.update((np.ascontiguousarray(slice_, dtype=np.float64) + 0.0).data)  # + 0.0: minus zero is zero
    return known.hexdigest()


def _label_findings(file: str, voxels: np.ndarray, facts: Facts, classes: Classes | None) -> list[Finding]:
    whole = np.rint(voxels)
    rounded = int(np.count_nonzero(whole != voxels))
    values, counts = np.unique(whole, return_counts=True)
    facts.class_voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    findings = []
    if np.issubdtype(voxels.dtype, np.floating):
        what = f"holds whole numbers stored as {voxels.dtype}" + f", {rounded} of them to be rounded" * (rounded > 0)
        findings.append(Finding(file, what, "nothing; as uint8 it would be smaller", "float label", REMARK))
    known = [IGNORE if classes and value == classes.ignore else value for value in label_values(values)]
    count = label_count(classes.names, classes.regions) if classes else None
    if line := class_problem(file, known, count):
        findings.append(from_line(line, [file], "label values"))
    if not np.any(values):
        remedy = "leave it out, or mend it, unless the scan shows none of the classes"
        findings.append(Finding(file, "is an empty label: every voxel is background", remedy, "empty label"))
    return findings
