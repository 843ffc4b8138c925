"""A family of labelled, synthetic, CT-like volumes: enough variety that segmenting them has to be learnt.

Where from: ours; tissue values in HU are textbook ranges, widened until the organs overlap. A patient is a list of
simple solids (`Solid`) drawn one over another on a grid of twice the resolution, which gives partial volume; texture
and noise follow.
Differs from a real abdomen in much: bodies are small (about 13 cm wide) so that volumes stay near 64 x 64 x 40 voxels,
organs are bent ellipsoids, and the bowel is a handful of balls. Results on it say that software works, not that a
method does.

World coordinates are RAS+ in mm about the middle of the body (+x the patient's right, +y front, +z head); the patient
lies straight in the world, while each scan's grid is tilted, unequally spaced and stored in an orientation of its own.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from desd_components.errors import UserError
from desd_components.tools.solids import Solid, average, ellipsoid, paint, rotation, tube

logger = logging.getLogger(__name__)

Point = Sequence[float] | np.ndarray
CLASS_NAMES = ("background", "liver", "spleen", "kidneys", "lesion")
BODY_HALF_WIDTH = 62.0  # mm, of the mean patient; every solid scales with it
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
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, attempt])))
        case = _draw_case(rng, size / 64)
        if len(np.unique(case.label)) == len(CLASS_NAMES):
            return case
    raise AssertionError("unreachable")


def _draw_case(rng: np.random.Generator, scale: float) -> PhantomCase:
    affine, shape = _draw_grid(rng, scale)
    solids = _draw_patient(rng, scale * rng.uniform(0.9, 1.1))
    tissue = paint(solids, affine, shape, _draw_warp(rng, scale))
    hu = np.array([-1000.0] + [solid.hu for solid in solids], np.float32)
    texture_sd = np.array([0.0] + [solid.texture for solid in solids], np.float32)
    classes = np.array([0] + [solid.label for solid in solids])
    noiseless = average(hu[tissue]) + average(texture_sd[tissue]) * _smooth_noise(rng, shape, 1.5)
    label = np.argmax([average((classes == c)[tissue]) for c in range(len(CLASS_NAMES))], axis=0).astype(np.uint8)
    image = np.clip(noiseless + _scanner_noise(rng, shape), -1024, 3071).round().astype(np.int16)
    return PhantomCase(image, label, noiseless, affine, {solid.name: solid.hu for solid in solids})


# the grid


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


# the patient


class _Sculptor:
    """Adds solids given in fractions of the body's half width, each moved, turned and scaled a little at random."""

    def __init__(self, rng: np.random.Generator, scale: float) -> None:
        self.rng, self.unit, self.solids = rng, BODY_HALF_WIDTH * scale, list[Solid]()

    def ball(
        self,
        name: str,
        center: Point,
        radii: Point,
        hu: float,
        *,
        vary: float = 0.1,
        turn: float = 15.0,
        power: float = 2.0,
        texture: float = 4.0,
        label: str = "background",
        within: tuple[str, ...] = (),
    ) -> Solid:
        """Add an ellipsoid; ``vary`` is the relative spread of its size, ``turn`` of its angles in degrees."""
        rng = self.rng
        where = self.unit * (np.array(center) + rng.normal(0, 0.4 * vary, 3))
        size = self.unit * np.array(radii) * np.exp(rng.uniform(-vary, vary, 3))
        inside = ellipsoid(where, size, rotation(np.radians(rng.uniform(-turn, turn, 3))), power)
        reach = float(size.max()) * 3 ** max(0.0, 0.5 - 1 / power)
        return self._add(Solid(name, inside, where, reach, hu, texture, CLASS_NAMES.index(label), within))

    def tube(
        self,
        name: str,
        middle: np.ndarray,
        half: np.ndarray,
        radius: float,
        hu: float,
        *,
        texture: float = 4.0,
        label: str = "background",
        within: tuple[str, ...] = (),
    ) -> Solid:
        """Add a tube from ``middle - half`` to ``middle + half`` (mm); ``radius`` in fractions of the half width."""
        inside = tube(middle - half, middle + half, radius * self.unit)
        reach = float(np.linalg.norm(half)) + radius * self.unit
        return self._add(Solid(name, inside, middle, reach, hu, texture, CLASS_NAMES.index(label), within))

    def _add(self, solid: Solid) -> Solid:
        self.solids.append(solid)
        return solid


def _draw_patient(rng: np.random.Generator, scale: float) -> list[Solid]:
    """Draw one patient: solids in painting order. Contrast agent and organ values are drawn per patient."""
    sculptor = _Sculptor(rng, scale)
    contrast = rng.uniform(0, 1)  # 0 native, 1 full contrast agent
    _add_trunk(sculptor, contrast)
    _add_distractors(sculptor, contrast)
    _add_liver(sculptor, contrast)
    _add_spleen_and_kidneys(sculptor, contrast)
    return sculptor.solids


def _add_trunk(sculptor: _Sculptor, contrast: float) -> None:
    """Skin fat, muscle wall, cavity, lung bases, spine, psoas and the great vessels."""
    rng, endless, unit = sculptor.rng, 9.0, sculptor.unit
    wide, deep, fat = rng.uniform(0.94, 1.0), rng.uniform(0.72, 0.8), rng.uniform(0.05, 0.14)
    for name, inset, hu in (("skin fat", 0.0, -105.0), ("wall", fat, 52.0), ("fat", fat + 0.09, -98.0)):
        radii = (wide - inset, deep - inset, endless)
        sculptor.ball(name, (0, 0, 0), radii, hu + rng.normal(0, 6), vary=0, turn=0, power=2.4, texture=7)
    for side in (-1, 1):
        lung = (side * 0.42, -0.05, rng.uniform(1.28, 1.42))
        sculptor.ball(f"lung {side}", lung, (0.42, 0.6, 0.62), -830, vary=0.06, texture=35, within=("fat",))
        sculptor.ball(f"psoas {side}", (side * 0.24, -0.36, -0.75), (0.13, 0.15, 0.7), 56 + rng.normal(0, 5))
    spine, along = np.array([0.0, -0.46 * unit, 0.0]), np.array([0.0, 0.0, 3 * unit])
    sculptor.tube("bone", spine, along, 0.19, rng.uniform(240, 420), texture=30)
    sculptor.tube("marrow", spine, along, 0.15, rng.uniform(110, 200), texture=25)
    for n, z in enumerate(np.arange(-1.4, 1.5, rng.uniform(0.36, 0.44)) + rng.uniform(0, 0.3)):
        sculptor.ball(f"disc {n}", (0, -0.46, z), (0.18, 0.18, 0.05), 85, vary=0, turn=4)
    canal = spine - np.array([0, 0.24 * unit, 0])
    sculptor.tube("arch", canal, along, 0.12, rng.uniform(280, 450), texture=30)
    sculptor.tube("canal", canal, along, 0.075, 25)
    for name, x, hu in (("aorta", -0.08, 45 + 190 * contrast), ("vena cava", 0.14, 45 + 110 * contrast)):
        middle = unit * np.array([x, -0.2 + rng.normal(0, 0.02), 0])
        lean = unit * np.array([rng.normal(0, 0.05), rng.normal(0, 0.05), 1.6])
        sculptor.tube(name, middle, lean, rng.uniform(0.06, 0.085), hu, texture=3)


def _add_distractors(sculptor: _Sculptor, contrast: float) -> None:
    """Unlabelled organs with the values of labelled ones: stomach, bowel loops, gall bladder."""
    rng = sculptor.rng
    sculptor.ball("stomach", (-0.38, 0.26, 0.42), (0.26, 0.22, 0.3), 55 + 45 * contrast, vary=0.2, texture=14, turn=25)
    sculptor.ball("meal", (-0.38, 0.24, 0.4), (0.2, 0.16, 0.22), rng.uniform(10, 120), vary=0.2, within=("stomach",))
    for n in range(int(rng.integers(9, 16))):
        where = (rng.uniform(-0.6, 0.6), rng.uniform(0.0, 0.42), rng.uniform(-1.2, -0.3))
        hu, radii = rng.uniform(20, 70) + 80 * contrast * rng.random(), rng.uniform(0.1, 0.2, 3)
        sculptor.ball(f"bowel {n}", where, radii, hu, texture=12, turn=90, within=("fat",))
        if rng.random() < 0.3:
            gas = (where[0], where[1] + 0.05, where[2])
            sculptor.ball(f"gas {n}", gas, (0.06, 0.05, 0.07), -850, within=(f"bowel {n}",))
    sculptor.ball("gall bladder", (0.28, 0.3, -0.02), (0.09, 0.1, 0.15), rng.uniform(0, 25), vary=0.2)


def _add_liver(sculptor: _Sculptor, contrast: float) -> None:
    """A right and a left lobe, vessels in them, and one lesion, darker or brighter than the organ."""
    rng, unit = sculptor.rng, sculptor.unit
    hu = rng.uniform(48, 66) + 55 * contrast + rng.normal(0, 6)
    tissue: tuple[str, ...] = ("liver", "left lobe")
    places = ((0.43, 0.03, 0.42), (0.06, 0.24, 0.52))
    sizes = ((0.33, 0.42, 0.46), (0.34, 0.2, 0.24))
    for name, place, radii in zip(tissue, places, sizes, strict=True):
        sculptor.ball(name, place, radii, hu, texture=10, vary=0.14, power=2.3, label="liver")
    middle = sculptor.solids[-2].center  # of the right lobe
    for n in range(5):
        root = middle + unit * np.array([-0.2, 0.0, rng.normal(0, 0.1)])
        tip = middle + unit * rng.uniform((-0.1, -0.4, -0.4), (0.35, 0.4, 0.4))
        vessel, radius = hu + rng.uniform(-12, -4) + 55 * contrast, rng.uniform(0.02, 0.04)
        sculptor.tube(f"vessel {n}", (root + tip) / 2, (tip - root) / 2, radius, vessel, label="liver", within=tissue)
        tissue += (f"vessel {n}",)
    spot, radius = middle / unit + rng.uniform(-0.16, 0.16, 3), rng.uniform(0.12, 0.2)
    lesion = hu + rng.choice([-1, -1, 1]) * rng.uniform(28, 50)
    sculptor.ball("lesion", spot, (radius,) * 3, lesion, texture=12, label="lesion", within=tissue)


def _add_spleen_and_kidneys(sculptor: _Sculptor, contrast: float) -> None:
    """A spleen nearly as bright as the liver, and two kidneys with cortex, medulla and a fatty hilum."""
    rng = sculptor.rng
    spleen = rng.uniform(42, 60) + 62 * contrast + rng.normal(0, 6)
    sculptor.ball("spleen", (-0.56, -0.2, 0.4), (0.16, 0.27, 0.34), spleen, vary=0.14, turn=20, label="spleen")
    cortex = rng.uniform(32, 50) + 125 * contrast
    for side in (-1, 1):
        x, y, z = side * 0.42, -0.34, -0.35 + rng.normal(0, 0.08)
        whole, inner = f"kidney {side}", f"medulla {side}"
        sculptor.ball(whole, (x, y, z), (0.17, 0.17, 0.32), cortex, texture=7, label="kidneys")
        medulla, place = cortex - rng.uniform(5, 20) - 35 * contrast, (x - side * 0.02, y, z)
        sculptor.ball(inner, place, (0.1, 0.1, 0.2), medulla, texture=7, label="kidneys", within=(whole,))
        pelvis = (x - side * 0.15, y + 0.04, z)
        sculptor.ball(f"hilum {side}", pelvis, (0.12, 0.08, 0.12), -80, within=(whole, inner))


# the family on disk


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
