"""What can be told of any encoder: anything with `stages(x)`, `stage_channels`, `stage_shapes` and `in_channels`.

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

from .errors import UserError

logger = logging.getLogger(__name__)

#: a map with fewer voxels than this loses each sample's channel means to instance norm
SMALL_MAP_VOXELS = 8


def shape_table(encoder: Any, view_size: Sequence[int]) -> str:
    """A table of what each stage makes of a view of `view_size` voxels (x, y, z), for the log."""
    names = ("view", *(f"stage {stage}" for stage in (1, 2, 3, 4)))
    shapes = (tuple(view_size), *encoder.stage_shapes(view_size))
    rows = zip(names, shapes, (encoder.in_channels, *encoder.stage_channels), strict=True)
    return "\n".join(f"{name:7}  {shape!s:>16}  {channels:>5} channels" for name, shape, channels in rows)


def refuse_small_maps(encoder: Any, view_size: Sequence[int]) -> None:
    """Refuse views that leave one voxel at stage 4, where instance norm fails; warn below eight.

    Raises:
        UserError: when the deepest map of a view of `view_size` voxels (x, y, z) has a single voxel.
    """
    shape = encoder.stage_shapes(view_size)[-1]
    voxels = math.prod(shape)
    remedy = "Use larger views, or lower strides (stem_stride: 1, stem_pool: false)."
    if voxels < 2:
        raise UserError(f"Views of {tuple(view_size)} voxels leave a map of {shape} at stage 4. {remedy}")
    if voxels < SMALL_MAP_VOXELS and encoder.architecture["norm"] == "instance":
        logger.warning(
            f"Views of {tuple(view_size)} voxels leave a map of {shape} ({voxels} voxels) at stage 4: instance norm "
            f"removes most of what global pooling reads there. {remedy}"
        )


def canary_features(encoder: Any) -> dict[str, list[float]]:
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
    return {f"stage_{stage}": m.mean(dim=(2, 3, 4))[0, :8].tolist() for stage, m in enumerate(maps, start=1)}


def refuse_other_features(path: str | Path, encoder: Any, expected: Mapping[str, Sequence[float]]) -> None:
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
