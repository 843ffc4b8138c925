"""Cases that several arms have segmented, read from their files and shown side by side.

Where from: ours, in the look of the pages' pictures.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from desd_components.base.errors import UserError
from desd_components.pages.compare import best_median_worst, case_scores
from desd_components.pages.figures import to_svg
from desd_components.pages.page import Section, html
from desd_components.pages.runs import Run
from desd_components.pages.slices import case_figure, window_words
from desd_components.scans.labelled import LabelledData
from desd_components.scans.names import CaseNames, Scan, result_name, scan_files, without_suffix
from desd_components.scans.read import open_volume


@dataclass
class Case:
    """One scan with its truth and each arm's prediction: files on one grid."""

    name: str
    image: Path
    truth: Path
    predictions: dict[str, Path]


def find_cases(labelled: LabelledData, folders: Mapping[str, Path]) -> list[Case]:
    """The test cases that every arm has segmented; see `find_case`."""
    found = [find_case(scan, labelled.case_names, folders) for scan in labelled.test]
    return [case for case in found if case is not None]


def find_case(scan: Scan, names: CaseNames, folders: Mapping[str, Path]) -> Case | None:
    """The case of a labelled scan that every arm has segmented; None where a prediction is missing.

    Args:
        scan: ``{"image": ..., "label": ...}``.
        names: of the data that it belongs to.
        folders: by arm, where the results of its inference lie; a result bears the name of its scan.
    """
    image = scan_files(scan, ("image",))[0]
    result = PurePath(names.file(image)).with_name(result_name(image))
    found = {arm: sorted(folder.rglob(glob.escape(str(result)))) for arm, folder in folders.items()}
    if not all(found.values()):
        return None
    predictions = {arm: paths[0] for arm, paths in found.items()}
    return Case(names.image(image), Path(image), Path(scan["label"]), predictions)


def _as_nifti(path: str | Path) -> Any:
    """A scan of any format as nibabel's image."""
    import nibabel as nib

    volume = open_volume(path)
    return nib.nifti1.Nifti1Image(np.asarray(volume.read(), np.float32), volume.affine)


def load_case(case: Case) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], list[float]]:
    """Volumes of a case turned to RAS+ axes, and the spacing in mm.

    Raises:
        UserError: when a prediction or the truth does not lie on the image's grid.
    """
    import nibabel as nib

    image = _as_nifti(case.image)
    volumes = {}
    for what, path in {"truth": case.truth, **case.predictions}.items():
        label = _as_nifti(path)
        if label.shape[:3] != image.shape[:3] or not np.allclose(label.affine, image.affine, atol=1e-3):
            raise UserError(f"{path}: not on the grid of {case.image}. Write predictions on the scan's own grid.")
        volumes[what] = np.asarray(nib.as_closest_canonical(label).dataobj).astype(np.int16)
    canonical = nib.as_closest_canonical(image)
    voxels = np.asarray(canonical.dataobj, np.float32)
    voxels = voxels[..., 0] if voxels.ndim == 4 else voxels
    return voxels, volumes.pop("truth"), volumes, [float(s) for s in canonical.header.get_zooms()[:3]]


def slices_section(cases: Sequence[Case], runs: Sequence[Run]) -> Section:
    """Best, median and worst of the cases that every arm has predicted, by Dice averaged over the arms."""
    chosen = pick_cases(cases, runs)
    parts = []
    for word, case in chosen.items():
        image, truth, predictions, spacing = load_case(case)
        scores = [f"{run.name}: Dice {score_of(run, case):.3f}" for run in runs if run.name in predictions]
        svg = to_svg(case_figure(image, truth, predictions, spacing), f"{word}-{case.name}")
        caption = (
            f"{case.name}. {'; '.join(scores)}. White: truth; coloured: prediction. Each plane is the one that shows "
            f"most of the truth; voxels of {' x '.join(f'{s:.2f}' for s in spacing)} mm in their true proportion; "
            f"{window_words(image)}; letters: the patient's right, left, front (A), back (P), head, feet."
        )
        parts.append(html.figure(svg, f"{word.capitalize()} case.", caption))
    return Section("What it looks like", parts)


def pick_cases(cases: Sequence[Case], runs: Sequence[Run]) -> dict[str, Case]:
    """The best, the median and the worst case by mean Dice over the runs."""
    return best_median_worst(sorted(cases, key=lambda case: -float(np.mean([score_of(run, case) for run in runs]))))


def score_of(run: Run, case: Case) -> float:
    """Mean Dice over classes of one case in one run; NaN where it was not scored."""
    return next((v for image, v in case_scores(run.metrics).items() if without_suffix(image) == case.name), math.nan)
