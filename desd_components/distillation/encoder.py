"""The encoder: a 3D ResNet whose four stages are the four sub-encoders of DeSD.

Source: Ye et al., "DeSD", MICCAI 2022; values of the published scripts: ResNet-50, stem 7x7x7 with stride (2, 2, 1) in
(x, y, z), max-pool 3 with stride 2, affine instance norm, LeakyReLU 0.01. MONAI's own `ResNet` keeps batch norms when
asked for instance norm and has other strides, hence this one, made of MONAI's layer factories. Differs from the
published scripts in axis order only: (x, y, z) here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Act, Pool
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from ..base.arithmetic import NORMS, with_z_first, z_first, z_last
from ..base.encoders import OURS, Encoder, other_networks
from ..base.errors import Triple, UserError, require_one_of, require_triple, require_whole

#: depth -> (kind of block, blocks per stage)
DEPTHS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
}
EXPANSION = {"basic": 1, "bottleneck": 4}


def _convolution(in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> nn.Module:
    x, y, z = (side // 2 for side in kernel)
    return nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=(x, y, z), bias=False)


def _norm(norm: str, channels: int) -> nn.Module:
    return get_norm_layer(NORMS[norm], spatial_dims=3, channels=channels)


def _activation() -> nn.Module:
    return Act["leakyrelu"](negative_slope=0.01, inplace=True)


class ResidualBlock(nn.Module):
    """Basic (k, k) or bottleneck (1, k, 1) residual block; the first convolution of kernel k has the stride."""

    def __init__(self, kind: str, in_channels: int, planes: int, kernel: Triple, stride: Triple, norm: str) -> None:
        super().__init__()
        out_channels = planes * EXPANSION[kind]
        one = (1, 1, 1)
        if kind == "bottleneck":
            plan = [(in_channels, planes, one, one), (planes, planes, kernel, stride), (planes, out_channels, one, one)]
        else:
            plan = [(in_channels, planes, kernel, stride), (planes, planes, kernel, one)]
        layers: list[nn.Module] = []
        for source, target, size, step in plan:
            layers += [_convolution(source, target, size, step), _norm(norm, target), _activation()]
        self.residual = nn.Sequential(*layers[:-1])  # the last activation follows the sum
        if stride == one and in_channels == out_channels:
            shortcut: nn.Module = nn.Identity()
        else:
            shortcut = nn.Sequential(_convolution(in_channels, out_channels, one, stride), _norm(norm, out_channels))
        self.shortcut = shortcut
        self.activation = _activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, X, Y, Z) -> (B, C', X', Y', Z')."""
        return self.activation(self.residual(x).add_(self.shortcut(x)))


def _stage(
    kind: str, blocks: int, in_channels: int, planes: int, kernel: Triple, stride: Triple, norm: str
) -> nn.Sequential:
    """Residual blocks in a row; the first has the stride, and takes the channels of the stage before."""
    first = ResidualBlock(kind, in_channels, planes, kernel, stride, norm)
    further = (kind, planes * EXPANSION[kind], planes, kernel, (1, 1, 1), norm)
    return nn.Sequential(first, *(ResidualBlock(*further) for _ in range(blocks - 1)))


class ResNet3DEncoder(nn.Module):
    """A 3D ResNet of four stages.

    Args:
        in_channels: channels of the volume.
        depth: 10, 18, 34 (basic blocks) or 50 (bottlenecks).
        width: channels of the stem; stage s has width * 2^s channels, four times as many with bottlenecks.
        norm: "instance" (affine), "batch" or "group" (8 groups).
        stem_kernel: odd sides of the stem's kernel, one number or (x, y, z).
        stem_stride: stride of the stem, one number or (x, y, z).
        stem_pool: whether a max-pool of 3 with stride 2 follows the stem.
        stage_strides: stride of each stage, one number or (x, y, z) each.
        stage_kernels: odd sides of each stage's kernels, likewise; (3, 3, 1) where slices are thick.

    Raises:
        UserError: when an argument is not among the values above.

    Attributes:
        architecture: the arguments, as JSON-able values: what a manifest needs to build this encoder again.
        stem_channels, stage_channels: channels of the stem's map and of the four stage maps.
        stage_kernels: (x, y, z) of each stage.
    """

    def __init__(
        self,
        in_channels: int = 1,
        depth: int = 50,
        width: int = 64,
        norm: str = "instance",
        stem_kernel: int | Sequence[int] = 7,
        stem_stride: int | Sequence[int] = (2, 2, 1),
        stem_pool: bool = True,
        stage_strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2),
        stage_kernels: Sequence[int | Sequence[int]] = (3, 3, 3, 3),
    ) -> None:
        super().__init__()
        require_whole(1, in_channels=in_channels, width=width)
        require_one_of(NORMS, norm=norm)
        if depth not in DEPTHS:
            raise UserError(f"depth={depth!r}: the encoder comes in the depths {sorted(DEPTHS)}.")
        if norm == "group" and width % 8:
            raise UserError(f"norm='group' needs a width that 8 divides, not {width}.")
        if len(stage_strides) != 4 or len(stage_kernels) != 4:
            raise UserError(f"{stage_strides=}, {stage_kernels=}: give four of each, one for each stage.")
        stem_step = require_triple("stem_stride", stem_stride)
        stem_size = require_triple("stem_kernel", stem_kernel, odd=True)
        steps = [require_triple("stage_strides", stride) for stride in stage_strides]
        self.stage_kernels = [require_triple("stage_kernels", kernel, odd=True) for kernel in stage_kernels]
        shape = {"in_channels": in_channels, "depth": depth, "width": width, "norm": norm}
        shape |= {"stem_kernel": list(stem_size), "stage_kernels": [list(kernel) for kernel in self.stage_kernels]}
        strides = {"stem_stride": list(stem_step), "stem_pool": stem_pool, "stage_strides": [list(s) for s in steps]}
        self.architecture: dict[str, object] = {**shape, **strides}
        kind, block_counts = DEPTHS[depth]
        planes = [width * 2**stage for stage in range(4)]
        self.in_channels, self.stem_channels = in_channels, width
        self.stage_channels = tuple(p * EXPANSION[kind] for p in planes)
        self._strides = [stem_step, *([(2, 2, 2)] if stem_pool else []), *steps]

        stem = _convolution(in_channels, width, stem_size, stem_step)
        self.stem = nn.Sequential(stem, _norm(norm, width), _activation())
        self.pool = Pool[Pool.MAX, 3](3, stride=2, padding=1) if stem_pool else nn.Identity()
        sources = (width, *self.stage_channels[:3])
        plan = zip(block_counts, sources, planes, self.stage_kernels, steps, strict=True)
        self.stage_modules = nn.ModuleList(_stage(kind, *each, norm) for each in plan)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu", a=0.01)
        with_z_first(self)

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The feature pyramid of a volume (B, C, X, Y, Z): four maps, shallow to deep."""
        return [z_last(m) for m in self.pyramid(self.stem(z_first(x)))]

    def pyramid(self, stem_map: torch.Tensor) -> list[torch.Tensor]:
        """The four maps (B, C, Z, X, Y), from the map of the stem: for a decoder that uses that map too."""
        x = self.pool(stem_map)
        maps: list[torch.Tensor] = []
        for stage in self.stage_modules:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The deepest stage's map of a volume (B, C, X, Y, Z)."""
        return self.stages(x)[3]

    def stage_shapes(self, spatial_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Spatial shapes of the four stage maps for an input of `spatial_shape` voxels (x, y, z)."""
        shapes = [tuple(spatial_shape)]
        for stride in self._strides:  # odd kernels with padding k // 2: the size is divided and rounded up
            shapes.append(tuple(-(-size // step) for size, step in zip(shapes[-1], stride, strict=True)))
        return shapes[-4:]


def build_encoder(network: str = OURS, **arguments: Any) -> Encoder:
    """The encoder of an architecture, of random weights: a `ResNet3DEncoder`, or a `NetworkEncoder` of that name."""
    if network == OURS:
        return ResNet3DEncoder(**arguments)
    return other_networks(network).NetworkEncoder(network, **arguments)
