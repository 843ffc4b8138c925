"""Whether the values of a volume can be Hounsfield units, and which of the two intensity settings suits a folder.

CT stores air at -1000, water at 0, fat at -100; magnitude images (MR) store nothing below zero to speak of. Ours: what
counts is the share of voxels below -50, for a few negative voxels come from interpolation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .findings import Finding
from .volume import Facts

LOWEST, HIGHEST = -3100.0, 35_000.0  # some scanners fill with -3024 outside the field of view; metal is bright
LEAST_RANGE = 100.0  # HU from the 1st to the 99th percentile, or the extremes; normalised images have a few units
SHARE_BELOW_ZERO = 0.005
LEAST_INSIDE = 0.01  # of the span between the 1st and the 99th percentile that the window must show


def not_hu(facts: Facts) -> str | None:
    """Why values cannot be Hounsfield units, or None when they can."""
    extremes = f"{facts.low:.4g} to {facts.high:.4g}"
    if facts.low < LOWEST or facts.high > HIGHEST:
        return f"its values reach from {extremes}"
    if facts.high - facts.low < LEAST_RANGE:
        return f"its values reach only from {extremes}, as if normalised"
    if facts.share_below_zero < SHARE_BELOW_ZERO:
        offset = "; were 1024 added to them?" if facts.low >= 0 and 500 < facts.percentiles[2] < 4096 else ""
        return f"it has no air or fat: its values reach from {extremes}{offset}"
    return None


def intensity_of(images: Sequence[Facts]) -> str:
    """What most images look like: "hu" or "zscore"."""
    ct = sum(not_hu(facts) is None for facts in images)
    return "hu" if 2 * ct > len(images) else "zscore"


def intensity_findings(images: Mapping[str, Facts], intensity: str, hu_window: Sequence[float]) -> list[Finding]:
    """Volumes that a window in Hounsfield units does not suit; z-scores suit every volume that is not constant."""
    if intensity != "hu":
        return []
    findings = []
    for file, facts in images.items():
        if reason := not_hu(facts):
            what, remedy = f"cannot be in Hounsfield units: {reason}", "rescale it to HU, leave it out, or use zscore"
            findings.append(Finding(file, what, remedy, "intensity"))
        elif share_inside(facts, hu_window) < LEAST_INSIDE:
            what = f"lies outside the window {list(hu_window)}: 98 % of it is {_span(facts)}"
            findings.append(Finding(file, what, "choose another hu_window", "intensity"))
    return findings


def share_inside(facts: Facts, window: Sequence[float]) -> float:
    """How much of the span from the 1st to the 99th percentile a window shows, 0 to 1."""
    low, _, high = facts.percentiles
    shown = min(high, window[1]) - max(low, window[0])
    return max(0.0, shown / (high - low)) if high > low else float(window[0] < low < window[1])


def _span(facts: Facts) -> str:
    return f"{facts.percentiles[0]:.4g} to {facts.percentiles[2]:.4g}"
