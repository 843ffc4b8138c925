"""What both bundles plan alike: intensity, grid, window and strides, of what a survey has seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .grid import alike, deepest, fitted_spacing, levels, own_spacing, window_size
from .intensity import chosen_intensity
from .machine import Machine
from .oddities import oddities
from .survey import Survey

CROPS = 2  # of a fine-tuning's step
STEPS = 1000  # of a fine-tuning, for which a window leaves room
COARSE_STEPS = 500  # the same where the grid is coarser than the scans: half the steps, and it is less so
EPOCHS = 20  # of a planned run
SMALLER = 1.4  # how much larger than a view all but the smallest tenth of the volumes are, along each axis
FIELD = 1.25  # of the box that holds all classes: what a window shows
WHOLE = 0.9  # of a class that its largest connected piece holds, where the rest is specks
UNLABELLED_FIELD = 0.6  # of a volume, where no label says where the organs are
TURN = (0.2, 0.2, 0.3)  # radians of rotations about x, y, z on a grid of cubes
GIVEN = "given"
Given = Callable[[str], Sequence[Any]]  # config id -> [value] of what is not to be planned, [] of what is


def none_given(entry: str) -> Sequence[Any]:
    """Nothing is given: all is planned."""
    return []


@dataclass
class Plan:
    """Numbers of a config by name, each with its reason.

    Attributes:
        numbers: name -> (value, reason).
        remarks: what a person should look at.
        entries: name -> id of the config's entry, where it is not the name.
    """

    numbers: dict[str, tuple[Any, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)

    def get(self, name: str, otherwise: Any = None) -> Any:
        """The planned value, or `otherwise` where nothing is planned."""
        return self.numbers[name][0] if name in self.numbers else otherwise

    def settings(self) -> dict[str, Any]:
        """The planned values by name, for manifests and records."""
        return {name: value for name, (value, _) in self.numbers.items()}

    def overrides(self) -> dict[str, Any]:
        """The planned values by the ids of a config's entries: with them and ``plan: null`` a run needs no plan."""
        return {"plan": None, **{self.entries.get(name, name): value for name, value in self.settings().items()}}

    def lines(self) -> list[str]:
        """Name, value and reason of each number, for a log."""
        return [f"{name} {value}: {reason}" for name, (value, reason) in self.numbers.items()]


class Planner:
    """The part of a plan that both bundles share, as far as it has got in `plan`: intensity, grid, window and strides.

    Args:
        seen: the survey of the training scans.
        machine: that is to train on them.
        given: what is not to be planned.
        known: the manifest of pre-trained weights, whose preprocessing and architecture hold.
    """

    def __init__(self, seen: Survey, machine: Machine, given: Given, known: Mapping[str, Any]) -> None:
        self.given, self.known = given, known
        self.plan = Plan(remarks=oddities(seen))
        self.spacings = np.array([scan.spacing for scan in seen.scans])
        self.extents = np.array([scan.extent for scan in seen.scans])
        self.extent = np.median(self.extents, axis=0)
        self.own = own_spacing(self.spacings)
        self.field, self.field_why = field_of_view(seen)
        self._intensity(seen)
        self.cost = 1.0
        for _ in range(2):  # a finer grid has thicker slices in voxels, and thinner kernels
            self.usual, most = (machine.window(steps, CROPS, network=self.cost) for steps in (STEPS, COARSE_STEPS))
            self.budget = self.usual if np.array_equal(self._fitted(self.usual), self.own) else most
            self.spacing = self._grid()
            if "stage_kernels" in self.known.get("architecture", {"stage_kernels": None}):
                self.cost = levels(self.window()[0], self.spacing).cost(machine.thin)

    def put(self, name: str, value: Any, why: str, entry: str | None = None) -> Any:
        """Plan a number, unless it is given; returns the one that holds. `entry` is its id where the name is not."""
        self.plan.entries[name] = entry or name
        given = self.given(entry or name)
        self.plan.numbers[name] = (given[0], GIVEN) if given else (value, why)
        return self.plan.get(name)

    def _intensity(self, seen: Survey) -> None:
        choice, before = chosen_intensity(seen), self.known.get("preprocessing")
        self.put("intensity", *((before["intensity"], "as the encoder saw") if before else (choice.kind, choice.why)))
        if before and before.get("hu_window"):
            self.put("hu_window", before["hu_window"], "as the encoder saw")
        if choice.remark and not before and self.plan.numbers["intensity"][1] != GIVEN:
            self.plan.remarks.append(choice.remark)

    def _fitted(self, voxels: float) -> np.ndarray:
        """The finest spacing at which a window of so many voxels shows the field of view."""
        return fitted_spacing(self.own, self.field, self.extent, voxels)

    def _grid(self) -> np.ndarray:
        """The spacing that holds, (3,) in mm."""
        own, wanted = self.own, self._fitted(self.budget)
        is_own = np.array_equal(wanted, own)
        if "spacing" in (before := self.known.get("preprocessing") or {}):
            value, why = before["spacing"], "as the encoder saw"
        elif is_own and alike(self.spacings, own):
            value, why = None, f"all {len(self.spacings)} scans lie on one grid, which the budget has room for"
        else:
            value = [round(float(mm), 3) for mm in wanted]
            why = f"mm; {'as the scans are' if is_own else 'coarser than the scans'}, so that a window of "
            why += f"{float(f'{self.budget:.3g}'):,.0f} voxels shows {_by(self.field)} mm, {self.field_why}"
        value = self.put("spacing", value, why)
        return own if value is None or isinstance(value, str) else np.broadcast_to(np.array(value, dtype=float), 3)

    def window(self) -> tuple[list[int], str]:
        """Voxels (x, y, z) that show the field of view, and more where there is room; and why."""
        voxels = float(np.prod(np.maximum(self.field / self.spacing, 1)))
        window = window_size(self.spacing, self.field, self.extent, min(self.budget, max(self.usual, voxels)))
        shown = np.array(window) * self.spacing
        return window, f"voxels, {_by(shown)} mm: {_by(self.field)} mm, {self.field_why}, as far as the budget allows"

    def small(self) -> np.ndarray:
        """Voxels along each axis that all but a tenth of the volumes have, (3,)."""
        return np.round(np.percentile(self.extents, 10, axis=0) / self.spacing)

    def view(self, voxels: float) -> tuple[list[int], str]:
        """Voxels (x, y, z) of a view, and why: shaped like the field of view, really smaller than the volumes."""
        if "view_size" in self.known:
            return list(self.known["view_size"]), "as the encoder saw"
        most = np.maximum(self.small() * self.spacing / SMALLER, self.spacing)
        size = window_size(self.spacing, np.minimum(self.field, most), most, voxels)
        return size, "voxels; the volumes are larger, so that two views of one differ"

    def epochs(self, steps: int, batch: int, of_what: str) -> int:
        """Samples of an epoch, of so many steps in all; planned with the number of epochs."""
        samples = max(1, round(steps / EPOCHS)) * batch
        samples = self.put("samples_per_epoch", samples, f"{of_what}; {steps} steps in all") or len(self.extents)
        self.put("max_epochs", EPOCHS, "as often are states, weights and the budget looked after")
        return int(samples)

    def architecture(self, entry: str, window: Sequence[int]) -> None:
        """The encoder: that of the weights, else the small one with strides that suit the window."""
        if "architecture" in self.known:
            self.put("architecture", dict(self.known["architecture"]), "the encoder's own", entry)
            return
        strides, kernels = levels(window, self.spacing)
        left = deepest(window, strides)
        value = {
            "depth": 10, "width": 32 if max(strides[0]) > 1 else 16, "norm": "group",
            "stem_kernel": kernels[0], "stage_kernels": kernels[1:],
            "stem_stride": strides[0], "stem_pool": False, "stage_strides": strides[1:],
        }  # fmt: skip
        across = ", and kernels do not reach across thick slices" if any(1 in kernel for kernel in kernels) else ""
        why = f"finer axes are halved first{across}; stage 4 keeps {_by(left)} voxels of a window"
        self.put("architecture", value, why, entry)


def field_of_view(seen: Survey) -> tuple[np.ndarray, str]:
    """What a window should show, (3,) in mm, and how that is known.

    The box about all classes, with a margin, as nine cases of ten need it; a share of the volume where there are no
    labels; never more than the volume.
    """
    extent = np.median([scan.extent for scan in seen.scans], axis=0)
    boxes = [np.array(scan.boxes[0]) * np.array(scan.spacing) for scan in seen.scans if scan.boxes]
    if not boxes:
        return UNLABELLED_FIELD * extent, f"{100 * UNLABELLED_FIELD:.0f} % of a volume along each axis"
    organ = np.percentile(boxes, 90, axis=0)
    return np.minimum(FIELD * organ, extent), f"the labels' {_by(organ)} mm with what is around"


def turning(spacing: np.ndarray) -> list[float]:
    """Radians of rotations about x, y, z, in voxels of this spacing: little where it would mix thin and thick axes."""
    sizes = np.asarray(spacing, dtype=float)
    ratios = [np.delete(sizes, axis).min() / np.delete(sizes, axis).max() for axis in range(3)]
    return [round(float(angle * ratio**2), 3) for angle, ratio in zip(TURN, ratios, strict=True)]


def _by(sizes: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{size:.0f}" for size in sizes)


def single_classes(seen: Survey) -> list[int]:
    """Classes of which nine labels of ten, and at least three, hold one connected piece, but for specks."""
    shares: dict[int, list[bool]] = {}
    for scan in seen.scans:
        for value, share in scan.pieces.items():
            shares.setdefault(value, []).append(share >= WHOLE)
    return sorted(value for value, whole in shares.items() if len(whole) >= 3 and sum(whole) >= 0.9 * len(whole))
