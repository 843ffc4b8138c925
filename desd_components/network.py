"""The network of deep self-distillation: a student with a head on every stage, and its momentum teacher.

Method: Ye et al., "DeSD", MICCAI 2022; the head is that of Caron et al., "DINO", ICCV 2021. Differs from the published
scripts: prototypes are rows normalised in the forward pass instead of a weight norm whose gain is fixed at 1, which
says the same and can be copied, exported and scripted. Views of one shape share a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional

from .encoder import ResNet3DEncoder, pooled_stages
from .errors import UserError
from .loss import DistillationOutput

TEACHER_TARGETS = ("deepest", "same_stage")
HEAD_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}
STAGES = (1, 2, 3, 4)


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
        if norm not in HEAD_NORMS:
            raise UserError(f"head_norm={norm!r}: choose one of {sorted(HEAD_NORMS)}.")
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
            return functional.linear(embedding, functional.normalize(self.prototypes, dim=-1))


class EncoderWithHeads(nn.Module):
    """One half of the network: an encoder, and a projection head for each of some stages.

    Heads lie in a ModuleDict keyed ``stage_<n>`` in both halves, so that the teacher finds its parameters in the
    student by name.
    """

    def __init__(self, encoder: ResNet3DEncoder, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads
        self._stages = [int(key.removeprefix("stage_")) for key in heads]

    def forward(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """V views (B, C, X, Y, Z) -> logits (heads, V, B, K), and the pooled features (V, B, C) of all four stages."""
        features = self._pooled(views)
        flat = [feature.flatten(0, 1) for feature in features]
        logits = torch.stack([self.heads[f"stage_{stage}"](flat[stage - 1]) for stage in self._stages])
        return logits.unflatten(1, features[0].shape[:2]), features

    def _pooled(self, views: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        passes: list[list[torch.Tensor]] = []
        for _, group in groupby(views, key=lambda view: view.shape):
            same_shape = list(group)
            pooled = pooled_stages(self.encoder.stages(torch.cat(same_shape)))
            passes.append([p.unflatten(0, (len(same_shape), -1)) for p in pooled])
        return [torch.cat(stage) for stage in zip(*passes, strict=True)]


class DeepSelfDistillationNetwork(nn.Module):
    """Student and teacher: every student stage is to predict what the teacher says at its deepest stage.

    Args:
        encoder: becomes the student's; the teacher starts as its copy.
        num_prototypes: K, the same for every head.
        num_global_views: how many of the views, from the first, the teacher sees.
        student_stages: stages with a student head, counted from 1; (4,) is plain self-distillation.
        teacher_target: "deepest" for all student stages (the method), or "same_stage" for each its own.
        head_hidden, head_bottleneck, head_norm: see `ProjectionHead`.

    Raises:
        UserError: when an argument is not among the values above.
    """

    def __init__(
        self,
        encoder: ResNet3DEncoder,
        num_prototypes: int,
        num_global_views: int = 2,
        student_stages: Sequence[int] = STAGES,
        teacher_target: str = "deepest",
        head_hidden: int = 2048,
        head_bottleneck: int = 256,
        head_norm: str = "batch",
    ) -> None:
        super().__init__()
        if teacher_target not in TEACHER_TARGETS:
            raise UserError(f"teacher_target={teacher_target!r}: choose one of {list(TEACHER_TARGETS)}.")
        if (
            not student_stages
            or sorted(set(student_stages)) != list(student_stages)
            or not set(student_stages) <= set(STAGES)
        ):
            raise UserError(f"student_stages={list(student_stages)}: give some of {list(STAGES)}, in order, once each.")
        if num_global_views < 2:
            raise UserError(f"num_global_views={num_global_views}: the loss compares across views, so at least 2.")
        teacher_stages = [STAGES[-1]] if teacher_target == "deepest" else list(student_stages)
        heads = nn.ModuleDict(
            {
                f"stage_{stage}": ProjectionHead(
                    encoder.stage_channels[stage - 1], num_prototypes, head_hidden, head_bottleneck, head_norm
                )
                for stage in sorted({*student_stages, *teacher_stages})
            }
        )
        self.num_global_views = num_global_views
        self.same_stage = teacher_target == "same_stage"
        self.teacher = EncoderWithHeads(
            copy.deepcopy(encoder),
            nn.ModuleDict({f"stage_{s}": copy.deepcopy(heads[f"stage_{s}"]) for s in teacher_stages}),
        ).requires_grad_(False)
        self.student = EncoderWithHeads(encoder, heads)

    def forward(self, views: Sequence[torch.Tensor]) -> DistillationOutput:
        """V views (B, C, X, Y, Z), the global ones first -> logits of both halves."""
        student_logits, features = self.student(views)
        with torch.no_grad():
            teacher_logits, _ = self.teacher(views[: self.num_global_views])
        return DistillationOutput(
            student_logits,
            teacher_logits if self.same_stage else teacher_logits[0],
            tuple(feature[0].detach() for feature in features),
        )

    def prototypes(self) -> Iterator[nn.Parameter]:
        """The prototypes of the student's heads, which the published recipe leaves untrained for an epoch."""
        for head in self.student.heads.values():
            yield head.prototypes  # type: ignore[misc]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, paired by name.

        Running statistics are not averaged: the teacher keeps its own (METHOD.md, section 1).
        """
        student = dict(self.student.named_parameters())
        kept = dict(self.teacher.named_parameters())
        torch._foreach_lerp_(list(kept.values()), [student[name] for name in kept], 1.0 - momentum)
