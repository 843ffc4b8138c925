"""The network of deep self-distillation: a student with a head on every stage, and its momentum teacher.

Method: Ye et al., "DeSD", MICCAI 2022; the head is that of Caron et al., "DINO", ICCV 2021. Differs from the published
scripts: prototypes are rows of any length instead of a weight norm of fixed gain. Views of one shape share a pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..base.arithmetic import cosines
from ..base.draws import drawn_from
from ..base.encoders import Encoder, pooled_stages
from ..base.errors import UserError, require_one_of, require_whole
from ..base.tensors import average_into
from .loss import DistillationOutput

TEACHER_TARGETS = ("deepest", "same_stage")
HEAD_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class ProjectionHead(nn.Module):
    """MLP, L2 norm, prototypes: pooled features (N, in_features) -> logits (N, num_prototypes), in float32.

    Args:
        in_features: channels of the stage.
        num_prototypes: K.
        hidden: width of the two hidden layers.
        bottleneck: width before the prototypes.
        norm: "batch", "layer" or "none", after each hidden linear layer.
    """

    def __init__(
        self, in_features: int, num_prototypes: int, hidden: int = 2048, bottleneck: int = 256, norm: str = "batch"
    ) -> None:
        super().__init__()
        require_one_of(HEAD_NORMS, head_norm=norm)
        make_norm = HEAD_NORMS[norm]
        self.mlp = nn.Sequential(
            *(nn.Linear(in_features, hidden), make_norm(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), make_norm(hidden), nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, in_features) -> (N, num_prototypes): cosines between embedding and prototypes."""
        with torch.autocast(features.device.type, enabled=False):
            embedding = functional.normalize(self.mlp(features.float()), dim=-1)
            return cosines(embedding, self.prototypes)


def student_and_teacher_heads(
    encoder: Encoder, num_prototypes: int, student_stages: Sequence[int], same_stage: bool, **shape: Any
) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    """A head for each student stage, and the teacher's copies of those that give targets; keys are ``stage_<n>``."""
    deepest = len(encoder.stage_channels)
    targets = student_stages if same_stage else [deepest]
    if not set(targets) <= set(student_stages):
        raise UserError(
            f"student_stages={list(student_stages)}: the deepest target is a head of stage {deepest} that follows "
            "the student's. Add that stage, or let the target be same_stage."
        )
    heads = {
        f"stage_{stage}": ProjectionHead(encoder.stage_channels[stage - 1], num_prototypes, **shape)
        for stage in student_stages
    }
    copies = {f"stage_{stage}": copy.deepcopy(heads[f"stage_{stage}"]) for stage in targets}
    return nn.ModuleDict(heads), nn.ModuleDict(copies)


def heads_on(heads: nn.Module, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """What each head says of the features of its stage; `rows` holds (N, C) of all -> logits (heads, N, K)."""
    return torch.stack([head(rows[int(key.removeprefix("stage_")) - 1]) for key, head in heads.named_children()])


class HalfOutput(NamedTuple):
    """What one half of the network makes of V views of B samples.

    Attributes:
        logits: (heads, V, B, K).
        pooled: features of all stages, (V, B, C) each.
        maps: stage maps (W * B, C, X, Y, Z) of the W views that share the first one's shape.
    """

    logits: torch.Tensor
    pooled: list[torch.Tensor]
    maps: list[torch.Tensor]


class EncoderWithHeads(nn.Module):
    """One half of the network: an encoder, and a projection head for each of some stages."""

    def __init__(self, encoder: Encoder, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, views: Sequence[torch.Tensor]) -> HalfOutput:
        """V views (B, C, X, Y, Z), those of one shape next to each other; each shape is one pass of the encoder."""
        groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
        passes = [self.encoder.stages(torch.cat(group)) for group in groups]
        pooled = [pooled_stages(maps) for maps in passes]
        rows = [torch.cat(stage) for stage in zip(*pooled, strict=True)]
        shape = len(views), len(views[0])
        return HalfOutput(
            heads_on(self.heads, rows).unflatten(1, shape), [row.unflatten(0, shape) for row in rows], passes[0]
        )


class DeepSelfDistillationNetwork(nn.Module):
    """Student and teacher: every student stage is to predict what the teacher says at its deepest stage.

    Args:
        encoder: becomes the student's; the teacher starts as its copy.
        num_prototypes: K, the same for every head.
        num_global_views: how many of the views, from the first, the teacher sees.
        student_stages: stages with a student head, counted from 1; None for all of the encoder's, and the deepest alone
            is plain self-distillation.
        teacher_target: "deepest" for all student stages (the method), or "same_stage" for each its own.
        head_hidden, head_bottleneck, head_norm: see `ProjectionHead`.
        seed: of the heads' initial weights; None goes on with torch's generator.

    Raises:
        UserError: when an argument is not among the values above.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_prototypes: int,
        num_global_views: int = 2,
        student_stages: Sequence[int] | None = None,
        teacher_target: str = "deepest",
        head_hidden: int = 2048,
        head_bottleneck: int = 256,
        head_norm: str = "batch",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        require_one_of(TEACHER_TARGETS, teacher_target=teacher_target)
        stages = list(range(1, len(encoder.stage_channels) + 1))
        student_stages = stages if student_stages is None else list(student_stages)
        if not student_stages or [stage for stage in stages if stage in student_stages] != student_stages:
            raise UserError(f"student_stages={student_stages}: give some of {stages}, in order, once each.")
        require_whole(1, num_prototypes=num_prototypes, head_hidden=head_hidden, head_bottleneck=head_bottleneck)
        if num_global_views < 2:
            raise UserError(f"num_global_views={num_global_views}: the loss compares across views, so at least 2.")
        self.num_global_views, self.student_stages = num_global_views, tuple(student_stages)
        self.same_stage = teacher_target == "same_stage"
        self.trains_partly = student_stages[-1] < stages[-1]  # deeper stages get no gradient
        self.head_shape: dict[str, Any] = {"hidden": head_hidden, "bottleneck": head_bottleneck, "norm": head_norm}
        with drawn_from(seed):
            heads, targets = student_and_teacher_heads(
                encoder, num_prototypes, self.student_stages, self.same_stage, **self.head_shape
            )
        self.teacher = EncoderWithHeads(copy.deepcopy(encoder), targets).requires_grad_(False)
        self.student = EncoderWithHeads(encoder, heads)

    def forward(self, views: Sequence[torch.Tensor]) -> DistillationOutput:
        """V views (B, C, X, Y, Z), the global ones first -> logits of both halves."""
        return self.compared(*self.halves(views))

    def halves(self, views: Sequence[torch.Tensor]) -> tuple[HalfOutput, HalfOutput]:
        """What the student makes of all views, and the teacher of the global ones, without a gradient."""
        with torch.no_grad():  # first, for none of its maps is kept
            teacher = self.teacher(views[: self.num_global_views])
        return self.student(views), teacher

    def compared(self, student: HalfOutput, teacher: HalfOutput) -> DistillationOutput:
        """What the loss compares of both halves."""
        targets = teacher.logits if self.same_stage else teacher.logits[0]
        return DistillationOutput(student.logits, targets, tuple(student.pooled))

    def prototypes(self) -> Iterator[nn.Parameter]:
        """The prototypes of all of the student's heads, which the published recipe leaves untrained for an epoch."""
        return (module.prototypes for module in self.student.modules() if isinstance(module, ProjectionHead))

    def update_teacher(self, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, paired by name.

        Running statistics are not averaged: the teacher keeps its own.
        """
        average_into(dict(self.teacher.named_parameters()), dict(self.student.named_parameters()), momentum)
