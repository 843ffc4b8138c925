"""Resampling between parallel grids: what MONAI's affine grid gives, in any orientation."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from desd_components.base.grids import Resampling

TURNED = np.array([[0.8, -0.9, 0.2, 5.0], [0.6, 1.2, 0.1, -7.0], [0.0, 0.3, 2.5, 3.0], [0.0, 0.0, 0.0, 1.0]])


def stepped(axes=(0, 1, 2), steps=(1.0, 1.0, 1.0), start=(0.0, 0.0, 0.0)) -> np.ndarray:
    """The affine of a grid along the axes of `TURNED`, in another order, with other steps, from another voxel."""
    way = np.eye(4)
    way[:3, :3] = np.eye(3)[:, list(axes)] * np.array(steps)
    way[:3, 3] = start
    return TURNED @ way


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("steps", [(2.0, -0.7, 0.5), (1.0, 1.0, -1.0), (0.3, 3.1, 1.0)], ids=str)
def test_it_gives_what_an_affine_grid_gives(axes, steps):
    volume = torch.randn(9, 8, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target, shape = stepped(axes, steps, start=(3.2, 6.5, 2.0)), (12, 7, 10)
    stock = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True, dtype=torch.float64)
    expected = stock(MetaTensor(volume[None], affine=TURNED), dst_affine=target, spatial_size=shape)[0]
    found = Resampling(TURNED, volume.shape, target, shape)(volume)
    torch.testing.assert_close(found.float(), expected.as_tensor(), rtol=0, atol=1e-5)


def test_a_grid_to_itself_changes_nothing():
    volume = torch.randn(5, 4, 3)
    assert torch.equal(Resampling(TURNED, volume.shape, TURNED, volume.shape)(volume), volume)


def test_axes_that_are_not_parallel_are_left_to_monais_affine_grid():
    turned, volume = TURNED.copy(), torch.randn(9, 8, 7)
    turned[:3, 0] += 0.05
    resampling = Resampling(TURNED, volume.shape, turned, (8, 9, 7))
    stock = SpatialResample(mode="bilinear", padding_mode="border")
    expected = stock(MetaTensor(volume[None], affine=TURNED), dst_affine=turned, spatial_size=(8, 9, 7))[0]
    assert not resampling.parallel and torch.equal(resampling(volume), expected.as_tensor())
