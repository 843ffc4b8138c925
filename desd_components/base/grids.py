"""Volumes from one grid to another, such as from that of a network to a scan's own, by linear interpolation.

Between grids of parallel axes it is separable: one axis after the other, each voxel a mean of two neighbours. That
gives what ``grid_sample`` with clamped borders gives, to rounding, without a map of coordinates per voxel. The result
lies in memory with z slowest, as the cache keeps it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

_AT_ONCE = 4  # planes, on a CPU, whose cache holds no more
TOLERANCE = 1e-3  # voxels by which axes may be out of parallel at the far end; less is rounding in affines


class Resampling:
    """The way from a source grid to a target grid, each given by an affine (4, 4, voxels to mm) and a shape.

    Args:
        affine, shape: of the source.
        target_affine, target_shape: of the target.

    Attributes:
        parallel: whether the axes are; if not, as of a scan with a tilted gantry, MONAI's affine grid does the work.
    """

    def __init__(
        self, affine: np.ndarray, shape: Sequence[int], target_affine: np.ndarray, target_shape: Sequence[int]
    ) -> None:
        self.affine, self.target_affine, self.target_shape = affine, target_affine, [int(size) for size in target_shape]
        way = np.linalg.solve(np.asarray(affine, dtype=float), np.asarray(target_affine, dtype=float))
        reach = way[:3, :3] * np.array(self.target_shape)  # voxels of the source that an axis of the target spans
        self.axes = [int(axis) for axis in np.abs(reach).argmax(axis=0)]
        beside = reach.copy()
        beside[self.axes, range(3)] = 0
        self.parallel = sorted(self.axes) == [0, 1, 2] and bool(np.abs(beside).max() <= TOLERANCE)
        self.places: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # by target axis: below, above, weight
        for axis, source in enumerate(self.axes if self.parallel else ()):
            last = shape[source] - 1
            exact = way[source, axis] * np.arange(self.target_shape[axis]) + way[source, 3]
            exact = np.round(exact, 6).clip(0, last)
            below = np.floor(exact).astype(np.int64)
            above, weight = np.minimum(below + 1, last), (exact - below).astype(np.float32)
            self.places.append((torch.from_numpy(below), torch.from_numpy(above), torch.from_numpy(weight)))

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """A volume (X, Y, Z) of the source as one of the target, on the volume's device."""
        return self._by_axes(volume) if self.parallel else self._by_affine(volume)

    def _by_affine(self, volume: torch.Tensor) -> torch.Tensor:
        source = MetaTensor(volume[None], affine=torch.as_tensor(self.affine))
        resample = SpatialResample(mode="bilinear", padding_mode="border")
        found: torch.Tensor = resample(source, torch.as_tensor(self.target_affine), self.target_shape)
        return found.as_subclass(torch.Tensor)[0]

    def _by_axes(self, volume: torch.Tensor) -> torch.Tensor:
        volume = volume.permute(self.axes)
        for axis in (0, 1):
            volume = _interpolated(volume, axis, *self.places[axis])
        x, y, z = volume.shape
        volume = volume.reshape(x * y, z).t().contiguous().view(z, x, y)
        return _interpolated(volume, 0, *self.places[2]).permute(1, 2, 0)


def _interpolated(
    volume: torch.Tensor, axis: int, below: torch.Tensor, above: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Means of two planes each, along an axis that is not the last in memory."""
    planes = len(below)
    shape = [planes if own == axis else size for own, size in enumerate(volume.shape)]
    found = torch.empty(shape, dtype=volume.dtype, device=volume.device)
    weight = weight.to(volume.dtype).reshape([-1 if own == axis else 1 for own in range(3)])
    at_once = _AT_ONCE if volume.device.type == "cpu" else planes
    for first in range(0, planes, at_once):
        block = slice(first, first + at_once)
        lower, upper = (volume.index_select(axis, which[block].to(volume.device)) for which in (below, above))
        part = weight.narrow(axis, first, lower.shape[axis]).to(volume.device)
        torch.lerp(lower, upper, part, out=found.narrow(axis, first, lower.shape[axis]))
    return found
