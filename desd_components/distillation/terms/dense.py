"""Dense self-distillation: what student and teacher say of the same tissue, seen in two views, is to agree.

Ours, not part of DeSD: the published recipe compares globally pooled features only, which serve segmentation poorly on
small data. The form is DeSD's own (teacher, every student stage, cross-view cross-entropy); matching pixels of views
by their coordinates is the idea of Wang et al., "DenseCL", and Xie et al., "PixPro", CVPR 2021. Points are drawn
(`PrepareDenseViews`), read off the stage maps (`DenseDistillationNetwork`), and compared (`DenseDistillationLoss`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...base.draws import drawn_from, keyed
from ...base.encoders import Encoder
from ...base.errors import UserError, require_one_of, require_whole
from ..loss import DeepSelfDistillationLoss, DistillationOutput
from ..network import (
    TEACHER_TARGETS,
    DeepSelfDistillationNetwork,
    EncoderWithHeads,
    heads_on,
    student_and_teacher_heads,
)
from ..views.make import MultiViews, PrepareViews, ViewGeometry

_STREAM = 0x504F494E  # keeps these draws apart from others of one seed ("POIN" in ASCII)


class ViewsWithPoints(NamedTuple):
    """Views, and where in each global view the same tissue lies.

    Attributes:
        views: V tensors (B, C, X, Y, Z), the T global ones first.
        points: (T, B, N, 3) in -1 to 1 across each view, axes x, y, z.
        shared: (B,) whether the global views of a sample overlap at all, and its points mean anything; on the CPU.
        flips: (T, B, 3) whether a view runs against the axis.
    """

    views: list[torch.Tensor]
    points: torch.Tensor
    shared: torch.Tensor
    flips: torch.Tensor


def points_in_views(geometries: Sequence[ViewGeometry], fractions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the box that all T views share: (T, B, N, 3) in -1 to 1 across each, and (B,) whether there is a box.

    Args:
        geometries: of T views of the same B samples.
        fractions: (B, N, 3) where in the shared box, 0 to 1 along each axis.
    """
    starts = torch.stack([g.start for g in geometries]).double()
    extents = torch.stack([g.extent for g in geometries]).double()
    low, high = starts.amax(dim=0), (starts + extents).amin(dim=0)
    context = low[:, None] + fractions.double() * (high - low)[:, None]
    across = 2 * (context - starts[:, :, None]) / extents[:, :, None] - 1
    flips = torch.stack([g.flip for g in geometries])[:, :, None]
    return torch.where(flips, -across, across).float(), (high > low).all(dim=1)


class PrepareDenseViews:
    """``prepare_batch`` of a trainer with a dense term: a batch of contexts becomes ``(ViewsWithPoints, None)``.

    Args:
        multi_views: makes the views.
        num_points: drawn in the box that the global views of a sample share; a function of seed, epoch and sample.
    """

    def __init__(self, multi_views: MultiViews, num_points: int) -> None:
        if num_points < 1:
            raise UserError(f"dense_points={num_points}: draw at least one point in the box that two views share.")
        self.multi_views, self.num_points = multi_views, num_points
        self.prepare_views = PrepareViews(multi_views)

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[ViewsWithPoints, None]:
        """Make the views on `device`, and the points with them."""
        views, _ = self.prepare_views(batchdata, device, non_blocking)
        size, index, epoch = (torch.as_tensor(batchdata[name]) for name in ("context_size", "index", "epoch"))
        geometries = self.multi_views.geometry(size, index, epoch)[: self.multi_views.num_global_views]
        points, shared = points_in_views(geometries, self._fractions(index.tolist(), epoch.tolist()))
        flips = torch.stack([geometry.flip for geometry in geometries])
        points, flips = (each.to(device, non_blocking=non_blocking) for each in (points, flips))
        return ViewsWithPoints(views, points, shared, flips), None

    def _fractions(self, index: Sequence[int], epoch: Sequence[int]) -> torch.Tensor:
        seed, shape = self.multi_views.seed, (self.num_points, 3)
        draws = [keyed(_STREAM, seed, e, i).random(shape) for i, e in zip(index, epoch, strict=True)]
        return torch.from_numpy(np.stack(draws))


def on_map(
    points: torch.Tensor, flips: torch.Tensor, view_size: Sequence[int], map_size: Sequence[int]
) -> torch.Tensor:
    """Points (B, N, 3) of views, moved so that maps of views with and without a flip (B, 3) are read at one tissue.

    A cell of a strided convolution is centred on the first of its s voxels, but read as if on the middle of them. That
    is (s - 1) / 2 voxels off, to the same side in all views: the same tissue, until a flip exchanges the sides.
    `view_size` is in voxels, `map_size` in cells (x, y, z).
    """
    view, cells = (torch.tensor(size, device=points.device) for size in (view_size, map_size))
    return points + (flips * (2 / cells - 2 / view))[:, None]  # s - 1 voxels, in half extents of the view


def features_at(feature_map: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """A stage map (B, C, X, Y, Z) read, trilinearly, at points (B, N, 3) in -1 to 1 across it -> (B, N, C)."""
    grid = points.flip(-1)[:, :, None, None]  # grid_sample wants the last axis first
    read = functional.grid_sample(feature_map.float(), grid, padding_mode="border", align_corners=False)
    return read[..., 0, 0].transpose(1, 2)


class DenseOutput(NamedTuple):
    """A `DistillationOutput`, and beside it the same for points that the global views share, in place of the batch."""

    student_logits: torch.Tensor
    teacher_logits: torch.Tensor
    pooled: tuple[torch.Tensor, ...]
    dense: DistillationOutput


class DenseDistillationNetwork(nn.Module):
    """The method's network with a second set of heads on both halves, which speak of points instead of volumes.

    The halves are its own, with the dense heads among their parameters, so that whoever trains, averages, watches or
    saves them needs to know nothing of it.

    Args:
        encoder, num_prototypes, seed, settings: see `DeepSelfDistillationNetwork`; heads of both kinds share a shape.
        dense_prototypes: K of the dense heads.
        dense_target: like `teacher_target`, for the dense heads.
    """

    network: DeepSelfDistillationNetwork

    def __init__(
        self,
        encoder: Encoder,
        num_prototypes: int,
        dense_prototypes: int,
        dense_target: str = "deepest",
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        require_one_of(TEACHER_TARGETS, dense_target=dense_target)
        require_whole(1, dense_prototypes=dense_prototypes)
        self.dense_same_stage = dense_target == "same_stage"
        with drawn_from(seed):
            network = DeepSelfDistillationNetwork(encoder, num_prototypes, **settings)
            heads, targets = student_and_teacher_heads(
                encoder, dense_prototypes, network.student_stages, self.dense_same_stage, **network.head_shape
            )
        network.student.dense_heads = heads
        network.teacher.dense_heads = targets.requires_grad_(False)
        self.student, self.teacher = network.student, network.teacher
        self.student_stages, self.trains_partly = network.student_stages, network.trains_partly
        self.__dict__["network"] = network  # not as a child: tensors have the names that they have without the term
        self.prototypes, self.update_teacher = network.prototypes, network.update_teacher

    def forward(self, views: ViewsWithPoints) -> DenseOutput:
        """Views, the global ones first, and points in those -> logits of both halves, of both kinds."""
        if not isinstance(views, ViewsWithPoints):
            raise UserError(
                "dense_prototypes: the dense heads would learn nothing, for no points come with the views. Use "
                "PrepareDenseViews as prepare_batch and a dense term in loss_terms, as small.yaml does."
            )
        student, teacher = self.network.halves(views.views)
        said = self._at_points(self.student, student.maps, views)
        with torch.no_grad():
            targets = self._at_points(self.teacher, teacher.maps, views)
        dense = DistillationOutput(said, targets if self.dense_same_stage else targets[0])
        return DenseOutput(*self.network.compared(student, teacher), dense)

    def _at_points(self, half: EncoderWithHeads, maps: Sequence[torch.Tensor], seen: ViewsWithPoints) -> torch.Tensor:
        """Logits (dense heads, T, R, K) of the R points in samples whose global views overlap, sample by sample."""
        views, samples, number = seen.points.shape[:3]
        points, flips, size = seen.points.flatten(0, 1), seen.flips.flatten(0, 1), seen.views[0].shape[2:]
        rows = [features_at(m, on_map(points, flips, size, m.shape[2:])).flatten(0, 1) for m in maps]
        logits = heads_on(half.get_submodule("dense_heads"), rows).unflatten(1, (views, samples * number))
        return logits[:, :, seen.shared.repeat_interleave(number).nonzero()[:, 0].to(logits.device, non_blocking=True)]


class DenseDistillationLoss(nn.Module):
    """The loss of deep self-distillation over points instead of volumes: a term for `DeepSelfDistillationLoss`.

    Args:
        num_prototypes: of the dense heads.
        weight: factor of the term in the loss.
        settings: temperatures, centring and the rest, as those of `DeepSelfDistillationLoss`.
    """

    def __init__(self, num_prototypes: int, weight: float = 1.0, **settings: Any) -> None:
        super().__init__()
        if weight < 0:
            raise UserError(f"dense term: weight={weight} must not be negative.")
        self.weight, self.over_points = weight, DeepSelfDistillationLoss(num_prototypes, **settings)

    def forward(self, output: DenseOutput) -> torch.Tensor:
        """The weighted term of a batch, a scalar."""
        if not isinstance(output, DenseOutput):
            raise UserError(
                "The dense term found no dense logits: take DenseDistillationNetwork for the network, and "
                "PrepareDenseViews as the trainer's prepare_batch, as small.yaml does."
            )
        term = self.over_points(output.dense)
        if output.dense.student_logits.shape[2] == 0:  # no two views overlap: nothing to compare, and no NaN
            term = output.dense.student_logits.sum()  # 0, with the heads in the graph, as several processes want them
        return self.weight * term

    def scalars(self) -> dict[str, float]:
        """What a log shows of the last batch."""
        return {f"dense_{name}": value for name, value in self.over_points.scalars().items() if name != "loss"}
