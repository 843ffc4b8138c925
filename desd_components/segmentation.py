"""Segmentation: the pre-trained encoder with a convolutional skip decoder, its losses, and logits -> labels.

Source: Ye et al., "DeSD", MICCAI 2022, fine-tune the teacher's encoder with a randomly initialised decoder
on Dice + binary cross-entropy; that decoder is not published, so this one is ours: a U-Net's expanding path of two
3x3x3 convolutions per level, made of MONAI blocks. Every level upsamples to the exact size of its skip map, so any
input size and any strides fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.blocks import Convolution
from torch import nn
from torch.nn import functional as F

from .encoder import NORMS, ResNet3DEncoder, refuse_small_maps
from .errors import UserError

ACTIVATIONS = ("sigmoid", "softmax")
#: how many channels a decoder level may have at most
MAX_DECODER_CHANNELS = 320


class UpBlock(nn.Module):
    """One level of the decoder: project, upsample to the skip's size, join, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.project = Convolution(3, in_channels, out_channels, kernel_size=1, conv_only=True)
        self.convolve = nn.Sequential(
            _block(out_channels + skip_channels, out_channels, norm), _block(out_channels, out_channels, norm)
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, C, x, y, z) and a skip map (B, S, X, Y, Z) -> (B, O, X, Y, Z)."""
        # projected first: interpolating fewer channels is cheaper, and both are linear
        x = F.interpolate(self.project(x), size=skip.shape[2:], mode="trilinear", align_corners=False)
        return self.convolve(torch.cat((x, skip), dim=1))


def _block(in_channels: int, out_channels: int, norm: str) -> nn.Module:
    act = ("leakyrelu", {"negative_slope": 0.01, "inplace": True})
    return Convolution(
        3, in_channels, out_channels, kernel_size=3, bias=False, adn_ordering="NA", act=act, norm=NORMS[norm]
    )


class SkipDecoder(nn.Module):
    """Decoder over a list of skip maps.

    Args:
        in_channels: channels of the deepest map.
        skip_channels: channels of the skip maps, deep to shallow.
        out_channels: channels of each level, deep to shallow.
        norm: "instance", "batch" or "group".
    """

    def __init__(self, in_channels: int, skip_channels: Sequence[int], out_channels: Sequence[int], norm: str) -> None:
        super().__init__()
        sources = (in_channels, *out_channels[:-1])
        self.levels = nn.ModuleList(
            UpBlock(source, skip, target, norm)
            for source, skip, target in zip(sources, skip_channels, out_channels, strict=True)
        )

    def forward(self, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """The deepest map and the skip maps, deep to shallow -> a map of the shallowest skip's size."""
        for i, level in enumerate(self.levels):
            x = level(x, skips[i])
        return x


class SegmentationNetwork(nn.Module):
    """The encoder of pre-training, a skip decoder to full resolution and a 1x1x1 head.

    The skip maps are stages 3, 2, 1; then the stem's map where it is finer than stage 1; then the volume itself where
    the stem has a stride.

    Args:
        encoder: any `ResNet3DEncoder`.
        out_channels: classes including the background, which is channel 0.
        decoder_width: channels of the finest decoder level; each deeper level has twice as many, at most 320.
        decoder_norm: "instance", "batch" or "group".
        window: size (x, y, z) in voxels of the windows that the network will see, checked here when given.

    Raises:
        UserError: when an argument is out of range, or when a window would leave a map of one voxel at stage 4.

    Attributes:
        decoder_architecture: the arguments besides the encoder, as JSON-able values, for a manifest.
    """

    def __init__(
        self,
        encoder: ResNet3DEncoder,
        out_channels: int,
        decoder_width: int = 32,
        decoder_norm: str = "instance",
        window: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_decoder(out_channels, decoder_width, decoder_norm)
        if window is not None:
            refuse_small_maps(encoder, window)
        self.decoder_architecture: dict[str, object] = {
            "out_channels": out_channels,
            "decoder_width": decoder_width,
            "decoder_norm": decoder_norm,
        }
        # probed instead of derived from the strides: a shape says whether a map is finer than the next
        probe = (64, 64, 64)
        stem_shape, stage_1_shape = _stem_shape(encoder, probe), encoder.stage_shapes(probe)[0]
        self.uses_stem = stem_shape != stage_1_shape
        self.uses_volume = stem_shape != probe
        skip_channels = list(encoder.stage_channels[2::-1])
        skip_channels += [encoder.stem_channels] if self.uses_stem else []
        skip_channels += [encoder.in_channels] if self.uses_volume else []
        depth = len(skip_channels)
        widths = [min(decoder_width * 2 ** (depth - 1 - level), MAX_DECODER_CHANNELS) for level in range(depth)]
        self.encoder = encoder
        self.decoder = SkipDecoder(encoder.stage_channels[3], skip_channels, widths, decoder_norm)
        self.head = Convolution(3, widths[-1], out_channels, kernel_size=1, conv_only=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> logits (B, out_channels, X, Y, Z)."""
        stem = self.encoder.stem(x)
        maps = self.encoder.pyramid(stem)
        skips = [maps[2], maps[1], maps[0]]
        if self.uses_stem:
            skips.append(stem)
        if self.uses_volume:
            skips.append(x)
        return self.head(self.decoder(maps[3], skips))


def _check_decoder(out_channels: int, decoder_width: int, decoder_norm: str) -> None:
    if out_channels < 2:
        raise UserError(f"out_channels={out_channels}: a segmentation needs the background and at least one class.")
    if decoder_norm not in NORMS:
        raise UserError(f"decoder_norm={decoder_norm!r}: choose one of {sorted(NORMS)}.")
    if decoder_width < 1 or (decoder_norm == "group" and decoder_width % 8):
        raise UserError(f"decoder_width={decoder_width}: give a positive number, one that 8 divides for group norm.")


def _stem_shape(encoder: ResNet3DEncoder, shape: tuple[int, int, int]) -> tuple[int, ...]:
    stride = encoder.architecture["stem_stride"]
    return tuple(-(-size // step) for size, step in zip(shape, stride, strict=True))  # type: ignore[call-overload]


def class_members(num_classes: int, regions: bool | Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    """The label values that each channel covers, the background's first: its own alone, or what `regions` says."""
    own = [[value] for value in range(1, num_classes)]
    return [[0], *(own if regions is None or isinstance(regions, bool) else map(list, regions))]


def class_targets(
    labels: torch.Tensor, num_classes: int, regions: Sequence[Sequence[int]] | None = None
) -> torch.Tensor:
    """One binary map per channel: (B, 1, X, Y, Z) label values -> (B, num_classes, X, Y, Z) float.

    Args:
        labels: label values, 0 = background.
        num_classes: channels, the background included.
        regions: for each channel from 1 on, the label values that it covers; None: its own value alone.
    """
    values = labels.round().long()
    members = class_members(num_classes, regions)
    return torch.cat([torch.isin(values, values.new_tensor(own)) for own in members], dim=1).float()


class DiceBCELoss(nn.Module):
    """Dice on the sigmoids, background left out, plus binary cross-entropy over all channels, both with weight 1.

    Dice is taken over the whole batch: a crop without a class then does not weigh as much as one with it. Computed in
    float32 whatever the precision of the network.

    Args:
        regions: for each channel from 1 on, the label values that it covers, e.g. [[1, 2], [2]] for an organ with its
            tumour, and the tumour; None: each channel is its own label value.
    """

    def __init__(self, regions: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self.regions = None if regions is None else [list(r) for r in regions]
        self.dice = DiceLoss(include_background=False, sigmoid=True, batch=True)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, X, Y, Z) and label values (B, 1, X, Y, Z) -> a scalar."""
        logits = logits.float()
        targets = class_targets(labels, logits.shape[1], self.regions)
        return self.dice(logits, targets) + F.binary_cross_entropy_with_logits(logits, targets)


class _DiceCELoss(DiceCELoss):
    """MONAI's `DiceCELoss` on softmax, in float32."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, X, Y, Z) and label values (B, 1, X, Y, Z) -> a scalar."""
        return super().forward(input.float(), target)


def segmentation_loss(
    activation: str = "sigmoid", regions: bool | Sequence[Sequence[int]] = False, num_classes: int | None = None
) -> nn.Module:
    """The loss of one `activation`: "sigmoid", Dice + binary cross-entropy as in the paper; "softmax", Dice + CE.

    Args:
        activation: see above.
        regions: see `DiceBCELoss`; True lets classes overlap, each being its own label value.
        num_classes: channels, the background included, to check the regions against.

    Raises:
        UserError: when `activation` is neither, or when overlapping regions are asked of a softmax.
    """
    if num_classes is not None:
        check_regions(regions, num_classes)
    if activation not in ACTIVATIONS:
        raise UserError(f"activation={activation!r}: choose one of {list(ACTIVATIONS)}.")
    if activation == "softmax":
        if regions:
            raise UserError("regions overlap, which a softmax cannot say. Use activation: sigmoid, or regions: false.")
        return _DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return DiceBCELoss(regions=None if isinstance(regions, bool) else regions)


def check_regions(regions: bool | Sequence[Sequence[int]], num_classes: int) -> None:
    """Refuse regions that are not one list of label values for each class but the background.

    Raises:
        UserError: naming the number found and the number wanted, or the value outside the classes.
    """
    if isinstance(regions, bool):
        return
    if len(regions) != num_classes - 1:
        raise UserError(f"regions={regions!r}: {len(regions)} lists for {num_classes - 1} classes. Give one for each.")
    outside = [value for members in regions for value in members if not 0 < value < num_classes]
    if outside:
        raise UserError(f"regions={regions!r}: label values run from 1 to {num_classes - 1}, {outside[0]} does not.")


def decode(logits: torch.Tensor, regions: bool | Sequence = False) -> torch.Tensor:
    """Logits to label values, the one rule of validation, inference and metadata.

    Args:
        logits: (..., C, X, Y, Z), channel 0 the background.
        regions: False: the channel with the largest logit. Otherwise classes may overlap: those whose sigmoid exceeds
            0.5 are present, and the later class wins.

    Returns:
        (..., 1, X, Y, Z), int64.
    """
    if not regions:
        return logits.argmax(dim=-4, keepdim=True)
    present = logits.narrow(-4, 1, logits.shape[-4] - 1) > 0  # a sigmoid exceeds 0.5 where its logit exceeds 0
    classes = torch.arange(1, logits.shape[-4], device=logits.device).reshape(-1, 1, 1, 1)
    return (present * classes).amax(dim=-4, keepdim=True)


def probabilities(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Logits (..., C, X, Y, Z) to probabilities of the same shape, in float32."""
    return logits.float().softmax(dim=-4) if activation == "softmax" else logits.float().sigmoid()
