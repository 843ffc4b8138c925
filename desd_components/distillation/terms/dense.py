"""Dense self-distillation: what student and teacher say of the same tissue, seen in two views, is to agree.

Ours, not part of DeSD: the published recipe compares globally pooled features only, which serve segmentation poorly on
small data. The form is DeSD's own (teacher, every student stage, cross-view cross-entropy); the idea of matching
pixels of two views by their coordinates is that of Wang et al., "DenseCL", and Xie et al., "PixPro", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from ...base.draws import keyed
from ...base.errors import UserError
from ..loss import DeepSelfDistillationLoss, DistillationOutput
from ..views.make import MultiViews, PrepareViews, ViewGeometry

_STREAM = 0x504F494E  # keeps these draws apart from others of one seed ("POIN" in ASCII)


class ViewsWithPoints(NamedTuple):
    """Views, and where in each global view the same tissue lies.

    Attributes:
        views: V tensors (B, C, X, Y, Z), the T global ones first.
        points: (T, B, N, 3) in -1 to 1 across each view, axes x, y, z.
        shared: (B,) whether the global views of a sample overlap at all; where they do not, its points mean nothing.
        flips: (T, B, 3) whether a view runs against the axis.
    """

    views: list[torch.Tensor]
    points: torch.Tensor
    shared: torch.Tensor
    flips: torch.Tensor


def points_in_views(geometries: Sequence[ViewGeometry], fractions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the box that all views share, in the coordinates of each view.

    Args:
        geometries: of T views of the same B samples.
        fractions: (B, N, 3) where in the shared box, 0 to 1 along each axis.

    Returns:
        Points (T, B, N, 3) in -1 to 1, and (B,) whether there is a shared box.
    """
    starts = torch.stack([g.start for g in geometries]).double()
    extents = torch.stack([g.extent for g in geometries]).double()
    low, high = starts.amax(dim=0), (starts + extents).amin(dim=0)
    context = low[:, None] + fractions.double() * (high - low)[:, None]
    across = 2 * (context - starts[:, :, None]) / extents[:, :, None] - 1
    flips = torch.stack([g.flip for g in geometries])[:, :, None]
    return torch.where(flips, -across, across).float(), (high > low).all(dim=1)


class PrepareDenseViews(PrepareViews):
    """``prepare_batch`` of a trainer with a dense term: a batch of contexts becomes ``(ViewsWithPoints, None)``.

    Args:
        multi_views: makes the views.
        num_points: drawn in the box that the global views of a sample share; a function of seed, epoch and sample.

    Raises:
        UserError: when there are no points to draw.
    """

    def __init__(self, multi_views: MultiViews, num_points: int) -> None:
        super().__init__(multi_views)
        if num_points < 1:
            raise UserError(f"dense_points={num_points}: draw at least one point in the box that two views share.")
        self.num_points = num_points

    def __call__(  # type: ignore[override]
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[ViewsWithPoints, None]:
        """Make the views on `device`, and the points with them."""
        views, _ = super().__call__(batchdata, device, non_blocking)
        size, index, epoch = (torch.as_tensor(batchdata[name]) for name in ("context_size", "index", "epoch"))
        geometries = self.multi_views.geometry(size, index, epoch)[: self.multi_views.num_global_views]
        points, shared = points_in_views(geometries, self._fractions(index.tolist(), epoch.tolist()))
        flips = torch.stack([geometry.flip for geometry in geometries])
        return ViewsWithPoints(views, points.to(device), shared.to(device), flips.to(device)), None

    def _fractions(self, index: Sequence[int], epoch: Sequence[int]) -> torch.Tensor:
        seed, shape = self.multi_views.seed, (self.num_points, 3)
        draws = [keyed(_STREAM, seed, e, i).random(shape) for i, e in zip(index, epoch, strict=True)]
        return torch.from_numpy(np.stack(draws))


def on_map(
    points: torch.Tensor, flips: torch.Tensor, view_size: Sequence[int], map_size: Sequence[int]
) -> torch.Tensor:
    """Where on a stage map to read points of views, so that views with and without a flip are read at the same tissue.

    A cell of a strided convolution is centred on the first of its s voxels, but read as if on the middle of them. That
    is (s - 1) / 2 voxels off, to the same side in all views: the same tissue, until a flip exchanges the sides.

    Args:
        points: (B, N, 3) in -1 to 1 across the views.
        flips: (B, 3) whether a view runs against the axis.
        view_size: voxels (x, y, z).
        map_size: cells (x, y, z).
    """
    view, cells = (torch.tensor(size, device=points.device) for size in (view_size, map_size))
    return points + (flips * (2 / cells - 2 / view))[:, None]  # s - 1 voxels, in half extents of the view


def features_at(feature_map: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """A stage map (B, C, X, Y, Z) read, trilinearly, at points (B, N, 3) in -1 to 1 across it -> (B, N, C)."""
    grid = points.flip(-1)[:, :, None, None]  # grid_sample wants the last axis first
    read = functional.grid_sample(feature_map.float(), grid, padding_mode="border", align_corners=False)
    return read[..., 0, 0].transpose(1, 2)


class DenseDistillationLoss(DeepSelfDistillationLoss):
    """The loss of deep self-distillation over points instead of volumes; see `DeepSelfDistillationLoss`.

    Args:
        num_prototypes: of the dense heads.
        weight: factor of the term in the loss.
        settings: temperatures, centring and the rest, as those of `DeepSelfDistillationLoss`.
    """

    def __init__(self, num_prototypes: int, weight: float = 1.0, **settings: Any) -> None:
        super().__init__(num_prototypes, **settings)
        if weight < 0:
            raise UserError(f"dense term: weight={weight} must not be negative.")
        self.weight = weight

    def forward(self, output: DistillationOutput, target: None = None) -> torch.Tensor:
        """The weighted term of a batch, a scalar.

        Raises:
            UserError: when the network has no dense heads or the trainer gave it no points.
        """
        if output.dense is None:
            raise UserError(
                "The dense term found no dense logits: set dense_prototypes of the network, and PrepareDenseViews as "
                "the trainer's prepare_batch."
            )
        term = super().forward(output.dense)
        student_logits = output.dense.student_logits
        if student_logits.shape[2] == 0:  # no two views of this batch overlap: nothing to compare, and no NaN
            term = student_logits.sum()  # 0, with the heads still in the graph, as several processes want them
        return self.weight * term

    def scalars(self) -> dict[str, float]:
        """What a log shows of the last batch."""
        return {f"dense_{name}": value for name, value in super().scalars().items() if name != "loss"}
