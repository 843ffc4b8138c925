"""How a kind of view is drawn: where its box lies in a context, and how much of each change of intensity it gets.

Method: Ye et al., "DeSD", MICCAI 2022; the values, which the configs spell, are those of the authors' script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...base.errors import UserError

Range = Sequence[float]
# One record per sample: what `ViewRecipe.draw_intensity` returns, in this order.
INTENSITY_DRAWS = np.dtype(
    [(name, "f8") for name in ("noise_sd", "blur_sigma", "brightness_factor", "contrast", "gamma", "brightness_shift")]
    + [("noise_seed", "i8")]
)


@dataclass(kw_only=True)
class ViewRecipe:
    """How one kind of view is drawn: its box, then its intensities, in the order of the arguments below.

    A range is [low, high], drawn from uniformly for each sample; None leaves the step out. Each ``..._probability`` is
    that of its step being applied to a sample. Axes are x, y, z. All channels share the draws, except the noise field.

    Args:
        size: voxels of the finished view, per axis.
        scale: per axis, a range for the extent of the box as a multiple of ``size`` (each axis drawn alone, the box
            then resized linearly to ``size``), or None for a box of ``size`` voxels. Boxes are clipped to the context.
        flip_probability: per axis.
        noise_sd: standard deviation of additive Gaussian noise, in units of the intensities.
        blur_sigma: of an isotropic Gaussian blur, in voxels of the view.
        multiplicative_brightness: factor on the intensities.
        additive_brightness_sd: standard deviation of the Gaussian, around 0, that the added constant is drawn from.
        contrast: factor on the distance from the view's mean; the result is clamped to the range the view had.
        gamma: exponent on the view normalised to its range; its mean and standard deviation are then restored.

    Raises:
        UserError: a size, range or probability that cannot be.
    """

    size: Sequence[int]
    scale: Sequence[Range | None] = (None, None, None)
    flip_probability: Sequence[float] = (0.0, 0.0, 0.0)
    noise_sd: Range | None = None
    noise_probability: float = 1.0
    blur_sigma: Range | None = None
    blur_probability: float = 1.0
    multiplicative_brightness: Range | None = None
    multiplicative_brightness_probability: float = 1.0
    additive_brightness_sd: float = 0.0
    additive_brightness_probability: float = 1.0
    contrast: Range | None = None
    contrast_probability: float = 1.0
    gamma: Range | None = None
    gamma_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("size", "scale", "flip_probability"):
            setattr(self, name, _per_axis(name, getattr(self, name)))
        if any(type(voxels) is not int or voxels < 1 for voxels in self.size):
            raise UserError(f"view recipe: size {list(self.size)} must be whole numbers of voxels above 0.")
        for axis, limits, probability in zip("xyz", self.scale, self.flip_probability, strict=True):
            _check_range(f"scale along {axis}", limits)
            _check_probability(f"flip_probability along {axis}", probability)
        for name in ("multiplicative_brightness", "contrast", "gamma"):
            _check_range(name, getattr(self, name))
        for name in ("noise_sd", "blur_sigma"):
            _check_range(name, getattr(self, name), zero_allowed=True)
        _check_range("additive_brightness_sd", (0.0, self.additive_brightness_sd), zero_allowed=True)
        for step in ("noise", "blur", "multiplicative_brightness", "additive_brightness", "contrast", "gamma"):
            _check_probability(f"{step}_probability", getattr(self, f"{step}_probability"))

    def draw_box(self, rng: np.random.Generator, context_size: Sequence[int]) -> np.ndarray:
        """Draw where a view lies in its context: rows start, extent (voxels) and flip (0 or 1), columns x, y, z."""
        uniform = rng.random((3, 3))
        factors = [_within(limits or (1.0, 1.0), u) for limits, u in zip(self.scale, uniform[0], strict=True)]
        extent = np.clip(np.rint(np.multiply(self.size, factors)), 1, context_size)
        start = np.floor(uniform[1] * (np.asarray(context_size) - extent + 1))
        return np.stack([start, extent, uniform[2] < self.flip_probability]).astype(np.int64)

    def draw_intensity(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Draw the fields of `INTENSITY_DRAWS`; a step that is not applied gets the value that changes nothing."""
        # Everything is drawn whether it is applied or not, so that no argument shifts the draws of another.
        steps = (  # range, probability, the value that changes nothing
            (self.noise_sd, self.noise_probability, 0.0),
            (self.blur_sigma, self.blur_probability, 0.0),
            (self.multiplicative_brightness, self.multiplicative_brightness_probability, 1.0),
            (self.contrast, self.contrast_probability, 1.0),
            (self.gamma, self.gamma_probability, 1.0),
        )
        strengths = [
            _within(limits, fraction) if limits and chance < probability else neutral
            for (limits, probability, neutral), fraction, chance in zip(steps, *rng.random((2, 5)), strict=True)
        ]
        shift = self.additive_brightness_sd * rng.standard_normal()
        applied = rng.random() < self.additive_brightness_probability
        return (*strengths, shift if applied else 0.0, int(rng.integers(2**63)))


def changed_view(view: ViewRecipe, **changes: Any) -> ViewRecipe:
    """A recipe like `view` but for some of its arguments."""
    return replace(view, **changes)


def _within(limits: Range, fraction: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * fraction


def _per_axis(name: str, values: Any) -> tuple:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 3:
        raise UserError(f"view recipe: {name} {values!r} must have three entries (x, y, z).")
    return tuple(values)


def _check_range(name: str, limits: Any, zero_allowed: bool = False) -> None:
    if limits is None:
        return
    if not isinstance(limits, Sequence) or len(limits) != 2 or not all(isinstance(x, int | float) for x in limits):
        raise UserError(
            f"view recipe: {name} {limits!r} must be a range [low, high] of numbers, or null to leave it out."
        )
    low, high = limits
    if not (low > 0 or (zero_allowed and low == 0)) or not low <= high < float("inf"):
        wanted = "0 <= low <= high" if zero_allowed else "0 < low <= high"
        raise UserError(f"view recipe: {name} [{low}, {high}] is empty or impossible: give {wanted}, finite.")


def _check_probability(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"view recipe: {name} {value!r} must be a probability between 0 and 1.")
