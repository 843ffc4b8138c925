"""Run folders as their runs left them, and cases with the predictions of several runs: what the pages are made of.

Where from: ours. Reads only; a run that was stopped half way gives what it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from desd_components.errors import UserError
from desd_components.reading import open_volume


@dataclass
class Run:
    """What one run left in its folder; whatever it did not write is empty."""

    folder: Path
    name: str
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def pretraining(self) -> bool:
        """Whether it is a self-distillation: its history tells of a teacher."""
        return any("teacher_entropy" in row or "stage_1_loss" in row for row in self.history)

    def setting(self, key: str) -> Any:
        """A top-level setting of the resolved config; None where there is none."""
        import yaml

        return (yaml.safe_load(self.config) or {}).get(key) if self.config else None


@dataclass
class Case:
    """One scan with its truth and each arm's prediction: files on one grid."""

    name: str
    image: Path
    truth: Path
    predictions: dict[str, Path]


def read_run(folder: str | Path, name: str = "", metrics: str | Path = "") -> Run:
    """Read a run's folder; ``metrics``: where its evaluation lies, when that is elsewhere.

    Raises:
        UserError: when the folder is missing or holds no part of a run, or a file in it cannot be read.
    """
    folder = Path(folder)
    run = Run(folder, name or folder.name)
    history, scores = folder / "history.jsonl", Path(metrics) if metrics else folder / "metrics.json"
    if not history.is_file() and not scores.is_file():
        raise UserError(f"{folder}: neither history.jsonl nor metrics.json is there. Name the output_dir of a run.")
    try:
        if history.is_file():
            run.history = [json.loads(line) for line in history.read_text().splitlines() if line.strip()]
        run.metrics = json.loads(scores.read_text()) if scores.is_file() else {}
        if (folder / "environment.json").is_file():
            run.environment = json.loads((folder / "environment.json").read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{folder}: a record of the run is not JSON ({error}). Run it again or mend the file."
        ) from error
    if (folder / "config.yaml").is_file():
        run.config = (folder / "config.yaml").read_text()
    if (folder / "train.log").is_file():
        lines = (folder / "train.log").read_text(errors="replace").splitlines()
        run.warnings = list(dict.fromkeys(_message(line) for line in lines if " WARNING desd_components" in line))
    return run


def _message(line: str) -> str:
    return line.partition(" WARNING ")[2].partition(": ")[2]


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
