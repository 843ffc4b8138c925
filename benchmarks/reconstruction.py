"""Masked reconstruction: the baseline that deep self-distillation is compared with, on the same encoder and views.

Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022; for convolutional encoders as Xie et
al., "SimMIM", CVPR 2022: the encoder sees the whole grid, with 0 in the hidden blocks. Not part of DeSD. Differs: the
decoder adds up the maps of all four stages, so that each of them is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from desd_components.base.draws import keyed
from desd_components.base.errors import UserError
from desd_components.distillation.encoder import ResNet3DEncoder
from desd_components.distillation.views.make import MultiViews, PrepareViews

_STREAM = 0x4D41534B  # keeps these draws apart from others of one seed ("MASK" in ASCII)


class Hidden(NamedTuple):
    """What a network is to reconstruct.

    Attributes:
        views: (N, C, X, Y, Z), whole.
        mask: (N, 1, X, Y, Z), true where the network saw nothing.
    """

    views: torch.Tensor
    mask: torch.Tensor


class PrepareMaskedViews(PrepareViews):
    """``prepare_batch`` of a reconstructing trainer: a batch of B contexts becomes ``(masked views, Hidden)``.

    Args:
        multi_views: makes V views, all of one size; they become V * B samples.
        block: side of a hidden block, in voxels.
        share: of the blocks that are hidden; which ones is a function of seed, epoch, sample and view.

    Raises:
        UserError: when the block is no size or the share is not between 0 and 1.
    """

    def __init__(self, multi_views: MultiViews, block: int = 4, share: float = 0.6) -> None:
        super().__init__(multi_views)
        if block < 1 or not 0 < share < 1:
            raise UserError(f"masking: block={block} must be at least 1, and share={share} between 0 and 1.")
        self.block, self.share = block, share

    def __call__(  # type: ignore[override]
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Hidden]:
        """Make the views on `device`, and hide blocks of them."""
        made, _ = super().__call__(batchdata, device, non_blocking)
        index, epoch = (torch.as_tensor(batchdata[name]).tolist() for name in ("index", "epoch"))
        views = torch.cat(made)
        masks = [
            self.mask(views.shape[2:], (e, i, v)) for v in range(len(made)) for i, e in zip(index, epoch, strict=True)
        ]
        mask = torch.stack(masks)[:, None].to(views.device)
        return views.masked_fill(mask, 0.0), Hidden(views, mask)

    def mask(self, size: Sequence[int], key: Sequence[int]) -> torch.Tensor:
        """(X, Y, Z), true where hidden; `key` is epoch, sample and view."""
        rng = keyed(_STREAM, self.multi_views.seed, *key)
        blocks = [-(-extent // self.block) for extent in size]
        hidden = torch.from_numpy(rng.random(blocks) < self.share)
        for axis, extent in enumerate(size):
            hidden = hidden.repeat_interleave(self.block, axis).narrow(axis, 0, extent)
        return hidden


class ReconstructionNetwork(nn.Module):
    """An encoder and a light decoder: volume (N, C, X, Y, Z) -> the same shape.

    Args:
        encoder: the one that is pre-trained.
        width: channels to which each stage map is projected before all are added up at full resolution.
    """

    def __init__(self, encoder: ResNet3DEncoder, width: int = 16) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.ModuleList(nn.Conv3d(channels, width, kernel_size=1) for channels in encoder.stage_channels)
        self.head = nn.Conv3d(width, encoder.in_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the network takes the whole volume to be."""
        size = tuple(x.shape[2:])
        maps = [project(m) for project, m in zip(self.project, self.encoder.stages(x), strict=True)]
        full = [functional.interpolate(m, size=size, mode="trilinear", align_corners=False) for m in maps]
        return self.head(functional.leaky_relu(torch.stack(full).sum(dim=0), 0.01))


class ReconstructionLoss(nn.Module):
    """Mean squared error over the hidden voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.error = torch.zeros(())

    def forward(self, output: torch.Tensor, target: Hidden) -> torch.Tensor:
        """Reconstructions (N, C, X, Y, Z) against what was hidden -> a scalar."""
        hidden = target.mask.expand_as(target.views)
        error = functional.mse_loss(output.float()[hidden], target.views[hidden])
        self.error = error.detach()
        return error

    def scalars(self) -> dict[str, float]:
        """What a log shows of the last batch."""
        return {"loss": float(self.error)}
