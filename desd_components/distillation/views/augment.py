"""The arithmetic of augmentation on a batch of volumes (B, C, x, y, z), with strengths given per sample.

Resampling and blurring are separable: one small matrix per sample and axis, so that a handful of matrix products does
on a CPU and on a GPU what a convolution does well on one of them only. Strengths are shaped (B, 1, 1, 1, 1); channels
share them. What is drawn, and how often, stands in `recipe`.
The formulas are those of the published recipe; statistics are taken for each sample and channel by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# Divisors are kept from 0 by this much, for volumes that hold one value everywhere.
_TINY = 1e-12


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply (B, C, X, Y, Z) by a matrix (B, out, in) along x, y and z in turn.

    Each product takes the leading axis and puts its result last: one large matrix product on memory as it lies, and
    after three of them the axes are back in order.
    """
    for matrix in matrices:
        volume = torch.einsum("bcxyz,bix->bcyzi", volume, matrix)  # x: the axis whose turn it is, i: its new index
    return volume


def hat_matrix(positions: Tensor, length: int) -> Tensor:
    """Weights (B, n, length) of linear interpolation at ``positions`` (B, n) between voxels 0 to length - 1."""
    voxels = torch.arange(length, device=positions.device)
    return (1 - (positions[..., None] - voxels).abs()).clamp_(min=0)


def gaussian_matrix(sigma: Tensor, length: int) -> Tensor:
    """Weights (B, length, length) of a Gaussian blur of ``sigma`` (B,) voxels; rows sum to 1, at the border too."""
    voxels = torch.arange(length, device=sigma.device)
    distance = (voxels[:, None] - voxels) / sigma[:, None, None]
    return (-0.5 * distance.square()).softmax(dim=-1)


def add_noise(view: Tensor, sd: Tensor, seeds: np.ndarray) -> Tensor:
    """Add Gaussian noise to (B, C, x, y, z), each sample's from its own seed, so that the batch does not matter."""
    noise = torch.empty_like(view)
    generator = torch.Generator(view.device)
    for sample, seed in zip(noise, seeds.tolist(), strict=True):
        sample.normal_(generator=generator.manual_seed(seed))
    return torch.addcmul(view, noise, sd)


def blur(view: Tensor, sigma: Tensor) -> Tensor:
    """Blur (B, C, x, y, z) by an isotropic Gaussian."""
    return along_axes(view, [gaussian_matrix(sigma.flatten(), length) for length in view.shape[2:]])


def change_contrast(view: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from the mean of each sample and channel, clamped to the range it had."""
    low, high = _over_voxels(view, torch.amin), _over_voxels(view, torch.amax)
    centered, mean = _centered(view)
    return torch.addcmul(mean, centered, factor).clamp(low, high)


def change_gamma(view: Tensor, exponent: Tensor) -> Tensor:
    """Raise each sample and channel, normalised to its range, to ``exponent``, then restore its mean and deviation."""
    low, high = _over_voxels(view, torch.amin), _over_voxels(view, torch.amax)
    curved = ((view - low) / (high - low).clamp(min=_TINY)).pow(exponent)
    (curved, _), (centered, mean) = _centered(curved), _centered(view)
    return curved * (_root_mean_square(centered) / _root_mean_square(curved).clamp(min=_TINY)) + mean


def _over_voxels(view: Tensor, reduction: Callable[..., Tensor]) -> Tensor:
    # One flat axis: several at once take the slow path of a reduction on a CPU.
    return reduction(view.flatten(2), dim=-1)[..., None, None, None]


def _centered(view: Tensor) -> tuple[Tensor, Tensor]:
    mean = _over_voxels(view, torch.mean)
    return view - mean, mean


def _root_mean_square(view: Tensor) -> Tensor:
    return _over_voxels(view.square(), torch.mean).sqrt()
