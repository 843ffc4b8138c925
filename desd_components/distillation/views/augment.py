"""The arithmetic of augmentation on a batch of volumes (B, C, x, y, z), with strengths given per sample.

Blurring is separable: one small matrix per sample and axis, so that a handful of matrix products does on a CPU and on a
GPU what a convolution does well on one of them only. Strengths are shaped (B, 1, 1, 1, 1); channels share them. What is
drawn, and how often, stands in `recipe`.
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


def resized(box: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (C, X, Y, Z) linearly, in float32; voxel centers lie as with ``align_corners=False``."""
    box = box.contiguous().float()
    if box.shape[3] == size[2]:  # slices as channels that lie next to each other: several times as fast on a CPU
        return F.interpolate(box.permute(0, 3, 1, 2), size[:2], mode="bilinear").permute(0, 2, 3, 1)
    return F.interpolate(box[None], size, mode="trilinear")[0]


def along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply (B, C, X, Y, Z) by a matrix (B, out, in) along each axis.

    Each product takes the last axis and puts its result first: one large matrix product on memory as it lies.
    """
    for matrix in reversed(matrices):
        others = volume.shape[2:4]
        volume = (matrix[:, None] @ volume.flatten(2, 3).mT).unflatten(3, others)
    return volume


def gaussian_matrix(sigma: Tensor, length: int) -> Tensor:
    """Weights (B, length, length) of a Gaussian blur of ``sigma`` (B,) voxels; rows sum to 1, at the border too."""
    voxels = torch.arange(length, device=sigma.device)
    distance = (voxels[:, None] - voxels) / sigma[:, None, None]
    # what is too small for float32's full precision is slow to multiply by
    return F.threshold((-0.5 * distance.square()).softmax(dim=-1), 1e-20, 0.0)


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
    (low, high), mean = _range(view), _mean(view)
    changed = (view - mean).mul_(factor).add_(mean)
    return changed.clamp_(min=low).clamp_(max=high)  # both at once take ten times as long on a CPU


def change_gamma(view: Tensor, exponent: Tensor) -> Tensor:
    """Raise each sample and channel, normalised to its range, to ``exponent``, then restore its mean and deviation."""
    (low, high), mean = _range(view), _mean(view)
    # pow takes twice as long
    curved = (view - low).div_((high - low).clamp_(min=_TINY)).log2_().mul_(exponent).exp2_()
    curved.sub_(_mean(curved))
    deviations = [_mean(centered.square()).sqrt() for centered in (view - mean, curved)]
    return curved.mul_(deviations[0] / deviations[1].clamp_(min=_TINY)).add_(mean)


def _range(view: Tensor) -> tuple[Tensor, Tensor]:
    flat = view.flatten(2)  # one after the other: together, by aminmax, they take twenty times as long on a CPU
    return flat.amin(dim=-1)[..., None, None, None], flat.amax(dim=-1)[..., None, None, None]


def _mean(view: Tensor) -> Tensor:
    # One flat axis: several at once take the slow path of a reduction on a CPU.
    return view.flatten(2).mean(dim=-1)[..., None, None, None]
