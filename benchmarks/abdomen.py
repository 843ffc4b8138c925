"""Two synthetic abdomens unlike `desd phantom`, on which recipes are compared: many small organs, and thick slices.

`abdct`: CT of 13 organs (those of BTCV), stored as 0 to 255, 128 x 128 x 78 voxels of 2.7 x 2.7 x 3 mm.
`abdmr`: MR of 4 of them, 256 x 256 x 36 voxels of 1.25 x 1.25 x 7.7 mm, another contrast for each tissue of each scan.
`abdmr_study`: 50 other patients of the same kind, on which no recipe was chosen.

    python -m benchmarks.abdomen FOLDER

20 cases of the first two; the same ones each time. Solids are ellipsoids and tubes in a warped patient, values HU;
what is worth knowing of a real abdomen is not in them.
"""

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from desd_tools.studies.phantom.solids import rotation

ORGANS = (
    *("spleen", "rkidney", "lkidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "ivc", "veins"),
    *("pancreas", "radrenal", "ladrenal"),
)
MR_ORGANS = {"liver": 0.42, "rkidney": 0.75, "lkidney": 0.75, "spleen": 0.62}  # signal
FAT = -98  # HU, in which bowel and organs lie


class Patient:
    """One patient on a grid: `values` (X, Y, Z) in HU and `labels`, to which organs are added one over another."""

    def __init__(self, rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> None:
        axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
        self.rng, self.points = rng, np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        size = rng.uniform(0.88, 1.12)
        for along in self.points:  # mm; x to the patient's right, y to the front, z to the head
            along += smooth(rng, shape, 4, 7) + smooth(rng, shape, 9, 1.5)
        self.points /= size
        self.points -= rng.normal(0, 5, 3)[:, None, None, None]
        self.values, self.labels = np.full(shape, -1000.0, np.float32), np.zeros(shape, np.uint8)
        self.contrast = rng.uniform(0, 1)

    def near(self, *numbers: float, spread: Sequence[float]) -> np.ndarray:
        """A place in mm, moved at random."""
        return np.array([n + self.rng.normal(0, s) if s else n for n, s in zip(numbers, spread, strict=True)])

    def ball(
        self,
        center: Sequence[float],
        radii: Sequence[float] | np.ndarray,
        turn: float = 10,
        shift: float = 5,
        vary: float = 0.12,
        power: float = 2.0,
    ) -> np.ndarray:
        """Voxels in an ellipsoid, moved, stretched and turned (degrees) at random."""
        where = np.array(center) + self.rng.normal(0, shift, 3)
        size = np.array(radii) * np.exp(self.rng.uniform(-vary, vary, 3))
        frame = rotation(np.radians(self.rng.uniform(-turn, turn, 3))) / size[None, :]
        offset = self.points - where[:, None, None, None].astype(np.float32)
        return (np.abs(np.tensordot(frame.T.astype(np.float32), offset, 1)) ** power).sum(0) < 1

    def tube(self, path: Sequence[Sequence[float] | np.ndarray], radius: float) -> np.ndarray:
        """Voxels nearer than `radius` to a line through points."""
        inside = np.zeros(self.values.shape, bool)
        for start, end in itertools.pairwise(path):
            along = np.array(end, np.float32) - np.array(start, np.float32)
            offset = self.points - np.array(start, np.float32)[:, None, None, None]
            share = np.clip(np.tensordot(along, offset, 1) / (along @ along), 0, 1)
            inside |= ((offset - along[:, None, None, None] * share) ** 2).sum(0) < radius**2
        return inside

    def soft(self, inside: np.ndarray) -> np.ndarray:
        """Without the lungs and the air around."""
        return inside & ((self.values > -200) | (self.values == FAT))

    def put(self, inside: np.ndarray, value: float, organ: str | None = None) -> None:
        """Let voxels be of one value in HU, and of one organ."""
        self.values[inside] = value
        self.labels[inside] = ORGANS.index(organ) + 1 if organ else 0


def smooth(rng: np.random.Generator, shape: Sequence[int], cells: int, amplitude: float) -> np.ndarray:
    """A random field (X, Y, Z), interpolated between `cells` values along each axis."""
    knots = rng.normal(0, amplitude, (cells,) * 3)
    return zoom(knots, [size / cells for size in shape], order=3, mode="nearest", grid_mode=True)


def draw_patient(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> Patient:
    """Trunk, bowel, then the organs, the large ones first."""
    one = Patient(rng, shape, spacing)
    contrast = one.contrast
    add_trunk(one)
    liver = rng.uniform(50, 65) + 50 * contrast + rng.normal(0, 5)
    one.put(one.soft(one.ball((72, 8, 48), (62, 78, 72), 8, 5, 0.12, 2.3)), liver, "liver")
    one.put(one.soft(one.ball((10, 46, 62), (62, 34, 36), 8, 5)), liver, "liver")
    one.put(one.ball((48, 52, 8), (16, 18, 28), 20, 5, 0.25), rng.uniform(2, 22), "gallbladder")
    stomach = rng.uniform(20, 70) + 30 * contrast
    one.put(one.soft(one.ball((-62, 34, 55), (38, 34, 52), 20, 6, 0.18)), stomach, "stomach")
    one.put(one.soft(one.ball((-20, 50, 5), (48, 22, 24), 20, 6, 0.18)), stomach, "stomach")
    bubble = one.ball((-65, 44, 60), (22, 14, 24), 20, 6, 0.3)
    one.put(bubble, -850 if rng.random() < 0.5 else stomach + rng.uniform(0, 60), "stomach")
    spleen = one.soft(one.ball((-98, -34, 50), (30, 44, 54), 15, 6, 0.18))
    one.put(spleen, rng.uniform(45, 58) + 60 * contrast, "spleen")
    add_kidneys(one, rng.uniform(30, 45) + 120 * contrast)
    tissue = rng.uniform(35, 50) + 55 * contrast
    places = ((34, 12, -10), (12, 18, 2), (-18, 8, 10), (-48, -10, 22), (-74, -22, 34))
    path = [np.array(place) + rng.normal(0, 5, 3) for place in places]
    one.put(one.tube(path, rng.uniform(9, 12)), tissue, "pancreas")
    behind = [place + np.array([0, -11, 3]) for place in path[1:]]
    portal = np.array((44, 14, 34.0)) + rng.normal(0, 4, 3)
    one.put(one.tube([portal, *behind], rng.uniform(4.5, 6)), 45 + 105 * contrast, "veins")
    add_vessels(one)
    for side, organ in ((1, "radrenal"), (-1, "ladrenal")):
        middle = one.near(side * 42, -40, 36, spread=(4, 4, 5))
        limbs = [middle + np.array([side * 8, -10, -9]), middle, middle + np.array([-side * 4, -12, -8])]
        one.put(one.tube(limbs, 4.2), 42 + 40 * contrast, organ)
    return one


def add_trunk(one: Patient) -> None:
    """Skin fat, muscle, lungs, spine, and bowel with the values of organs."""
    rng, fat = one.rng, one.rng.uniform(8, 28)
    for wide, deep, value in ((165, 118, -105), (165 - fat, 118 - fat, 52), (150 - fat, 98 - fat, FAT)):
        one.put(one.ball((0, 0 if wide > 150 - fat else 4, 0), (wide, deep, 900), 0, 0, 0.03, 2.4), value)
    for side in (-1, 1):
        one.put(one.ball((side * 78, -8, 150), (66, 82, 100), 5, 4) & (one.values == FAT), -830)
    for side in (-1, 1):
        one.put(one.ball((side * 38, -62, -80), (18, 22, 110)), 55)
    one.put(one.ball((0, -72, 0), (24, 22, 900), 0, 2), rng.uniform(180, 300))
    one.put(one.ball((0, -98, 0), (9, 9, 900), 0, 2), 25)
    for _ in range(rng.integers(14, 24)):
        where = (rng.uniform(-95, 95), rng.uniform(-30, 75), rng.uniform(-130, -20))
        value = rng.uniform(15, 70) + 60 * one.contrast * rng.random()
        one.put(one.soft(one.ball(where, rng.uniform(14, 30, 3), 90)), value)
        if rng.random() < 0.4:
            one.put(one.ball((where[0], where[1] + 6, where[2]), (10, 8, 10), 90, 0), -850)


def add_kidneys(one: Patient, cortex: float) -> None:
    """Both, each with a medulla and a fatty hilum."""
    for side, organ in ((1, "rkidney"), (-1, "lkidney")):
        z = -28 + (side < 0) * 10 + one.rng.normal(0, 8)
        x, y, z = one.near(side * 62, -52, z, spread=(4, 4, 0))
        one.put(one.ball((x, y, z), (27, 29, 55), 12, 0), cortex, organ)
        one.put(one.ball((x - side * 4, y, z), (15, 16, 34), 10, 0), cortex - 15 - 30 * one.contrast, organ)
        one.put(one.ball((x - side * 24, y + 6, z), (18, 12, 18), 10, 0), -80)


def add_vessels(one: Patient) -> None:
    """Aorta, vena cava and oesophagus."""
    rng, contrast = one.rng, one.contrast
    aorta = [one.near(-12, -38, z, spread=(3, 3, 0)) for z in (-300, -60, 60, 300)]
    one.put(one.tube(aorta, rng.uniform(9, 12)), 45 + 190 * contrast, "aorta")
    cava = [one.near(20, -34, z, spread=(3, 3, 0)) for z in (-300, -60, 60, 110)]
    one.put(one.tube(cava, rng.uniform(9, 13)), 45 + 105 * contrast, "ivc")
    top, middle = one.near(-8, -18, 300, spread=(3, 0, 0)), one.near(-10, -14, 85, spread=(3, 0, 0))
    one.put(one.tube([top, middle, (-38, 10, 75)], rng.uniform(7, 9)), 38 + 15 * contrast, "esophagus")


def ct(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Sequence[float]]:
    """Image, label and spacing of a CT exported with 8 bits."""
    shape, spacing = (128, 128, 78), (2.7, 2.7, 3.0)
    one = draw_patient(rng, shape, spacing)
    grain = gaussian_filter(rng.normal(0, 1, shape), 1.0) * 30 + rng.normal(0, 12, shape)
    image = (gaussian_filter(one.values, 0.6) + grain + 160) / 400 * 255
    return np.clip(image, 0, 255).round().astype(np.uint8), one.labels, spacing


def mr(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Sequence[float]]:
    """Image, label and spacing of an MR with a bias field."""
    shape, spacing = (256, 256, 36), (1.25, 1.25, 7.7)
    one = draw_patient(rng, shape, spacing)
    values = np.unique(one.values)
    signal = rng.uniform(0.1, 1, len(values))
    signal[values < -500] = 0.02
    is_fat = (values > -110) & (values < -90)
    signal[is_fat] = rng.uniform(0.7, 1)
    image, labels = signal[np.searchsorted(values, one.values)].astype(np.float32), np.zeros_like(one.labels)
    for organ in ("liver", "spleen", "rkidney", "lkidney"):
        image[one.labels == ORGANS.index(organ) + 1] = MR_ORGANS[organ] * np.exp(rng.normal(0, 0.12))
    image = gaussian_filter(image, (0.7, 0.7, 0.35)) * np.exp(smooth(rng, shape, 3, 0.18))
    image = image + rng.normal(0, 0.035, shape) + gaussian_filter(rng.normal(0, 1, shape), 1.2) * 0.08
    for value, organ in enumerate(MR_ORGANS, start=1):
        labels[one.labels == ORGANS.index(organ) + 1] = value
    return (np.clip(image, 0, None) * rng.uniform(300, 1500)).astype(np.int16), labels, spacing


def write(folder: Path, draw: Callable, organs: Sequence[str], patients: range, *parts: int) -> None:
    """A Decathlon folder of some patients, and a split: so many to train on, to validate with, and to test on."""
    names = [f"{folder.name}_{number:02d}" for number in patients]
    for room in ("imagesTr", "labelsTr"):
        (folder / room).mkdir(parents=True, exist_ok=True)
    for number, name in zip(patients, names, strict=True):
        image, label, spacing = draw(np.random.default_rng([7, number, len(organs)]))
        affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
        affine[:3, 3] = np.array([1, -1, -1]) * spacing * np.array(image.shape) / 2
        for room, voxels in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(voxels, affine), folder / room / f"{name}.nii.gz")
    content = {
        "name": folder.name,
        "modality": {"0": "CT" if draw is ct else "MRI"},
        "labels": {"0": "background", **{str(value): organ for value, organ in enumerate(organs, start=1)}},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    rest = iter(names)
    split = dict(zip(("train", "validation", "test"), ([*itertools.islice(rest, part)] for part in parts), strict=True))
    (folder / "splits.json").write_text(json.dumps(split))


if __name__ == "__main__":
    write(Path(sys.argv[1]) / "abdct", ct, ORGANS, range(20), 10, 10, 0)
    write(Path(sys.argv[1]) / "abdmr", mr, list(MR_ORGANS), range(20), 10, 10, 0)
    write(Path(sys.argv[1]) / "abdmr_study", mr, list(MR_ORGANS), range(100, 150), 34, 6, 10)
