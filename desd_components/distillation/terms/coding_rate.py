"""Coding rate: a term that keeps the pooled features of a batch spread over many directions, at every stage.

Method: Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
reduction", NeurIPS 2020; beside self-distillation: Wu et al., "SimDINO", 2025. Not part of DeSD: the published recipe
leaves it out. Differs from SimDINO: it acts on the encoder's own pooled features, centred, at each stage.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ...base.errors import UserError
from ..loss import DistillationOutput


def coding_rate(features: torch.Tensor, precision: float = 0.5) -> torch.Tensor:
    """Nats that describe features (N, C), centred and normalised, up to `precision`: the more, the more spread out."""
    centred = functional.normalize(features.float() - features.float().mean(dim=0), dim=1)
    count, channels = centred.shape
    # the smaller of the two Gram matrices has the same determinant
    gram = centred @ centred.T if count < channels else centred.T @ centred
    eye = torch.eye(len(gram), device=gram.device)
    return 0.5 * torch.logdet(eye + channels / (count * precision**2) * gram)


class CodingRateTerm(nn.Module):
    """Minus the coding rate of the student's pooled features, mean over stages and views.

    Args:
        weight: factor of the term in the loss.
        precision: see `coding_rate`.
        stages: which stages, counted from 1; None for all.

    Raises:
        UserError: when the weight is negative or the precision is not positive.
    """

    def __init__(self, weight: float, precision: float = 0.5, stages: Sequence[int] | None = None) -> None:
        super().__init__()
        if weight < 0 or precision <= 0:
            raise UserError(f"coding rate: weight={weight} must not be negative and precision={precision} not 0.")
        self.weight, self.precision, self.stages = weight, precision, stages
        self.rate = torch.zeros(())

    def forward(self, output: DistillationOutput) -> torch.Tensor:
        """The weighted term of a batch, a scalar."""
        with torch.autocast(output.student_logits.device.type, enabled=False):
            stages = self.stages or range(1, len(output.pooled) + 1)
            rates = [coding_rate(view, self.precision) for stage in stages for view in output.pooled[stage - 1]]
            rate = torch.stack(rates).mean()
        self.rate = rate.detach()
        return -self.weight * rate

    def scalars(self) -> dict[str, float]:
        """What a log shows of the last batch."""
        return {"coding_rate": float(self.rate)}
