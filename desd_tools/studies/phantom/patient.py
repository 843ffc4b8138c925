"""One synthetic patient: organs as simple solids, drawn one over another; values in HU, moved and turned at random.

Where from: ours; tissue values are textbook ranges, widened until the organs overlap. World coordinates are RAS+ in mm
about the middle of the body (+x the patient's right, +y front, +z head).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .solids import Solid, ellipsoid, rotation, tube

Point = Sequence[float] | np.ndarray
CLASS_NAMES = ("background", "liver", "spleen", "kidneys", "lesion")
BODY_HALF_WIDTH = 62.0  # mm, of the mean patient; every solid scales with it


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


def draw_patient(rng: np.random.Generator, scale: float) -> list[Solid]:
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
    """A right and a left lobe, vessels in them, and one lesion, darker than the organ."""
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
    # Large enough to be learnt in minutes: with a third of its voxels, eight labels and 520 steps gave Dice 0.000.
    spot, radius = middle / unit + rng.uniform(-0.1, 0.1, 3), rng.uniform(0.2, 0.28)
    lesion = hu - rng.uniform(50, 70)
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
