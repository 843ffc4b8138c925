"""Volumes that a window in Hounsfield units does not suit, where the plan takes one."""

from collections.abc import Mapping, Sequence

from desd_components.scans.planning.intensity import no_hu, share_inside
from desd_components.scans.planning.survey import Values

from .findings import FAULT, REMARK, Finding

LEAST_INSIDE = 0.01  # of the span between the outer percentiles that the window must show


def intensity_findings(images: Mapping[str, Values], intensity: str, hu_window: Sequence[float]) -> list[Finding]:
    """Volumes whose values are no Hounsfield units, or lie outside the window.

    A volume without air and fat is a remark alone: a crop of soft tissue has none. z-scores suit every volume.
    """
    if intensity != "hu":
        return []
    findings = []
    for file, values in images.items():
        if reason := no_hu(values):
            what, severity = f"cannot be in Hounsfield units: {reason.why}", FAULT if reason.certain else REMARK
            remedy = "rescale it to HU, leave it out, or use zscore" if reason.certain else "look whether it is a crop"
            what = what if reason.certain else f"may not be in Hounsfield units: {reason.why}"
            findings.append(Finding(file, what, remedy, "intensity", severity))
        elif share_inside(values, hu_window) < LEAST_INSIDE:
            low, _, high = values.percentiles
            what = f"lies outside the window {list(hu_window)}: 99 % of it is {low:.4g} to {high:.4g}"
            findings.append(Finding(file, what, "choose another hu_window", "intensity"))
    return findings
