"""The arithmetic of augmentation on a batch of volumes (B, C, x, y, z), with strengths given per sample.

Resampling and blurring are separable: one small matrix per sample and axis, so that a handful of matrix products does
on a CPU and on a GPU what a convolution does well on one of them only. Strengths are shaped (B, 1, 1, 1, 1); channels
share them. What is drawn, and how often, stands in `recipe`.
The formulas are those of the published recipe; statistics are taken for each sample and channel by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
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


def resized(volume: Tensor, along_x: Tensor, along_y: Tensor, along_z: Tensor | None) -> Tensor:
    """Multiply (B, C, Z, X, Y), contiguous, by a matrix (B, out, in) along each axis; None leaves z as it is.

    Each product takes the last axis and puts its result first, so that z, which was slowest in memory, comes out
    fastest, as networks want it, and nothing is moved in between.

    Returns:
        (B, C, x, y, z), contiguous.
    """
    batch, channels, *size = volume.shape
    for matrix in (along_y, along_x):
        volume = matrix[:, None] @ volume.flatten(2, 3).transpose(2, 3)  # new axis, then what has been before
        size = [matrix.shape[1], *size[:2]]
        volume = volume.view(batch, channels, *size)
    if along_z is not None:
        volume = (volume.flatten(2, 3) @ along_z[:, None].mT).view(*volume.shape[:4], -1)
    return volume


def hat_matrix(positions: Tensor, length: int) -> Tensor:
    """Weights (B, n, length) of linear interpolation at ``positions`` (B, n) between voxels 0 to length - 1."""
    voxels = torch.arange(length, device=positions.device)
    return (1 - (positions[..., None] - voxels).abs()).clamp_(min=0)


def gaussian_matrix(sigma: Tensor, length: int) -> Tensor:
    """Weights (B, length, length) of a Gaussian blur of ``sigma`` (B,) voxels; rows sum to 1, at the border too."""
    voxels = torch.arange(length, device=sigma.device)
    distance = (voxels[:, None] - voxels) / sigma[:, None, None]
    weights = (-0.5 * distance.square()).softmax(dim=-1)
    return F.threshold(weights, 1e-20, 0.0)  # numbers too small for float32's full precision are slow to multiply by


def add_noise(view: Tensor, sd: Tensor, seeds: np.ndarray) -> Tensor:
    """Add Gaussian noise to (B, C, x, y, z), each sample's from its own seed, so that the batch does not matter."""
    noise = torch.empty_like(view)
    generator = torch.Generator(view.device)
    for sample, seed in zip(noise, seeds.tolist(), strict=True):
        sample.normal_(generator=generator.manual_seed(seed))
    return noise.mul_(sd).add_(view)


def blur(view: Tensor, sigma: Tensor) -> Tensor:
    """Blur (B, C, x, y, z) by an isotropic Gaussian."""
    return along_axes(view, [gaussian_matrix(sigma.flatten(), length) for length in view.shape[2:]])


def change_contrast(view: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from the mean of each sample and channel, clamped to the range it had."""
    low, high = _range(view)
    mean = _mean(view)
    return (view - mean).mul_(factor).add_(mean).clamp_(low, high)


def change_gamma(view: Tensor, exponent: Tensor) -> Tensor:
    """Raise each sample and channel, normalised to its range, to ``exponent``, then restore its mean and deviation."""
    low, high = _range(view)
    mean = _mean(view)
    deviation = _root_mean_square(view - mean)
    curved = (view - low).div_((high - low).clamp_(min=_TINY))
    curved.log_().mul_(exponent).exp_()  # of 0, too; twice as fast as pow
    curved.sub_(_mean(curved))
    return curved.mul_(deviation / _root_mean_square(curved).clamp_(min=_TINY)).add_(mean)


# Statistics of each sample and channel, (B, C, 1, 1, 1). One flat axis: several at once take a slow path on a CPU.


def _range(view: Tensor) -> tuple[Tensor, Tensor]:
    low, high = view.flatten(2).aminmax(dim=-1)
    return low[..., None, None, None], high[..., None, None, None]


def _mean(view: Tensor) -> Tensor:
    return view.flatten(2).mean(dim=-1)[..., None, None, None]


def _root_mean_square(view: Tensor) -> Tensor:
    return _mean(view.square()).sqrt()
