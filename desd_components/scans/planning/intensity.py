"""Which of the two intensity settings suits a folder: what it says itself, held against its voxels; in doubt z-scores.

CT stores air at -1000, fat at -100, water at 0. Magnitude images (MR) store nothing below zero to speak of, PET
nothing at all; exports of CT as 0-255, normalised volumes and scaled ones are no Hounsfield units, whatever a
``dataset.json`` says. A window suits Hounsfield units alone; z-scores suit every volume that is not constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .survey import Survey, Values

LOWEST, HIGHEST = -3100.0, 35_000.0  # some scanners fill with -3024 outside the field of view; metal is bright
LEAST_RANGE = 100.0  # HU from the lowest to the highest; normalised images have a few units
LEAST_AIR = 0.01  # of the voxels, which makes a volume CT where nothing says so
LEAST_BELOW_ZERO = 0.005  # of the voxels below -50, air or fat, which CT of any body part has


@dataclass(frozen=True)
class Intensity:
    """A choice: "hu" or "zscore", with its reason, and what a person should look at, if anything."""

    kind: str
    why: str
    remark: str | None = None


@dataclass(frozen=True)
class NoHU:
    """Why values are no Hounsfield units; `certain` is False where a crop of soft tissue would look the same."""

    why: str
    certain: bool = True


def no_hu(values: Values) -> NoHU | None:
    """Why values cannot be Hounsfield units, or may not be; None when they can."""
    extremes = f"{values.low:.4g} to {values.high:.4g}"
    if values.low < LOWEST or values.high > HIGHEST:
        return NoHU(f"its values reach from {extremes}")
    if values.high - values.low < LEAST_RANGE:
        return NoHU(f"its values reach only from {extremes}, as if normalised")
    if values.below_zero >= LEAST_BELOW_ZERO:
        return None
    if values.low >= 0:
        offset = "; were 1024 added to them?" if 500 < values.percentiles[2] < 4096 else ""
        return NoHU(f"it has no air or fat: its values reach from {extremes}{offset}")
    return NoHU(f"it has hardly any air or fat: its values reach from {extremes}", certain=False)


def looks_like_ct(values: Values) -> bool:
    """Whether a volume can be nothing but CT: possible Hounsfield units, of which a part is air."""
    return no_hu(values) is None and values.air >= LEAST_AIR


def chosen_intensity(seen: Survey) -> Intensity:
    """What suits the scans of a survey."""
    sampled = [scan.values for scan in seen.scans if scan.values is not None]
    if not sampled:
        return Intensity("zscore", "no volume could be looked at")
    reasons = [no_hu(values) for values in sampled]
    impossible = [reason for reason in reasons if reason is not None and reason.certain]
    said = (seen.modality or "").strip()
    if is_ct(said):
        if 2 * len(impossible) <= len(sampled):
            return Intensity("hu", f"the data say {said}, and the values can be Hounsfield units")
        remark = f"the data say {said}, but the values are no Hounsfield units ({impossible[0].why})"
        return Intensity("zscore", "no Hounsfield units, whatever the data say: each volume is normalised", remark)
    if said:
        return Intensity("zscore", f"the data say {said}: each volume is normalised by itself")
    if 2 * sum(map(looks_like_ct, sampled)) > len(sampled):
        return Intensity("hu", "air, fat and tissue lie where Hounsfield units have them")
    if 2 * len(impossible) <= len(sampled):
        remark = "the values could be Hounsfield units, but nothing says so: for CT add `--intensity hu`"
        return Intensity("zscore", "nothing says what the scans are: each volume is normalised by itself", remark)
    low, high = (edge(values.high for values in sampled) for edge in (min, max))
    return Intensity("zscore", f"no Hounsfield units; maxima run from {low:.4g} to {high:.4g}: each is normalised")


def is_ct(modality: str) -> bool:
    """Whether a name of a modality, as people write it, means CT."""
    words = modality.upper().replace("-", " ").replace("_", " ").split()
    return bool({"CT", "CTA", "CECT", "NCCT", "HU"} & set(words)) or "COMPUTED TOMOGRAPHY" in " ".join(words)


def share_inside(values: Values, window: Sequence[float]) -> float:
    """How much of the span between the outer percentiles a window shows, 0 to 1."""
    low, _, high = values.percentiles
    shown = min(high, window[1]) - max(low, window[0])
    return max(0.0, shown / (high - low)) if high > low else float(window[0] < low < window[1])
