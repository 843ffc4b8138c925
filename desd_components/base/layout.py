"""Maps in memory with z slowest: thin volumes, of few slices, are then convolved several times faster on a CPU.

oneDNN's kernels run along the last axis, and are slow where it is short. Ours: networks turn a volume once, when it
comes in, and their maps once, when they go out; kernels, strides and sizes stay in (x, y, z), for users and in files.
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
