"""Losses of segmentation, and the one rule from logits to labels."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from monai.losses import DeepSupervisionLoss, DiceLoss
from monai.utils import convert_to_tensor
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from ..base.classes import IGNORE, Regions, check_regions, class_members, written_values
from ..base.errors import UserError, require_one_of

ACTIVATIONS = ("sigmoid", "softmax")
COMMON = 0.05  # share of the voxels, below which a class is small
BALANCE = 0.75  # a voxel of a class that is n times smaller than that, and not found at all, weighs n**BALANCE


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


def annotated(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C, X, Y, Z), and targets (B, T, X, Y, Z) with labels first, of the N voxels that are not `IGNORE`.

    As (1, C, N) and (1, T, N), or as they are where all voxels were annotated: losses over a batch mind no shape.
    """
    known = targets[:, 0] != IGNORE
    if known.all():
        return logits, targets
    return logits.movedim(1, -1)[known].T[None], targets.movedim(1, -1)[known].T[None]


def class_weights(counts: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
    """What a voxel of each class weighs in the cross-entropy of a softmax: more where it is small and not found yet.

    Otherwise organs of a few hundred voxels stay background for hundreds of steps. Ours: see results/README.md.

    Args:
        counts: voxels of each class, (C,), the background first.
        missed: one minus the Dice of each class but the background, (C - 1,).

    Returns:
        (C,): 1 for the background, for what is not small, and for what is found.
    """
    scarcity = (COMMON * counts.sum() / counts[1:].clamp(min=1e-5)).clamp(min=1)
    return torch.cat([counts.new_ones(1), scarcity ** (BALANCE * missed.detach() ** 2)])


class DiceAndEntropy(_Loss):
    """Dice, background left out, plus cross-entropy, over the annotated voxels of a whole batch, both with weight 1.

    A crop without a class does not weigh as much as one with it. Computed in float32 whatever the precision of the
    network. The cross-entropy of sigmoids is the mean over all channels; that of a softmax has `class_weights`.

    Args:
        activation: "sigmoid" or "softmax".
        regions: for each channel from 1 on, the label values that it covers, e.g. [[1, 2], [2]] for an organ with its
            tumour, and the tumour; None: each channel is its own label value.
        ignore: whether labels may hold `IGNORE`; to look for it is to wait for a GPU.
    """

    def __init__(self, activation: str, regions: Sequence[Sequence[int]] | None = None, ignore: bool = True) -> None:
        super().__init__()
        self.is_softmax, self.regions, self.ignore = activation == "softmax", regions, ignore
        act = {activation: True}
        self.dice = DiceLoss(include_background=False, batch=True, reduction="none", **act)  # type: ignore[arg-type]

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits and targets -> a scalar.

        Args:
            logits: (B, C, X, Y, Z).
            targets: (B, 1, X, Y, Z), label values, `IGNORE` without effect; or (B, 2, X, Y, Z), with a weight of each
                voxel, which enters numerator and denominator of Dice, and the mean of the cross-entropy.
        """
        logits = convert_to_tensor(logits.float())  # not MONAI's, which keep records
        targets = convert_to_tensor(targets)
        if self.ignore:
            logits, targets = annotated(logits, targets)
        if not targets.numel():
            return logits.sum()  # 0, and no gradient
        labels, weights = targets[:, :1], targets[:, 1:]
        maps = class_targets(labels, logits.shape[1], self.regions)
        if weights.numel():
            return self._weighted(logits, maps, weights.float())
        missed = self.dice(logits, maps).flatten()
        if not self.is_softmax:
            return missed.mean() + F.binary_cross_entropy_with_logits(logits, maps)
        return missed.mean() + F.cross_entropy(logits, labels[:, 0].long(), class_weights(_sums(maps), missed))

    def _weighted(self, logits: torch.Tensor, maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        chances = logits.softmax(1) if self.is_softmax else logits.sigmoid()
        counts, found, shared = (_sums(weights * part) for part in (maps, chances, maps * chances))
        missed = 1 - (2 * shared + 1e-5)[1:] / (counts + found + 1e-5)[1:]  # smoothed as MONAI's
        if self.is_softmax:
            entropies = -(maps * logits.log_softmax(1)).sum(1, keepdim=True)
            weights = weights * (maps.movedim(1, -1) @ class_weights(counts, missed))[:, None]
        else:
            entropies = F.binary_cross_entropy_with_logits(logits, maps, reduction="none").mean(1, keepdim=True)
        return missed.mean() + (weights * entropies).sum() / weights.sum().clamp(min=1e-5)


def _sums(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) -> (C,), over all voxels of a batch."""
    return maps.transpose(0, 1).flatten(1).sum(1)


def segmentation_loss(
    activation: str = "sigmoid", regions: Regions = False, num_classes: int | None = None, ignore: bool = True
) -> nn.Module:
    """The loss of one `activation`.

    "sigmoid": Dice + binary cross-entropy, as in the paper; "softmax": Dice + cross-entropy, of `class_weights`.

    Of a list of logits, the finest first, the weighted sum: 1, 1/2, 1/4, against targets of their size.

    Args:
        activation: see above.
        regions: see `DiceAndEntropy`; True lets classes overlap, each being its own label value.
        num_classes: channels, the background included, to check the regions against.
        ignore: see `DiceAndEntropy`.

    Raises:
        UserError: when `activation` is neither, or when overlapping regions are asked of a softmax.
    """
    if num_classes is not None:
        check_regions(regions, num_classes)
    require_one_of(ACTIVATIONS, activation=activation)
    if activation == "softmax" and regions:
        raise UserError("regions overlap, which a softmax cannot say. Use activation: sigmoid, or regions: false.")
    return DeepSupervisionLoss(DiceAndEntropy(activation, None if isinstance(regions, bool) else regions, ignore))


def decode(logits: torch.Tensor, regions: Regions = False, single: Sequence[int] = ()) -> torch.Tensor:
    """Logits to label values, the one rule of validation, inference and metadata.

    Args:
        logits: (..., C, X, Y, Z), channel 0 the background.
        regions: False: the channel with the largest logit. Otherwise classes may overlap: those whose sigmoid exceeds
            0.5 are present, and the later class wins; each leaves the first label value that no later one covers.
        single: classes of which each scan holds one connected piece; smaller pieces become background.

    Returns:
        (..., 1, X, Y, Z), int16.
    """
    return decode_channels(logits.split(1, dim=-4), logits.shape[-4], regions, single)


def decode_channels(
    channels: Iterable[torch.Tensor], count: int, regions: Regions = False, single: Sequence[int] = ()
) -> torch.Tensor:
    """`decode` of logits that come class by class, `count` times (..., 1, X, Y, Z), the background's first."""
    values = written_values(count, regions) if regions else list(range(count))
    channels = iter(channels)
    largest = next(channels).clone()
    labels = torch.zeros_like(largest, dtype=torch.int16)
    for value in values[1:]:
        logits = next(channels)
        wins = (logits > 0) if regions else (logits > largest)  # a sigmoid exceeds 0.5 where its logit exceeds 0
        labels.masked_fill_(wins, value)
        if not regions:
            torch.maximum(largest, logits, out=largest)
        del logits, wins  # or they would lie beside the next class
    return labels if regions else largest_pieces(labels, single)


def largest_pieces(labels: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Labels (..., X, Y, Z), of each class its largest connected piece alone; MONAI's own wants scikit-image."""
    from scipy import ndimage

    if not classes:
        return labels
    kept = labels.cpu().numpy().copy()
    for volume in kept.reshape(-1, *kept.shape[-3:]):
        for value, box in enumerate(ndimage.find_objects(volume), start=1):
            if box is not None and value in classes:
                part = volume[box]
                pieces, _ = ndimage.label(part == value)
                largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
                part[(pieces > 0) & (pieces != largest)] = 0
    return labels.clone().copy_(torch.from_numpy(kept))  # a MetaTensor remembers its scan


def probabilities(channels: Callable[[], Iterable[torch.Tensor]], activation: str) -> Iterator[torch.Tensor]:
    """Of each class in turn, from logits (X, Y, Z) that `channels` gives class by class, as often as it is called."""
    if activation == "sigmoid":
        yield from (logits.sigmoid() for logits in channels())
        return
    total = functools.reduce(torch.logaddexp, channels())
    for logits in channels():
        yield (logits - total).exp_()
