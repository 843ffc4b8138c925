"""What holds for any encoder of stages: `ResNet3DEncoder`, and what `networks` makes of other packages' networks.

Canary features are what it makes of a fixed volume. They are kept with its weights and computed again when these are
read; the volume differs along each axis, so that a change of axes, of architecture or of weights shows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import UserError, left_out, optional_module

logger = logging.getLogger(__name__)

#: a module with `stages(x)`, the maps of a volume from shallow to deep; `stage_channels`; `stage_shapes(size)`;
#: `in_channels`; and `architecture`, JSON-able arguments to build it anew. Where it has `stage_modules`, what computes
#: each stage, their gradients are watched, and each may learn at a rate of its own
Encoder = Any
OURS = "resnet"  # `ResNet3DEncoder`, whose architecture has no entry "network"
#: a map with fewer voxels than this loses each sample's channel means to instance norm
SMALL_MAP_VOXELS = 8


def other_networks(name: str) -> Any:
    """`desd_components.base.networks`, where networks of other packages become encoders.

    Raises:
        MissingPackage: in a packed bundle that has left it out.
    """
    what = f"encoder={name!r}: is a network of another package"
    return optional_module(f"{__package__}.networks", f"{what}, {left_out('encoders')}.")


def architecture_of(encoder: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The architecture that the name of a network stands for, or a mapping of its name and its arguments.

    Args:
        encoder: such as "SegResNet" or {"network": "SegResNet", "init_filters": 16}; "resnet" and None are ours, whose
            architecture is told elsewhere.

    Raises:
        UserError: when there is no such network, or it has no stages.
    """
    asked = {"network": encoder} if isinstance(encoder, str) else dict(encoder or {})
    name = asked.pop("network", OURS)
    return asked if name == OURS else {"network": other_networks(name).known_network(name), **asked}


def shape_table(encoder: Encoder, view_size: Sequence[int]) -> str:
    """A table of what each stage makes of a view of `view_size` voxels (x, y, z), for the log."""
    names = ("view", *(f"stage {stage}" for stage in range(1, len(encoder.stage_channels) + 1)))
    shapes = (tuple(view_size), *encoder.stage_shapes(view_size))
    rows = zip(names, shapes, (encoder.in_channels, *encoder.stage_channels), strict=True)
    return "\n".join(f"{name:7}  {shape!s:>16}  {channels:>5} channels" for name, shape, channels in rows)


def refuse_small_maps(encoder: Encoder, view_size: Sequence[int]) -> None:
    """Refuse views that leave one voxel at the deepest stage, where instance norm fails; warn below eight.

    Raises:
        UserError: when the deepest map of a view of `view_size` voxels (x, y, z) has a single voxel, or is one voxel
            thick where the encoder reflects maps at their borders.
    """
    shape, stage = encoder.stage_shapes(view_size)[-1], len(encoder.stage_channels)
    voxels = math.prod(shape)
    remedy = "Use larger views, or lower strides (of a resnet, stem_stride: 1 and stem_pool: false)."
    reflects = any(getattr(module, "padding_mode", None) == "reflect" for module in encoder.modules())
    if voxels < 2 or (reflects and min(shape) < 2):
        raise UserError(f"Views of {tuple(view_size)} voxels leave a map of {shape} at stage {stage}. {remedy}")
    has_instance_norm = any(isinstance(m, nn.modules.instancenorm._InstanceNorm) for m in encoder.modules())
    if voxels < SMALL_MAP_VOXELS and has_instance_norm:
        logger.warning(
            f"Views of {tuple(view_size)} voxels leave a map of {shape} ({voxels} voxels) at stage {stage}: instance "
            f"norm removes most of what global pooling reads there. {remedy}"
        )


def pooled_stages(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Global average of each stage map: (B, C, X, Y, Z) -> (B, C), float32 of half precision too."""
    return [m.mean(dim=(2, 3, 4), dtype=torch.promote_types(m.dtype, torch.float32)) for m in maps]


def canary_features(encoder: Encoder) -> dict[str, list[float]]:
    """What `encoder` makes of a fixed volume: the first eight pooled features of each stage."""
    size = [8, 8, 8]
    while min(encoder.stage_shapes(size)[-1]) < 2:
        size = [
            side if extent > 1 else 2 * side for side, extent in zip(size, encoder.stage_shapes(size)[-1], strict=True)
        ]
    x, y, z = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    volume = torch.sin(0.37 * x) + torch.cos(0.23 * y) * torch.sin(0.11 * z)
    device, training = next(encoder.parameters()).device, encoder.training
    with torch.no_grad():
        maps = encoder.eval().stages(volume.to(device).expand(1, encoder.in_channels, *size))
    encoder.train(training)
    return {f"stage_{stage}": row[0, :8].tolist() for stage, row in enumerate(pooled_stages(maps), start=1)}


def refuse_other_features(path: str | Path, encoder: Encoder, expected: Mapping[str, Sequence[float]]) -> None:
    """Compare the canary features of `encoder` with those in a manifest.

    Raises:
        UserError: when they differ by more than rounding on another machine would.
    """
    found = canary_features(encoder)
    for stage, values in expected.items():
        wanted = torch.tensor(values)
        gap = (torch.tensor(found[stage]) - wanted).abs().max()
        if not gap <= 1e-2 * wanted.abs().max().clamp_min(1e-3):
            raise UserError(
                f"{path}: its features at {stage} differ from those in its manifest (by {float(gap):.3g}). The weights "
                "or the manifest were changed, or come from another version. Copy both again."
            )


def repeat_channels(encoder: Encoder, wider: Encoder) -> None:
    """Give the tensors of a one-channel encoder to one of more: kernels that read the volume are repeated and divided.

    Raises:
        UserError: when the encoder has more than one channel already.
    """
    if encoder.in_channels != 1:
        raise UserError(
            f"The checkpoint's encoder has {encoder.in_channels} input channels, the volumes have {wider.in_channels}. "
            "Only one channel can be inflated to more."
        )
    logger.warning("The encoder's stem is inflated from 1 to %d input channels.", wider.in_channels)
    tensors, shapes = encoder.state_dict(), {name: tensor.shape for name, tensor in wider.state_dict().items()}
    for name in [name for name, tensor in tensors.items() if tensor.shape != shapes[name]]:
        tensors[name] = tensors[name].repeat(1, wider.in_channels, 1, 1, 1) / wider.in_channels
    wider.load_state_dict(tensors)
