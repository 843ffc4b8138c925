"""What a person should look at before training on a folder, for no plan can mend it: one line each, with names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..names import first_few
from .intensity import looks_like_ct, no_hu
from .survey import Survey, Surveyed

FOREIGN = 3.0  # a spacing so many times the others', or a part of them, along an axis
FEW = 0.1  # of the scans: a spacing that more of them have is one of the folder's own


def oddities(seen: Survey) -> list[str]:
    """Mixed modalities, foreign spacings and classes of a single case, in the scans of a survey."""
    return [*_mixed_modalities(seen.scans), *_foreign_spacings(seen.scans), *_lone_classes(seen.scans)]


def _mixed_modalities(scans: Sequence[Surveyed]) -> Iterator[str]:
    sampled = [(scan, scan.values) for scan in scans if scan.values is not None]
    ct = [scan for scan, values in sampled if looks_like_ct(values)]
    reasons = [(scan, no_hu(values)) for scan, values in sampled]
    other = [scan for scan, reason in reasons if reason is not None and reason.certain]
    if ct and other:
        few, many, are = (ct, other, "CT") if len(ct) < len(other) else (other, ct, "no CT in Hounsfield units")
        yield (
            f"mixed modalities: {len(few)} of {len(sampled)} scans looked at are {are}, unlike {len(many)} others: "
            f"{_named(few)}. Give each modality a folder, or a data_split, of its own; for both at once set "
            "`--intensity zscore`."
        )


def _foreign_spacings(scans: Sequence[Surveyed]) -> Iterator[str]:
    if len(scans) < 3:
        return
    spacings = np.array([scan.spacing for scan in scans])
    usual = np.median(spacings, axis=0)
    ratios = np.maximum(spacings / usual, usual / spacings).max(axis=1)
    foreign = [scan for scan, ratio in zip(scans, ratios, strict=True) if ratio > FOREIGN]
    if foreign and len(foreign) <= max(1, FEW * len(scans)):
        first, others = (" x ".join(f"{mm:.3g}" for mm in sizes) for sizes in (foreign[0].spacing, usual))
        yield (
            f"foreign spacing: {len(foreign)} of {len(scans)} scans, the first of {first} mm where {others} mm are "
            f"usual: {_named(foreign)}. Mend the header where it is wrong; leave the scan out, by data_split, where it "
            "is of another kind."
        )


def _lone_classes(scans: Sequence[Surveyed]) -> Iterator[str]:
    labelled = [scan for scan in scans if scan.boxes]
    for value in sorted({value for scan in labelled for value in scan.boxes if value > 0}):
        having = [scan for scan in labelled if value in scan.boxes]
        if len(having) == 1 < len(labelled):
            yield (
                f"class {value} is labelled in one of {len(labelled)} cases looked at, {_named(having)}: too little to "
                "learn or to score. Label it in more cases; all data_split sections need some."
            )


def _named(scans: Sequence[Surveyed]) -> str:
    return first_few([Path(scan.file).name for scan in scans])
