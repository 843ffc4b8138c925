"""Look at every volume of a data folder before anything is trained: what is wrong, and what settings suit it.

Exit code: 0, nothing is wrong (there may be remarks); 1, faults were found; 2, the check itself could not be run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.base.files import require_writable, write_json
from desd_components.scans.preprocess import INTENSITIES

from .findings import FAULT, Finding
from .folder import look
from .overlay import head_of, propose, write_overlay
from .survey import Survey, shown, survey
from .timing import add_notes

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
    overlay: str | None = None,
    finetune_overlay: str | None = None,
    steps: int = 3,
) -> int:
    """Look for faults in every volume of a data folder; exit code 0: none, 1: some, 2: could not be run.

    Args:
        data: a folder of scans, with or without labels, a Decathlon folder, a data-list JSON, or one scan.
        output: a JSON with everything that was found, file by file; none where not named.
        class_names: names of label values 1, 2, ..., where no dataset.json says them.
        in_channels: channels of an image.
        data_split: JSON with case ids under train, validation, test: the same case in two of them is a fault.
        intensity: hu, zscore, or auto: what most images look like.
        hu_window: that images in HU are clipped to.
        num_workers: threads that read.
        overlay: where to write settings that suit what was seen, as an overlay for pre-training.
        finetune_overlay: the same for fine-tuning.
        steps: of each network, to be timed for the estimate in the overlays; 0 leaves it out.

    Raises:
        UserError: when the check cannot be run.
    """
    if intensity not in ("auto", *INTENSITIES):
        raise UserError(f"--intensity {intensity}: choose auto, hu or zscore.")
    _refuse_odd_settings(hu_window, in_channels, num_workers, steps)
    for place in filter(None, (output, overlay, finetune_overlay)):
        require_writable(Path(place).parent, "output")  # before hours of reading
    folder = look(data, in_channels, data_split, class_names)
    seen = survey(folder, in_channels, intensity, hu_window, num_workers)
    faults = [finding for finding in seen.findings if finding.severity == FAULT]
    print_findings(seen)
    said = record(seen)
    if overlay or finetune_overlay:
        files = {"desd_pretrain": overlay, "desd_seg_finetune": finetune_overlay}
        said["proposal"] = write_proposal(seen, in_channels, hu_window, files, steps)
    if output:
        write_json(Path(output), said)
        print(f"everything that was found: {output}")
    return 1 if faults else 0


def _refuse_odd_settings(hu_window: Any, in_channels: Any, num_workers: Any, steps: Any) -> None:
    window = list(hu_window) if isinstance(hu_window, Sequence) and not isinstance(hu_window, str) else []
    if len(window) != 2 or not all(isinstance(edge, int | float) for edge in window) or not window[0] < window[1]:
        raise UserError(f"--hu_window {hu_window}: give two numbers, the lower first, as [-1024,1024].")
    for name, value, least in (("in_channels", in_channels, 1), ("num_workers", num_workers, 0), ("steps", steps, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"--{name} {value}: give a whole number, at least {least}.")


def write_proposal(
    seen: Survey, in_channels: int, hu_window: Sequence[float], files: Mapping[str, str | None], steps: int
) -> dict[str, Any]:
    """Write the overlays that are asked for, say what they will cost, and return everything that is proposed."""
    overlays = propose(seen, in_channels, hu_window)
    classes = seen.folder.class_names or ["background", "class_1"]
    estimates = add_notes(overlays, classes, in_channels, steps)
    settings = {"desd_pretrain": overlays.pretrain, "desd_seg_finetune": overlays.finetune}
    for bundle, path in files.items():
        if path:
            write_overlay(path, settings[bundle], head_of(bundle, path, seen, overlays))
            print(f"proposed settings for {bundle}: {path}")
    print(*overlays.notes, sep="\n")
    plain = {bundle: {setting.name: setting.plain() for setting in part} for bundle, part in settings.items()}
    return {**plain, "estimates": estimates}


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
        "data": seen.folder.source,
        "files": len(seen.reports),
        "summary": summary(seen),
        "intensity": seen.intensity,
        "faults": [asdict(finding) for finding in seen.findings if finding.severity == FAULT],
        "remarks": [asdict(finding) for finding in seen.findings if finding.severity != FAULT],
    }
