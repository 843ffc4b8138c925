"""Maps in memory with z slowest, and how they are enlarged: for CPUs, on which both are several times faster so.

oneDNN's kernels run along the last axis, and are slow where it is short, as z is in volumes of few slices. Ours:
networks turn a volume once, when it comes in, and their maps once, when they go out; kernels, strides and sizes stay in
(x, y, z), for users and in files.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def z_first(x: torch.Tensor) -> torch.Tensor:
    """(B, C, X, Y, Z) -> (B, C, Z, X, Y), in memory as well."""
    return x.permute(0, 1, 4, 2, 3).contiguous()


def z_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, Z, X, Y) -> (B, C, X, Y, Z), a view."""
    return x.permute(0, 1, 3, 4, 2)


class ZFirstConv3d(nn.Conv3d):
    """A convolution of maps (B, C, Z, X, Y) whose kernel (O, C, x, y, z) and stride (x, y, z) are those of volumes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, Z, X, Y) -> (B, O, Z', X', Y')."""
        stride = [self.stride[2], self.stride[0], self.stride[1]]
        padding = [self.padding[2], self.padding[0], self.padding[1]]
        return F.conv3d(x, self.weight.permute(0, 1, 4, 2, 3), self.bias, stride, padding)  # type: ignore[arg-type]


def with_z_first(network: nn.Module) -> nn.Module:
    """The network, its convolutions made to work on maps (B, C, Z, X, Y); parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = ZFirstConv3d
    return network


def enlarged(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Trilinear interpolation (B, C, Z, X, Y) -> (B, C, *size), as that of PyTorch with ``align_corners=False``.

    A product with a matrix along each axis, whose gradient is such a product too: on a CPU several times faster than
    PyTorch's own, which gathers voxel by voxel; on a GPU the same each time, where that one adds up in any order.
    """
    x = (_weights(x, 2, size[0]).mT @ x.flatten(3)).unflatten(3, x.shape[3:])
    return _weights(x, 3, size[1]).mT @ x @ _weights(x, 4, size[2])


def _weights(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """(old, new) voxels along an axis of `x`: what each of the old ones gives to each of the new ones."""
    each = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
    return F.interpolate(each[None], size=size, mode="linear", align_corners=False)[0]
