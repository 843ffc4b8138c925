"""Probes: what an encoder's features are worth, stage by stage, before any fine-tuning.

Without labels: cross-view retrieval (is the second view of a volume the nearest to its first?) and effective rank.
With labels: dense nearest neighbours, voxel by voxel. The yardstick is the same encoder with random weights, drawn
several times; see `desd_components.evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys
from torch import nn
from torch.nn import functional

from ..base.classes import IGNORE
from ..base.encoders import Encoder, pooled_stages
from ..base.errors import UserError
from ..base.statistics import dice_score
from ..distillation.network import DeepSelfDistillationNetwork
from ..distillation.terms.dense import features_at
from .measures import effective_rank, retrieved

Samples = Sequence[Mapping[str, torch.Tensor]]  # labelled volumes, read one by one
_PROBE_STREAM = 0x9B0BE  # keeps the voxels drawn apart from other draws of one seed
_VOTE_TEMPERATURE = 0.07


class TeacherPooling(nn.Module):
    """`pooled_views` of a teacher's encoder whose tensors keep the names that they have in the whole network.

    Federated learning copies the weights that the trainer's network exchanges into the evaluator's network, by name.
    """

    def __init__(self, network: DeepSelfDistillationNetwork) -> None:
        super().__init__()
        self.teacher = nn.ModuleDict({"encoder": network.teacher.encoder})

    def forward(self, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One forward pass for each view."""
        return pooled_views(self.teacher["encoder"], views)


def pooled_views(encoder: Any, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """V views (B, C, X, Y, Z) -> for each stage, pooled features (V, B, C)."""
    return [torch.stack(stage) for stage in zip(*(pooled_stages(encoder.stages(v)) for v in views), strict=True)]


class CrossViewScore(Metric):
    """A label-free score of an encoder, over the pooled features that `pooled_views` made of two views of N volumes.

    Args:
        stage: counted from 1.
        score: "retrieval", the share of `retrieved` (0 to 1; by chance 1 / N), or "rank", the effective rank of the
            first view's features as a share of the largest possible, min(N - 1, C).
    """

    def __init__(self, stage: int, score: str = "retrieval") -> None:
        self.stage, self.score = stage, score
        self._views: list[torch.Tensor] = []
        super().__init__(output_transform=lambda output: output[CommonKeys.PRED][stage - 1])

    def reset(self) -> None:
        """Forget all volumes."""
        self._views = []

    def update(self, output: torch.Tensor) -> None:
        """Take the pooled features (V, B, C) of a batch."""
        self._views.append(output.detach().float().cpu())

    def compute(self) -> float:
        """The score over all volumes seen."""
        views = torch.cat(self._views, dim=1)
        if self.score == "retrieval":
            return float(retrieved(views[0], views[1]).mean())
        return effective_rank(views[0]) / max(1, min(views.shape[1] - 1, views.shape[2]))


def deepest_retrieval(encoder: Encoder) -> dict[str, CrossViewScore]:
    """Retrieval at the deepest stage: the score by which a pre-training is validated."""
    deepest = len(encoder.stage_channels)
    return {f"retrieval_{deepest}": CrossViewScore(deepest)}


def cross_view_scores(encoder: Encoder) -> dict[str, CrossViewScore]:
    """Retrieval at the other stages, and rank at all: what a validation shows beside `deepest_retrieval`."""
    deepest, *others = range(len(encoder.stage_channels), 0, -1)
    retrievals = {f"retrieval_{stage}": CrossViewScore(stage) for stage in others}
    return retrievals | {f"rank_{stage}": CrossViewScore(stage, "rank") for stage in (deepest, *others)}


def probed_box(labels: torch.Tensor, size: Sequence[int]) -> tuple[slice, slice, slice]:
    """The part of a volume that is probed: all of it, or along an axis longer than `size` that much around the labels.

    Args:
        labels: label values (X, Y, Z).
        size: voxels (x, y, z).
    """
    labelled = (labels > 0).nonzero()
    middle = labelled.float().mean(dim=0).tolist() if len(labelled) else [extent / 2 for extent in labels.shape]
    starts = [
        max(0, min(round(center - most / 2), extent - most))
        for center, most, extent in zip(middle, size, labels.shape, strict=True)
    ]
    x, y, z = (slice(start, start + most) for start, most in zip(starts, size, strict=True))
    return x, y, z


def voxel_features(maps: Sequence[torch.Tensor], shape: Sequence[int], voxels: torch.Tensor) -> list[torch.Tensor]:
    """Features of single voxels: each stage map resampled trilinearly to the grid of the volume.

    Args:
        maps: stage maps (1, C, x, y, z) of one volume.
        shape: voxels (X, Y, Z) of the volume.
        voxels: (N, 3) whole voxel coordinates.

    Returns:
        (N, C) for each stage.
    """
    places = (2 * voxels.float() + 1) / torch.tensor(shape, device=voxels.device) - 1  # centers, in half extents
    return [features_at(m, places[None])[0] for m in maps]


class DenseProbe:
    """Dense nearest neighbours: a voxel gets the class of the labelled voxels whose features are most like its own.

    The bank holds equally many voxels of each class. Features are standardised over the bank, channel by channel, then
    compared by cosine; the `neighbors` nearest vote with the weight exp(cosine / 0.07). Judged are voxels drawn
    uniformly, the same for every encoder, so that classes are as frequent as in the volume.

    Args:
        class_names: name of each label value, the background first.
        voxels_per_class: of the whole bank.
        judged_voxels: of a judged volume.
        neighbors: how many vote.
        size: larger volumes are probed in a box of that many voxels (x, y, z) about their labels.
        seed: of the voxels drawn.

    Raises:
        UserError: when the bank lacks a class, or no volume is given.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        voxels_per_class: int = 500,
        judged_voxels: int = 4096,
        neighbors: int = 20,
        size: Sequence[int] = (96, 96, 96),
        seed: int = 0,
    ) -> None:
        self.class_names, self.voxels_per_class, self.judged_voxels = list(class_names), voxels_per_class, judged_voxels
        self.neighbors, self.size, self.seed = neighbors, tuple(size), seed

    @torch.no_grad()
    def __call__(self, encoder: Encoder, bank: Samples, judged: Samples) -> torch.Tensor:
        """Dice (S, volumes, classes without the background); NaN where a class is neither there nor predicted.

        Args:
            encoder: in eval mode.
            bank: volumes {"image" (C, X, Y, Z), "label" (1, X, Y, Z)} whose voxels are the neighbours.
            judged: volumes that are scored.
        """
        banks, classes = self._bank(encoder, bank)
        scores = []
        for number in range(len(judged)):
            image, label = self._part(judged[number])
            chosen = self._draw(label.numel(), self.judged_voxels, 1, number)
            chosen = chosen[label.flatten()[chosen] != IGNORE]
            features, truth = self._features(encoder, image, label, chosen)
            predicted = [self._vote(b, f, classes) for b, f in zip(banks, features, strict=True)]
            scores.append(torch.tensor([self._dice(p, truth) for p in predicted]))
        if not scores:
            raise UserError("The dense probe has no volume to judge: give some under `validation`.")
        return torch.stack(scores, dim=1)

    def _bank(self, encoder: Encoder, volumes: Samples) -> tuple[list[torch.Tensor], torch.Tensor]:
        share = -(-self.voxels_per_class // max(1, len(volumes)))
        parts, classes = [], []
        for number in range(len(volumes)):
            image, label = self._part(volumes[number])
            flat = label.flatten()
            members = [(flat == value).nonzero()[:, 0] for value in range(len(self.class_names))]
            chosen = torch.cat([m[self._draw(len(m), share, 0, number)] for m in members])
            features, truth = self._features(encoder, image, label, chosen)
            parts.append(features)
            classes.append(truth)
        values = torch.cat(classes) if classes else torch.empty(0)
        absent = [name for value, name in enumerate(self.class_names) if not (values == value).any()]
        if absent:
            raise UserError(
                f"The dense probe's {len(volumes)} labelled volumes hold no voxel of {', '.join(absent)}: raise "
                "`probe_volumes`, or name the classes that are there with `--class_names`."
            )
        return [torch.cat(stage) for stage in zip(*parts, strict=True)], values

    def _part(self, sample: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (torch.as_tensor(sample[key]).as_subclass(torch.Tensor) for key in ("image", "label"))
        box = probed_box(label[0], self.size)
        return image[(slice(None), *box)].float(), label[0][box].round().long()

    def _draw(self, count: int, wanted: int, stream: int, number: int) -> torch.Tensor:
        order = np.random.default_rng([self.seed, _PROBE_STREAM, stream, number]).permutation(count)
        return torch.from_numpy(order[:wanted])

    @staticmethod
    def _features(
        encoder: Encoder, image: torch.Tensor, label: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        device = next(encoder.parameters()).device
        voxels = torch.stack(torch.unravel_index(chosen, label.shape), dim=1)
        features = voxel_features(encoder.stages(image[None].to(device)), label.shape, voxels.to(device))
        return features, label.flatten()[chosen]

    def _vote(self, bank: torch.Tensor, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        mean, sd = bank.mean(dim=0), bank.std(dim=0).clamp_min(1e-6)
        a, b = (functional.normalize((f - mean) / sd, dim=1) for f in (features, bank))
        similarity, nearest = (a @ b.T).topk(min(self.neighbors, len(b)), dim=1)
        belongs = functional.one_hot(classes.to(a.device)[nearest], len(self.class_names))
        return ((similarity / _VOTE_TEMPERATURE).exp().unsqueeze(-1) * belongs).sum(dim=1).argmax(dim=1).cpu()

    def _dice(self, predicted: torch.Tensor, truth: torch.Tensor) -> list[float]:
        return [dice_score(predicted == value, truth == value) for value in range(1, len(self.class_names))]
