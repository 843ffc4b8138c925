"""Probes: what an encoder's features are worth, stage by stage, before any fine-tuning.

Without labels: cross-view retrieval (is the second view of a volume the nearest to its first?) and effective rank.
The yardstick is the same encoder with random weights, drawn several times.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys
from torch import nn
from torch.nn import functional

from .encoder import ResNet3DEncoder, pooled_stages
from .monitor import effective_rank

logger = logging.getLogger(__name__)


class StagePooling(nn.Module):
    """An encoder that pools: V views (B, C, X, Y, Z) -> for each of four stages, pooled features (V, B, C)."""

    def __init__(self, encoder: ResNet3DEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One forward pass for each view."""
        return [
            torch.stack(stage) for stage in zip(*(pooled_stages(self.encoder.stages(v)) for v in views), strict=True)
        ]


def cross_view_retrieval(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of N volumes whose second view (N, C) is the nearest, by cosine of centred features, to their first."""
    mean = torch.cat([first, second]).mean(dim=0)
    a, b = functional.normalize(first - mean, dim=1), functional.normalize(second - mean, dim=1)
    similarity = a @ b.T
    hit = similarity.argmax(dim=1) == torch.arange(len(a), device=a.device)
    # features that are all the same retrieve nothing, although argmax would name the first
    return float((hit & (similarity.amax(dim=1) > similarity.amin(dim=1))).float().mean())


class CrossViewScore(Metric):
    """A label-free score of an encoder, over the pooled features that `StagePooling` made of two views of N volumes.

    Args:
        stage: counted from 1.
        score: "retrieval", see `cross_view_retrieval` (0 to 1; by chance 1 / N), or "rank", the effective rank of the
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
            return cross_view_retrieval(views[0], views[1])
        return effective_rank(views[0]) / max(1, min(views.shape[1] - 1, views.shape[2]))
