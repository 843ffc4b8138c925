"""A family of labelled, synthetic, CT-like volumes: enough variety that segmenting them has to be learnt.

Where from: ours. A patient (`patient.draw_patient`) is drawn on a grid of twice the resolution, which gives
partial volume; texture and noise follow.
Differs from a real abdomen in much: bodies are small (about 13 cm wide) so that volumes stay near 64 x 64 x 40 voxels,
organs are bent ellipsoids, and the bowel is a handful of balls. Results on it say that software works, not that a
method does.

The patient lies straight in the world, while each scan's grid is tilted, unequally spaced and stored in an orientation
of its own.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from desd_components.base.draws import keyed
from desd_components.base.errors import UserError

from .patient import CLASS_NAMES, draw_patient
from .solids import average, paint, rotation

logger = logging.getLogger(__name__)


ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI")
SMALLEST_SIZE = 24


@dataclass
class PhantomCase:
    """One scan and its truth; arrays are (X, Y, Z), values HU, the affine maps voxels to RAS+ mm."""

    image: np.ndarray
    label: np.ndarray
    noiseless: np.ndarray
    affine: np.ndarray
    tissue_hu: dict[str, float] = field(default_factory=dict)


def make_case(seed: int, index: int, size: int = 64) -> PhantomCase:
    """Build case ``index`` of the family ``seed``; ``size`` is the mean number of voxels in plane (24 or more).

    Smaller sizes shrink the patient, not the resolution, so that resampling to a spacing in mm does not blow them up.
    A draw in which a class is too small to own a voxel is drawn again, so every case shows every class.
    """
    if size < SMALLEST_SIZE:
        raise UserError(f"phantom size {size} is too small for its organs. Choose --size {SMALLEST_SIZE} or more.")
    for attempt in itertools.count():
        rng = keyed(seed, index, attempt)
        case = _draw_case(rng, size / 64)
        if len(np.unique(case.label)) == len(CLASS_NAMES):
            return case
    raise AssertionError("unreachable")


def _draw_case(rng: np.random.Generator, scale: float) -> PhantomCase:
    affine, shape = _draw_grid(rng, scale)
    solids = draw_patient(rng, scale * rng.uniform(0.9, 1.1))
    tissue = paint(solids, affine, shape, _draw_warp(rng, scale))
    hu = np.array([-1000.0] + [solid.hu for solid in solids], np.float32)
    texture_sd = np.array([0.0] + [solid.texture for solid in solids], np.float32)
    classes = np.array([0] + [solid.label for solid in solids])
    noiseless = average(hu[tissue]) + average(texture_sd[tissue]) * _smooth_noise(rng, shape, 1.5)
    label = np.argmax([average((classes == c)[tissue]) for c in range(len(CLASS_NAMES))], axis=0).astype(np.uint8)
    image = np.clip(noiseless + _scanner_noise(rng, shape), -1024, 3071).round().astype(np.int16)
    return PhantomCase(image, label, noiseless, affine, {solid.name: solid.hu for solid in solids})


def _draw_grid(rng: np.random.Generator, scale: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Draw an oblique affine and the shape that covers the body: spacing 1.5-2.5 mm in plane, 3-5 mm along z."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff

    in_plane = rng.uniform(1.6, 2.4)
    spacing = np.array([in_plane, in_plane * rng.uniform(0.94, 1.04), rng.uniform(3.0, 5.0)])
    extent = scale * np.array([146.0, 122.0, 156.0])
    shape = np.maximum(np.round(extent / spacing).astype(int), 8)
    tilt = rotation(np.radians(rng.uniform(3, 9, 3) * rng.choice([-1, 1], 3)))
    affine = np.eye(4)
    affine[:3, :3] = tilt * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    stored = axcodes2ornt(tuple(str(rng.choice(ORIENTATIONS))))
    x, y, z = (int(n) for n in shape)
    return affine @ inv_ornt_aff(stored, (x, y, z)), (x, y, z)  # axes flip, none swaps


def _draw_warp(rng: np.random.Generator, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """Draw a smooth displacement of a few mm, so that no organ is a plain ellipsoid."""
    waves = rng.normal(0, 1 / (26 * scale), (3, 3)).astype(np.float32)  # rad / mm
    phases, heights = rng.uniform(0, 2 * np.pi, 3), rng.uniform(1.5, 4.0, 3) * scale

    def warp(points: np.ndarray) -> np.ndarray:
        angle = waves @ points + phases[:, None].astype(np.float32)
        return points + heights[:, None].astype(np.float32) * np.sin(angle)

    return warp


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise of unit standard deviation, correlated over about ``sigma`` voxels in plane."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape, np.float32), (sigma, sigma, sigma / 2), truncate=3)
    return noise / noise.std()


def _scanner_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """White noise plus the coarser grain that a reconstruction kernel leaves, in HU."""
    white = rng.standard_normal(shape, np.float32)
    return rng.uniform(8, 16) * white + rng.uniform(6, 12) * _smooth_noise(rng, shape, 1.0)


def write_family(
    output: str | Path, num_labelled: int = 40, num_unlabelled: int = 60, seed: int = 0, size: int = 64
) -> Path:
    """Write a family in the layout of the Medical Segmentation Decathlon, with ``dataset.json`` and ``splits.json``.

    Labelled cases go to imagesTr and labelsTr and are split in blocks: 45 % train, 15 % validation, 40 % test;
    unlabelled ones go to imagesTs. Case i depends on (seed, i, size) only, whatever the counts.

    Raises:
        UserError: when fewer than 4 labelled volumes are asked for, or ``output`` holds other data already.
    """
    if num_labelled < 4 or num_unlabelled < 0:
        raise UserError(
            f"--num-labelled {num_labelled} --num-unlabelled {num_unlabelled}: a split into train, validation and test "
            "needs at least 4 labelled volumes, and the other number is 0 or more."
        )
    output = Path(output)
    if output.exists() and not (output / "phantom.json").exists() and any(output.iterdir()):
        raise UserError(f"{output}: the folder is not empty and no phantom family. Choose a new folder.")
    settings = {"num_labelled": num_labelled, "num_unlabelled": num_unlabelled, "seed": seed, "size": size}
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    (output / "phantom.json").write_text(json.dumps(settings, indent=1))
    names = [f"phantom_{i:03d}" for i in range(num_labelled + num_unlabelled)]
    for i, name in enumerate(names):
        case = make_case(seed, i, size)
        _save(case.image, case.affine, output / ("imagesTr" if i < num_labelled else "imagesTs") / f"{name}.nii.gz")
        if i < num_labelled:
            _save(case.label, case.affine, output / "labelsTr" / f"{name}.nii.gz")
    _write_lists(output, names[:num_labelled], names[num_labelled:])
    logger.info("%s: %d labelled and %d unlabelled phantoms, seed %d", output, num_labelled, num_unlabelled, seed)
    return output


def _save(volume: np.ndarray, affine: np.ndarray, path: Path) -> None:
    import nibabel as nib

    nifti = nib.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nib.save(nifti, path)


def _write_lists(output: Path, labelled: list[str], unlabelled: list[str]) -> None:
    """Write dataset.json and splits.json, with the keys of the Decathlon's folders."""
    dataset = {
        "name": "Phantom",
        "description": "Synthetic CT-like volumes made by desd_components; no patient",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(i): name for i, name in enumerate(CLASS_NAMES)},
        "numTraining": len(labelled),
        "numTest": len(unlabelled),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in labelled],
        "test": [f"./imagesTs/{n}.nii.gz" for n in unlabelled],
    }
    first, second = max(1, round(0.45 * len(labelled))), max(1, round(0.15 * len(labelled)))
    splits = {
        "note": "Blocks of consecutive cases. Pre-training may see the images of train and validation and all of "
        "imagesTs, no label; test is for the end.",
        "train": labelled[:first],
        "validation": labelled[first : first + second],
        "test": labelled[first + second :],
    }
    (output / "dataset.json").write_text(json.dumps(dataset, indent=1))
    (output / "splits.json").write_text(json.dumps(splits, indent=1))
