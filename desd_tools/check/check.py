"""Look at every volume of a data folder before anything is trained: what is wrong, and what settings suit it.

Exit code: 0, nothing is wrong (there may be remarks); 1, faults were found; 2, the check itself could not be run.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from desd_components.base.errors import UserError
from desd_components.base.files import require_writable, write_json
from desd_components.base.steps import checked_minutes
from desd_components.scans.planning.machine import Machine
from desd_components.scans.planning.plan import planned_pretraining, planned_segmentation
from desd_components.scans.planning.planner import Plan
from desd_components.scans.preprocess import INTENSITIES

from .findings import FAULT, Finding
from .folder import look
from .survey import Survey, shown, survey

LISTED = 3  # rows of findings that are alike; more of them become one row, and the JSON holds all


def check(
    data: str,
    output: str | None = None,
    class_names: Any = None,
    in_channels: int = 1,
    data_split: str | None = None,
    intensity: str = "auto",
    hu_window: Sequence[float] = (-1024.0, 1024.0),
    num_workers: int = 2,
    minutes: float | None = None,
    cache_dir: str | None = None,
) -> int:
    """Look for faults in every volume of a data folder; exit code 0: none, 1: some, 2: could not be run.

    Args:
        data: a folder of scans, with or without labels, a Decathlon folder, a data-list JSON, or one scan.
        output: a JSON with everything that was found, file by file; none where not named.
        class_names: names of label values 1, 2, ..., where no dataset.json says them.
        in_channels: channels of an image.
        data_split: JSON with case ids under train, validation, test: the same case in two of them is a fault.
        intensity: hu, zscore, or auto: as the plan chooses.
        hu_window: that images in HU are clipped to.
        num_workers: threads that read.
        minutes: the budget of a training that the plan is shown for.
        cache_dir: where a training keeps the speed of this machine, such as runs/cache; measured anew where not named.

    Raises:
        UserError: when the check cannot be run.
    """
    if intensity not in ("auto", *INTENSITIES):
        raise UserError(f"--intensity {intensity}: choose auto, hu or zscore.")
    _refuse_odd_settings(hu_window, in_channels, num_workers)
    try:
        budget = checked_minutes(minutes)
    except UserError as error:
        raise UserError(f"--{error}") from error
    if output:
        require_writable(Path(output).parent, "output")  # before hours of reading
    folder = look(data, in_channels, data_split, class_names)
    seen = survey(folder, in_channels, intensity, hu_window, num_workers)
    faults = [finding for finding in seen.findings if finding.severity == FAULT]
    print_findings(seen)
    said = record(seen)
    plans = plans_of(seen, budget, cache_dir)
    for name, plan in plans.items():
        print(f"plan of {name}:", *plan.lines(), *(f"remark: {line}" for line in plan.remarks), sep="\n  ")
    said["plans"] = {name: plan.settings() for name, plan in plans.items()}
    if output:
        write_json(Path(output), said)
        print(f"everything that was found: {output}")
    return 1 if faults else 0


def plans_of(seen: Survey, minutes: float | None, cache_dir: str | None) -> dict[str, Plan]:
    """What small.yaml plans for the usable scans: of a pre-training, and of a fine-tuning where there are labels."""
    scans = seen.for_plan
    if not scans.scans:
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = Machine.of(device, cache_dir, minutes)
    plans = {"desd_pretrain": planned_pretraining(scans, machine)}
    return plans | ({"desd_seg_finetune": planned_segmentation(scans, machine)} if seen.folder.labelled else {})


def _refuse_odd_settings(hu_window: Any, in_channels: Any, num_workers: Any) -> None:
    window = list(hu_window) if isinstance(hu_window, Sequence) and not isinstance(hu_window, str) else []
    if len(window) != 2 or not all(isinstance(edge, int | float) for edge in window) or not window[0] < window[1]:
        raise UserError(f"--hu_window {hu_window}: give two numbers, the lower first, as [-1024,1024].")
    for name, value, least in (("in_channels", in_channels, 1), ("num_workers", num_workers, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"--{name} {value}: give a whole number, at least {least}.")


def print_findings(seen: Survey) -> None:
    """A row for each finding, faults first; of many that differ in file and figures alone, one; then the summary."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in seen.findings:
        alike = (finding.severity, finding.kind, re.sub(r"\d[\d.]*", "#", finding.what))
        groups.setdefault(alike, []).append(finding)
    for findings in groups.values():
        for group in [findings] if len(findings) > LISTED else [[finding] for finding in findings]:
            print(row(group, seen.folder.root))
    print(summary(seen))


def row(alike: Sequence[Finding], root: Path) -> str:
    """``fault | file | what | remedy``; of many findings their number, the first files, and what the first says."""
    first, files = alike[0], ", ".join(shown(finding.file, root) for finding in alike[:LISTED])
    if len(alike) > LISTED:
        files = f"{len(alike)} files: {files} and {len(alike) - LISTED} more"
    line = " | ".join((first.severity, files, first.what, first.remedy))
    return line.replace("\n", "\\n")  # a file's name may hold one


def summary(seen: Survey) -> str:
    """One line: how many files, of which how many have a fault; the counts by kind."""
    faulty = {finding.file for finding in seen.findings if finding.severity == FAULT}
    kinds = Counter(finding.kind for finding in seen.findings if finding.severity == FAULT)
    remarks = sum(finding.severity != FAULT for finding in seen.findings)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
    images = sum(not report.is_label for report in seen.reports.values())
    return (
        f"{images} images and {len(seen.reports) - images} labels read; {len(faulty)} with faults ({told}); "
        f"{remarks} remarks"
    )


def record(seen: Survey) -> dict[str, Any]:
    """What the JSON holds."""
    return {
        "data": str(seen.folder.source),
        "files": len(seen.reports),
        "summary": summary(seen),
        "intensity": seen.intensity,
        "faults": [asdict(finding) for finding in seen.findings if finding.severity == FAULT],
        "remarks": [asdict(finding) for finding in seen.findings if finding.severity != FAULT],
    }
