"""Crops mixed of labelled and unlabelled ones, and the loss in which their voxels weigh differently.

Source: Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023. Ours: half of
the crops of a step stay as they are, and which crop is pasted into which is drawn; each has its own intensity changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from monai.data import list_data_collate
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..base.classes import IGNORE, Regions
from ..base.draws import MIXING_STREAM, SampleKey, generator, key_of
from ..base.errors import UserError
from ..scans.datasets import PreprocessedDataset
from .losses import class_targets, class_weights

SIDE = 2 / 3  # of a crop, that the cuboid has which is pasted [BCP]


class MixedDataset(Dataset):
    """Labelled crops, each with draws for mixing, and crops of unlabelled scans for the second half of each batch.

    All is a function of (seed, epoch, index) of the labelled samples.

    Args:
        labelled: gives ``image`` (C, X, Y, Z) and ``label`` (1, X, Y, Z).
        unlabelled: gives ``weak``, which the teacher sees, and ``image``, the same voxels changed for the student; None
            for batches of labelled crops alone.
        seed: of the draws.
    """

    def __init__(self, labelled: PreprocessedDataset, unlabelled: PreprocessedDataset | None, seed: int = 0) -> None:
        self.labelled, self.unlabelled, self.seed = labelled, unlabelled, seed

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        """The samples of a batch, as PyTorch's loaders ask for them."""
        samples = []
        for position, key in enumerate(keys):
            epoch, index = key_of(key)
            draws, found = generator(self.seed, MIXING_STREAM, epoch, index), self.labelled[key]
            for sample in found if isinstance(found, list) else [found]:
                partner = None
                if self.unlabelled is not None and position >= len(keys) // 2:
                    # a number of its own for each sample, so that another one takes another crop of the same scan
                    number = SampleKey(epoch * len(self) + index, int(draws.integers(len(self.unlabelled))))
                    partner = self.unlabelled[number]
                samples.append(({**sample, "draws": torch.from_numpy(draws.random(4))}, partner))
        return samples

    @staticmethod
    def collate(samples: Sequence[tuple[dict[str, Any], dict[str, Any] | None]]) -> dict[str, Any]:
        """A batch: ``image``, ``label``, ``draws`` (B, 4), and ``weak`` and ``strong`` of the unlabelled crops."""
        partners = [partner for _, partner in samples if partner is not None]
        batch: dict[str, Any] = list_data_collate([sample for sample, _ in samples])
        if partners:
            unlabelled = list_data_collate(partners)
            batch |= {"weak": unlabelled["weak"], "strong": unlabelled["image"]}
        return batch


class Targets(NamedTuple):
    """Label values (B, 1, X, Y, Z), and weights (M, 1, X, Y, Z) of the last M crops' voxels; None: all are 1."""

    labels: torch.Tensor
    weights: torch.Tensor | None = None


def cuboids(corners: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Masks (B, 1, X, Y, Z) of cuboids with `SIDE` of a crop's sides; their corners (B, 3) are shares of the room."""
    inside = torch.ones((), dtype=torch.bool, device=corners.device)
    for axis, size in enumerate(shape):
        side = round(SIDE * size)
        start = (corners[:, axis] * (size - side + 1)).long()[:, None]
        places = torch.arange(size, device=corners.device)
        along = (places >= start) & (places < start + side)
        inside = inside & along.reshape(-1, 1, *(size if number == axis else 1 for number in range(3)))
    return inside


class MixedLoss(nn.Module):
    """The mean of the loss on crops as they are and of that on mixed ones, in which each voxel has a weight.

    Weights enter numerator and denominator of Dice, and the mean of the cross-entropy; of 1 they give the plain loss.

    Args:
        plain: logits and label values -> a scalar; see `segmentation_loss`.
        activation, regions: of that loss.
    """

    def __init__(self, plain: nn.Module, activation: str, regions: Regions = False) -> None:
        super().__init__()
        self.plain, self.is_softmax = plain, activation == "softmax"
        self.regions = None if isinstance(regions, bool) else regions

    def forward(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Logits (B, C, X, Y, Z) and `Targets` -> a scalar.

        Raises:
            UserError: when the network gives logits of coarser levels, too.
        """
        labels, weights = targets
        if isinstance(logits, list):
            raise UserError("Crops are mixed at full resolution alone: set network_def#deep_supervision to 0.")
        if weights is None:
            loss: torch.Tensor = self.plain(logits, labels)
            return loss
        half = len(logits) - len(weights)
        return (self.plain(logits[:half], labels[:half]) + self.weighted(logits[half:], labels[half:], weights)) / 2

    def weighted(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, X, Y, Z), label values and weights (B, 1, X, Y, Z), `IGNORE` without effect -> a scalar."""
        logits, weights = logits.to(weights.dtype), weights.masked_fill(labels == IGNORE, 0.0)
        targets, voxels = class_targets(labels, logits.shape[1], self.regions).to(weights.dtype), (0, 2, 3, 4)
        if self.is_softmax:
            chances, entropies = logits.softmax(1), -(targets * logits.log_softmax(1)).sum(1, keepdim=True)
        else:
            chances = logits.sigmoid()
            entropies = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1, keepdim=True)
        counts, found = (weights * targets).sum(voxels), (weights * chances).sum(voxels)
        shared = (weights * targets * chances).sum(voxels)
        missed = 1 - (2 * shared + 1e-5)[1:] / (counts + found + 1e-5)[1:]  # smoothed as MONAI's
        if self.is_softmax:
            weights = weights * (targets * class_weights(counts, missed).reshape(-1, 1, 1, 1)).sum(1, keepdim=True)
        return missed.mean() + (weights * entropies).sum() / weights.sum().clamp(min=1e-5)
