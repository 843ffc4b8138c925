"""Segmentation: the pre-trained encoder with a convolutional skip decoder, its losses, and logits -> labels.

Source: Ye et al., "DeSD", MICCAI 2022, fine-tune the teacher's encoder with a randomly initialised decoder
on Dice + binary cross-entropy; that decoder is not published, so this one is ours: a U-Net's expanding path of two
3x3x3 convolutions per level, made of MONAI blocks. Every level upsamples to the exact size of its skip map, so any
input size and any strides fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import nn
from torch.nn import functional as F

from ..base.arithmetic import NORMS, with_z_first, z_first, z_last
from ..base.encoders import Encoder, refuse_small_maps
from ..base.errors import UserError, require_one_of, require_whole

#: how many channels a decoder level may have at most
MAX_DECODER_CHANNELS = 320


class UpBlock(nn.Module):
    """One level of the decoder: project, upsample to the skip's size, join, convolve twice."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, norm: str, kernel: Sequence[int]
    ) -> None:
        super().__init__()
        self.project = Convolution(3, in_channels, out_channels, kernel_size=1, conv_only=True)
        self.convolve = nn.Sequential(
            _block(out_channels + skip_channels, out_channels, norm, kernel),
            _block(out_channels, out_channels, norm, kernel),
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, C, x, y, z) and a skip map (B, S, X, Y, Z) -> (B, O, X, Y, Z)."""
        # projected first: interpolating fewer channels is cheaper, and both are linear
        x = F.interpolate(self.project(x), size=skip.shape[2:], mode="trilinear", align_corners=False)
        return self.convolve(torch.cat((x, skip), dim=1))


def _block(in_channels: int, out_channels: int, norm: str, kernel: Sequence[int]) -> nn.Module:
    act = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})
    return Convolution(
        3, in_channels, out_channels, kernel_size=kernel, bias=False, adn_ordering="NA", act=act, norm=NORMS[norm]
    )


class SkipDecoder(nn.Module):
    """Decoder over a list of skip maps.

    Args:
        in_channels: channels of the deepest map.
        skip_channels: channels of the skip maps, deep to shallow.
        out_channels: channels of each level, deep to shallow.
        norm: "instance", "batch" or "group".
        kernels: (x, y, z) of each level, deep to shallow.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: Sequence[int],
        out_channels: Sequence[int],
        norm: str,
        kernels: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        sources = (in_channels, *out_channels[:-1])
        self.levels = nn.ModuleList(
            UpBlock(source, skip, target, norm, kernel)
            for source, skip, target, kernel in zip(sources, skip_channels, out_channels, kernels, strict=True)
        )

    def forward(self, x: torch.Tensor, skips: list[torch.Tensor]) -> list[torch.Tensor]:
        """The deepest map and the skip maps, deep to shallow -> a map of each skip's size."""
        maps: list[torch.Tensor] = []
        for i, level in enumerate(self.levels):
            x = level(x, skips[i])
            maps.append(x)
        return maps


class SegmentationNetwork(nn.Module):
    """The encoder of pre-training, a skip decoder to full resolution and a 1x1x1 head.

    The skip maps are those of all stages but the deepest; then the stem's, where the encoder tells it and it is finer
    than that of stage 1; then the volume itself where none is as fine.

    Args:
        encoder: any.
        out_channels: classes including the background, which is channel 0.
        decoder_width: channels of the finest decoder level; each deeper level has twice as many, at most 320.
        decoder_norm: "instance", "batch" or "group".
        window: size (x, y, z) in voxels of the windows that the network will see, checked here when given.
        deep_supervision: how many decoder levels before the finest have a head of their own; in training mode, and only
            then, their logits follow those of the finest in a list, as of MONAI's `SegResNetDS`.

    Raises:
        UserError: when an argument is out of range, or a window would leave a map of one voxel at the deepest stage.

    Attributes:
        decoder_architecture: the arguments besides the encoder, as JSON-able values, for a manifest.
    """

    def __init__(
        self,
        encoder: Encoder,
        out_channels: int,
        decoder_width: int = 32,
        decoder_norm: str = "instance",
        window: Sequence[int] | None = None,
        deep_supervision: int = 0,
    ) -> None:
        super().__init__()
        _check_decoder(out_channels, decoder_width, decoder_norm)
        if window is not None:
            refuse_small_maps(encoder, window)
        self.decoder_architecture: dict[str, object] = {
            "out_channels": out_channels,
            "decoder_width": decoder_width,
            "decoder_norm": decoder_norm,
            "deep_supervision": deep_supervision,
        }
        # probed instead of derived from the strides: a shape says whether a map is finer than the next
        probe = (64, 64, 64)
        self.has_stem, stage_1_shape = hasattr(encoder, "stem"), encoder.stage_shapes(probe)[0]
        finest = _stem_shape(encoder, probe) if self.has_stem else stage_1_shape
        self.uses_stem = finest != stage_1_shape
        self.uses_volume = finest != probe
        skip_channels = list(encoder.stage_channels[-2::-1])
        stage_kernels: Sequence[Sequence[int]] = getattr(
            encoder, "stage_kernels", [[3, 3, 3]] * len(encoder.stage_channels)
        )
        kernels = [*stage_kernels[-2::-1], stage_kernels[0], stage_kernels[0]]  # a level's are its map's
        skip_channels += [encoder.stem_channels] if self.uses_stem else []
        skip_channels += [encoder.in_channels] if self.uses_volume else []
        depth = len(skip_channels)
        widths = [min(decoder_width * 2 ** (depth - 1 - level), MAX_DECODER_CHANNELS) for level in range(depth)]
        self.encoder = encoder
        self.decoder = with_z_first(
            SkipDecoder(encoder.stage_channels[-1], skip_channels, widths, decoder_norm, kernels[:depth])
        )
        self.head = with_z_first(Convolution(3, widths[-1], out_channels, kernel_size=1, conv_only=True))
        require_whole(0, deep_supervision=deep_supervision)
        coarser = widths[-2::-1][:deep_supervision]
        self.deep_heads = nn.ModuleList(
            with_z_first(Convolution(3, width, out_channels, kernel_size=1, conv_only=True)) for width in coarser
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> logits (B, out_channels, X, Y, Z); see `deep_supervision` for training."""
        volume = z_first(x)
        if self.has_stem:
            stem = self.encoder.stem(volume)
            maps = self.encoder.pyramid(stem)
        else:
            stem, maps = volume, [z_first(m) for m in self.encoder.stages(x)]
        skips = maps[:-1]
        skips.reverse()
        if self.uses_stem:
            skips.append(stem)
        if self.uses_volume:
            skips.append(volume)
        decoded = self.decoder(maps[-1], skips)
        logits = z_last(self.head(decoded[-1]))
        if torch.jit.is_scripting() or not (self.training and len(self.deep_heads)):
            return logits
        found: Any = self._with_coarser(logits, decoded)  # a list, where TorchScript, which is not here, wants a tensor
        return found

    def _with_coarser(self, logits: torch.Tensor, decoded: list[torch.Tensor]) -> list[torch.Tensor]:
        coarser = zip(self.deep_heads, decoded[-2::-1], strict=False)
        return [logits, *(z_last(head(m)) for head, m in coarser)]


def _check_decoder(out_channels: int, decoder_width: int, decoder_norm: str) -> None:
    if out_channels < 2:
        raise UserError(f"out_channels={out_channels}: a segmentation needs the background and at least one class.")
    require_one_of(sorted(NORMS), decoder_norm=decoder_norm)
    if decoder_width < 1 or (decoder_norm == "group" and decoder_width % 8):
        raise UserError(f"decoder_width={decoder_width}: give a positive number, one that 8 divides for group norm.")


def _stem_shape(encoder: Encoder, shape: tuple[int, int, int]) -> tuple[int, ...]:
    stride = encoder.architecture["stem_stride"]
    return tuple(-(-size // step) for size, step in zip(shape, stride, strict=True))
