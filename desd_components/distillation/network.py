"""The network of deep self-distillation: a student with a head on every stage, and its momentum teacher.

Method: Ye et al., "DeSD", MICCAI 2022; the head is that of Caron et al., "DINO", ICCV 2021. Differs from the published
scripts: prototypes are rows normalised in the forward pass instead of a weight norm whose gain is fixed at 1, which
says the same and can be copied, exported and scripted. Views of one shape share a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..base.errors import UserError, require_whole
from .encoder import ResNet3DEncoder, pooled_stages
from .loss import DistillationOutput
from .terms.dense import ViewsWithPoints, features_at, on_map

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


class HalfOutput(NamedTuple):
    """What one half of the network says of V views of B samples; R points that its global views share.

    Attributes:
        logits: (heads, V, B, K).
        pooled: features of all four stages, (V, B, C) each.
        dense_logits: (dense heads, T, R, K) of the T global views; None without points or dense heads.
    """

    logits: torch.Tensor
    pooled: list[torch.Tensor]
    dense_logits: torch.Tensor | None = None


class EncoderWithHeads(nn.Module):
    """One half of the network: an encoder, and a projection head for each of some stages.

    Heads lie in a ModuleDict keyed ``stage_<n>`` in both halves, so that the teacher finds its parameters in the
    student by name; so do the heads of the dense term, where there are any.
    """

    def __init__(self, encoder: ResNet3DEncoder, heads: nn.ModuleDict, dense_heads: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.heads, self.dense_heads = encoder, heads, dense_heads
        self._stages = [int(key.removeprefix("stage_")) for key in heads]
        self._dense_stages = [int(key.removeprefix("stage_")) for key in dense_heads]

    def forward(
        self, views: Sequence[torch.Tensor], points: torch.Tensor | None = None, flips: torch.Tensor | None = None
    ) -> HalfOutput:
        """Logits of V views (B, C, X, Y, Z), the T global ones first, and of points (T, B, N, 3) in those.

        A point is a place in its view, -1 to 1 across it along x, y, z; `flips` (T, B, 3) are those of the views. R of
        the output is B * N, sample by sample.
        """
        pooled, global_maps = self._encode(views)
        flat = [feature.flatten(0, 1) for feature in pooled]
        logits = torch.stack([self.heads[f"stage_{stage}"](flat[stage - 1]) for stage in self._stages])
        dense = None
        if points is not None and flips is not None and self._dense_stages:
            dense = self._dense(global_maps, points, flips, views[0].shape[2:])
        return HalfOutput(logits.unflatten(1, pooled[0].shape[:2]), pooled, dense)

    def _dense(
        self, maps: Sequence[torch.Tensor], points: torch.Tensor, flips: torch.Tensor, size: Sequence[int]
    ) -> torch.Tensor:
        views, samples, number = points.shape[:3]
        points, flips = points.flatten(0, 1), flips.flatten(0, 1)
        rows = [features_at(m, on_map(points, flips, size, m.shape[2:])).flatten(0, 1) for m in maps]
        logits = torch.stack([self.dense_heads[f"stage_{s}"](rows[s - 1]) for s in self._dense_stages])
        return logits.unflatten(1, (views, samples * number))

    def _encode(self, views: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Pooled features (V, B, C) of each stage, and the stage maps (T * B, C, X, Y, Z) of the first shape."""
        passes: list[list[torch.Tensor]] = []
        first_maps: list[torch.Tensor] = []
        for _, group in groupby(views, key=lambda view: view.shape):
            same_shape = list(group)
            maps = self.encoder.stages(torch.cat(same_shape))
            first_maps = first_maps or maps
            passes.append([p.unflatten(0, (len(same_shape), -1)) for p in pooled_stages(maps)])
        return [torch.cat(stage) for stage in zip(*passes, strict=True)], first_maps


class DeepSelfDistillationNetwork(nn.Module):
    """Student and teacher: every student stage is to predict what the teacher says at its deepest stage.

    Args:
        encoder: becomes the student's; the teacher starts as its copy.
        num_prototypes: K, the same for every head.
        num_global_views: how many of the views, from the first, the teacher sees.
        student_stages: stages with a student head, counted from 1; (4,) is plain self-distillation.
        teacher_target: "deepest" for all student stages (the method), or "same_stage" for each its own.
        head_hidden, head_bottleneck, head_norm: see `ProjectionHead`.
        dense_prototypes: K of a second set of heads, for the dense term (`DenseDistillationLoss`); 0 for none, as
            in the published recipe.
        dense_target: like `teacher_target`, for the dense heads.
        seed: of the heads' initial weights, whatever was drawn before; None goes on with torch's generator.

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
        dense_prototypes: int = 0,
        dense_target: str = "deepest",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, target in (("teacher_target", teacher_target), ("dense_target", dense_target)):
            if target not in TEACHER_TARGETS:
                raise UserError(f"{name}={target!r}: choose one of {list(TEACHER_TARGETS)}.")
        if (
            not student_stages
            or sorted(set(student_stages)) != list(student_stages)
            or not set(student_stages) <= set(STAGES)
        ):
            raise UserError(f"student_stages={list(student_stages)}: give some of {list(STAGES)}, in order, once each.")
        require_whole(1, num_prototypes=num_prototypes, head_hidden=head_hidden, head_bottleneck=head_bottleneck)
        require_whole(0, dense_prototypes=dense_prototypes)
        if num_global_views < 2:
            raise UserError(f"num_global_views={num_global_views}: the loss compares across views, so at least 2.")
        self.num_global_views, self.student_stages = num_global_views, tuple(student_stages)
        self.same_stage, self.dense_same_stage = teacher_target == "same_stage", dense_target == "same_stage"
        shape = {"hidden": head_hidden, "bottleneck": head_bottleneck, "norm": head_norm}
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:  # MONAI's loader resets torch's generator, or not, by its number of processes
                torch.default_generator.manual_seed(seed)
            heads, teacher_heads = self._heads(encoder, num_prototypes, self.same_stage, shape)
            dense_heads, dense_teacher_heads = self._heads(encoder, dense_prototypes, self.dense_same_stage, shape)
        self.teacher = EncoderWithHeads(copy.deepcopy(encoder), teacher_heads, dense_teacher_heads)
        self.teacher.requires_grad_(False)
        self.student = EncoderWithHeads(encoder, heads, dense_heads)

    def _heads(
        self, encoder: ResNet3DEncoder, num_prototypes: int, same_stage: bool, shape: dict[str, Any]
    ) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        """Heads of the student, and the teacher's copies of those that give targets; none for no prototypes."""
        if num_prototypes == 0:
            return nn.ModuleDict(), nn.ModuleDict()
        targets = self.student_stages if same_stage else STAGES[-1:]
        if not set(targets) <= set(self.student_stages):
            raise UserError(
                f"student_stages={list(self.student_stages)}: the deepest target is a head of stage {STAGES[-1]} that "
                "follows the student's. Add that stage, or set teacher_target (dense_target) to same_stage."
            )
        heads = {
            f"stage_{stage}": ProjectionHead(encoder.stage_channels[stage - 1], num_prototypes, **shape)
            for stage in self.student_stages
        }
        copies = {f"stage_{stage}": copy.deepcopy(heads[f"stage_{stage}"]) for stage in targets}
        return nn.ModuleDict(heads), nn.ModuleDict(copies)

    def forward(self, views: Sequence[torch.Tensor] | ViewsWithPoints) -> DistillationOutput:
        """V views (B, C, X, Y, Z), the global ones first -> logits of both halves, of points too where they come.

        Raises:
            UserError: when there are dense heads, but no points.
        """
        points, shared, flips = None, None, None
        if isinstance(views, ViewsWithPoints):
            views, points, shared, flips = views
        elif self.student.dense_heads:
            raise UserError(
                "dense_prototypes: the dense heads would learn nothing, for no points come with the views. Use "
                "PrepareDenseViews and a dense term in loss_terms, as small.yaml does, or dense_prototypes: 0."
            )
        student = self.student(views, points, flips)
        with torch.no_grad():
            teacher = self.teacher(views[: self.num_global_views], points, flips)
        return DistillationOutput(
            student.logits,
            teacher.logits if self.same_stage else teacher.logits[0],
            tuple(student.pooled),
            self._dense_output(student, teacher, points, shared),
        )

    def _dense_output(
        self, student: HalfOutput, teacher: HalfOutput, points: torch.Tensor | None, shared: torch.Tensor | None
    ) -> DistillationOutput | None:
        if points is None or shared is None or student.dense_logits is None or teacher.dense_logits is None:
            return None
        rows = shared.repeat_interleave(points.shape[2])
        student_logits, targets = student.dense_logits[:, :, rows], teacher.dense_logits[:, :, rows]
        return DistillationOutput(student_logits, targets if self.dense_same_stage else targets[0])

    def prototypes(self) -> Iterator[nn.Parameter]:
        """The prototypes of the student's heads, which the published recipe leaves untrained for an epoch."""
        for head in (*self.student.heads.values(), *self.student.dense_heads.values()):
            yield head.prototypes  # type: ignore[misc]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter, paired by name.

        Running statistics are not averaged: the teacher keeps its own.
        """
        student = dict(self.student.named_parameters())
        kept = dict(self.teacher.named_parameters())
        torch._foreach_lerp_(list(kept.values()), [student[name] for name in kept], 1.0 - momentum)


def distributed_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """`network` wrapped for several processes, its batch norms synchronised where that exists: on GPUs."""
    device = torch.device(device)
    # stages beyond the last that is taught get no gradient, which the wrapper takes for a mistake unless told
    partly = isinstance(network, DeepSelfDistillationNetwork) and max(network.student_stages) < STAGES[-1]
    on_gpu: dict[str, Any] = {}
    if device.type == "cuda":
        network, on_gpu = nn.SyncBatchNorm.convert_sync_batchnorm(network), {"device_ids": [device]}
    return nn.parallel.DistributedDataParallel(network.to(device), find_unused_parameters=partly, **on_gpu)
