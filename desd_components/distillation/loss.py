"""Deep self-distillation loss: every student stage learns from the deepest teacher output.

Method: Ye et al., "DeSD", MICCAI 2022; centring and sharpening from Caron et al., "DINO", ICCV 2021.
Differs from the published scripts: the center is averaged over processes only when a process group exists, and a batch
whose logits are not finite leaves it as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from ..base.errors import UserError, require_one_of
from ..base.processes import mean_over_processes
from .centering import sinkhorn

CENTERINGS = ("mean", "sinkhorn")


class DistillationOutput(NamedTuple):
    """What both halves say. S student stages, V student views, T teacher views, B batch, K prototypes.

    Attributes:
        student_logits: (S, V, B, K).
        teacher_logits: (T, B, K) of the deepest stage, or (S, T, B, K) for ``teacher_target="same_stage"``.
        pooled: the student's pooled features at each of its stages, (V, B, C) each, with their gradient.
    """

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor
    pooled: tuple[torch.Tensor, ...] = ()


def cross_view_pairs(teacher_views: int, student_views: int, device: torch.device) -> torch.Tensor:
    """(T, V) weights that sum to 1: equal for each pair of different views, 0 where both halves see the same view."""
    different = 1.0 - torch.eye(teacher_views, student_views, device=device)
    return different / different.sum()


class DeepSelfDistillationLoss(nn.Module):
    """Cross-entropy of each student stage against the centred, sharpened teacher, over cross-view pairs.

    Args:
        num_prototypes: K.
        student_temperature: softmax divisor of the student.
        teacher_temperature: softmax divisor of the teacher; `set_teacher_temperature` moves it.
        center_momentum: what the center keeps of itself at each step.
        stage_weights: weight of each student stage, shallow to deep; None for equal ones that sum to 1.
        student_stages: which stages these are, counted from 1; None for the first ones, four where nothing says more.
        same_stage: whether the teacher's logits come from each stage ((S, T, B, K)), not from the deepest alone.
        centering: "mean", the running center of the published recipe, or "sinkhorn", see `centering.sinkhorn`; ours.
        terms: further terms, each called with the network's output and added; ours, none in the published recipe.

    Attributes:
        center: (1, K), or (S, K) for `same_stage`: running mean of teacher logits over views, batch and processes,
            updated after use.
        total: loss of the last batch over all processes, with its terms, detached.
        stage_losses: (S,), of the last batch over all processes, detached.
        teacher_entropy: mean entropy of the last batch's targets, in nats; ln K when they are uniform, 0 when one-hot.
        mean_targets: (1, K), or (S, K) for `same_stage`: mean target of the last batch, this process only.

    Raises:
        UserError: when the teacher's temperature is not below the student's, a momentum or weight is out of range, or
            weights and stages are not equally many.
    """

    center: torch.Tensor
    stage_weights: torch.Tensor

    def __init__(
        self,
        num_prototypes: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        stage_weights: Sequence[float] | None = None,
        same_stage: bool = False,
        centering: str = "mean",
        terms: Sequence[nn.Module] = (),
        student_stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        count = len(stage_weights or student_stages or (1, 2, 3, 4))
        student_stages = tuple(student_stages or range(1, count + 1))
        stage_weights = stage_weights or [1 / count] * count
        if len(stage_weights) != len(student_stages):
            raise UserError(
                f"stage_weights={list(stage_weights)}: give one for each of student_stages={list(student_stages)}."
            )
        if not 0.0 <= center_momentum <= 1.0:
            raise UserError(f"center_momentum={center_momentum}: it must lie in 0 to 1.")
        if min(stage_weights) < 0 or sum(stage_weights) <= 0:
            raise UserError(f"stage_weights={list(stage_weights)}: none may be negative, and one must be positive.")
        require_one_of(CENTERINGS, centering=centering)
        self.num_prototypes, self.centering, self.student_stages = num_prototypes, centering, student_stages
        self.student_temperature, self.center_momentum = student_temperature, center_momentum
        self.same_stage = same_stage
        self.set_teacher_temperature(teacher_temperature)
        self.register_buffer("stage_weights", torch.tensor(stage_weights, dtype=torch.float32), persistent=False)
        self.register_buffer("center", torch.zeros(len(stage_weights) if same_stage else 1, num_prototypes))
        self.terms = nn.ModuleList(terms)
        self.stage_losses = torch.zeros(len(stage_weights))
        self.total, self.teacher_entropy = torch.zeros(()), torch.zeros(())
        self.mean_targets = torch.full((1, num_prototypes), 1 / num_prototypes)

    @property
    def uniform_loss(self) -> float:
        """ln K: the loss of a student that says nothing, where a collapse to the uniform stays."""
        return math.log(self.num_prototypes)

    def set_teacher_temperature(self, temperature: float) -> None:
        """Set the teacher's temperature, which must stay below the student's: the teacher is the sharper one."""
        if not 0.0 < temperature < self.student_temperature:
            raise UserError(
                f"teacher_temperature={temperature} is not below student_temperature={self.student_temperature}: "
                "the teacher must be the sharper one. Lower it (published: 0.04 to 0.07 against 0.1)."
            )
        self.teacher_temperature = temperature

    def forward(self, output: DistillationOutput, target: None = None) -> torch.Tensor:
        """The loss of a batch, a scalar; `target` stands for the label that a trainer passes and is not used.

        Raises:
            UserError: when there are fewer than two views to compare.
        """
        with torch.autocast(output.student_logits.device.type, enabled=False):
            # S student stages, V student views, T teacher views, B batch, K prototypes; N is S for same_stage, else 1
            student_SVBK = output.student_logits.float() / self.student_temperature
            teacher_NTBK = output.teacher_logits.detach().float()
            teacher_NTBK = teacher_NTBK if self.same_stage else teacher_NTBK.unsqueeze(0)
            self._refuse_other_shapes(student_SVBK, teacher_NTBK)

            targets_NTBK, log_targets_NTBK = self._targets(teacher_NTBK)
            cross_entropy_STV = self._cross_entropy(targets_NTBK, student_SVBK)
            _, teacher_views, student_views = cross_entropy_STV.shape
            pairs_TV = cross_view_pairs(teacher_views, student_views, cross_entropy_STV.device)
            stage_losses = (cross_entropy_STV * pairs_TV).sum(dim=(1, 2))

            entropy = -(targets_NTBK * log_targets_NTBK).sum(dim=-1).mean()
            self.mean_targets = targets_NTBK.mean(dim=(1, 2))
            if self.training:
                self._update_center(teacher_NTBK)
            total = (self.stage_weights * stage_losses).sum()
        for term in self.terms:
            total = total + term(output)
        figures = mean_over_processes(torch.stack([total.detach(), entropy, *stage_losses.detach()]))
        self.total, self.teacher_entropy, self.stage_losses = figures[0], figures[1], figures[2:]
        return total

    @torch.no_grad()
    def _targets(self, teacher_NTBK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the student is to say, (N, T, B, K), and its logarithm."""
        if self.centering == "sinkhorn":
            rows = [sinkhorn(logits.flatten(0, 1), self.teacher_temperature) for logits in teacher_NTBK]
            targets = torch.stack(rows).unflatten(1, teacher_NTBK.shape[1:3])
            return targets, targets.clamp_min(torch.finfo(torch.float32).tiny).log()
        centred = (teacher_NTBK - self.center[:, None, None, :]) / self.teacher_temperature
        log_targets = centred.log_softmax(dim=-1)
        return log_targets.exp(), log_targets

    def _cross_entropy(self, targets_NTBK: torch.Tensor, student_SVBK: torch.Tensor) -> torch.Tensor:
        # the targets sum to 1, so the student's normaliser leaves the sum over K: log-softmax is never stored
        batch_size = student_SVBK.shape[2]
        normaliser_SV = student_SVBK.logsumexp(dim=-1).mean(dim=-1)
        targets = targets_NTBK if self.same_stage else targets_NTBK[0]
        subscripts = "stbk,svbk->stv" if self.same_stage else "tbk,svbk->stv"
        agreement_STV = torch.einsum(subscripts, targets, student_SVBK) / batch_size
        return normaliser_SV[:, None, :] - agreement_STV

    def _refuse_other_shapes(self, student_SVBK: torch.Tensor, teacher_NTBK: torch.Tensor) -> None:
        views, batch = student_SVBK.shape[1:3]
        wanted_SVBK = (len(self.stage_weights), views, batch, self.num_prototypes)
        wanted_NTBK = (len(self.center), teacher_NTBK.shape[1], batch, self.num_prototypes)
        if student_SVBK.shape != wanted_SVBK or teacher_NTBK.shape != wanted_NTBK:
            raise UserError(
                f"Student logits {tuple(student_SVBK.shape)} and teacher logits {tuple(teacher_NTBK.shape)} do not fit "
                f"{len(self.stage_weights)} stage weights and {self.num_prototypes} prototypes. "
                "Give network and loss the same student_stages, num_prototypes and teacher_target."
            )
        if views < 2:
            raise UserError("The loss compares across views: give at least two of them.")

    @torch.no_grad()
    def _update_center(self, teacher_NTBK: torch.Tensor) -> None:
        batch_center = mean_over_processes(teacher_NTBK.mean(dim=(1, 2)))
        kept = self.center_momentum
        updated = kept * self.center + (1.0 - kept) * batch_center
        # chosen on the device: no wait for the GPU, and the same choice on every rank, for the mean is shared
        self.center.copy_(torch.where(torch.isfinite(batch_center).all(), updated, self.center))

    def scalars(self) -> dict[str, float]:
        """What a log shows of the last batch."""
        entropy, stage_losses = float(self.teacher_entropy), self.stage_losses.cpu()
        return {
            "loss": float(self.total),
            "distillation_loss": float((self.stage_weights.cpu() * stage_losses).sum()),
            **{f"stage_{n}_loss": value for n, value in zip(self.student_stages, stage_losses.tolist(), strict=True)},
            "teacher_entropy": entropy,
            "marginal_entropy": float(torch.special.entr(self.mean_targets).sum(dim=-1).mean()),
            "center_norm": float(self.center.square().sum(dim=-1).sqrt().mean()),
            "kl": float(stage_losses[-1]) - entropy,
            "teacher_temperature": self.teacher_temperature,
        }
