"""Augmented views of a batch of context crops, made batch-wise on the device the batch lies on.

Method: Ye et al., "DeSD", MICCAI 2022 (flips, scaling, which intensity changes). What is drawn, and how often, stands
in `recipe`, the arithmetic in `augment`.
Differs from the authors' script: every draw is a function of (seed, epoch, sample, view) alone, so neither the rest
of the batch nor the number of processes changes a view; and the blur's weights are renormalised at the border.
Draws agree on all devices; the noise field only between runs on one kind of device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.draws import keyed
from ...base.errors import UserError
from .augment import add_noise, blur, change_contrast, change_gamma, resized
from .recipe import INTENSITY_DRAWS, ViewRecipe

# Keeps these draws apart from others keyed by (seed, epoch, index), which numpy pads with zeros ("VIEW" in ASCII).
_STREAM = 0x56494557


@dataclass(frozen=True)
class ViewGeometry:
    """Where the views of one recipe lie in their contexts, B samples; everything on the CPU.

    Args:
        start, extent: (B, 3) first context voxel of the box, and its voxels.
        flip: (B, 3) whether the view runs against the axis.
        size: voxels of the view, to which the box is resized.
    """

    start: Tensor
    extent: Tensor
    flip: Tensor
    size: Sequence[int]

    def __getitem__(self, samples: slice) -> ViewGeometry:
        """Those samples alone."""
        return ViewGeometry(self.start[samples], self.extent[samples], self.flip[samples], self.size)

    def positions(self) -> list[Tensor]:
        """Per axis, (B, n) context coordinates of the view's voxel centers; a context voxel's center has its index.

        Positions in views of the same sample are comparable: equal positions show the same tissue.
        """
        positions = []
        for axis, voxels in enumerate(self.size):
            start, extent, flip = (values[:, axis, None] for values in (self.start, self.extent, self.flip))
            voxel = torch.arange(voxels, dtype=torch.float64)
            voxel = torch.where(flip, voxels - 1 - voxel, voxel)
            positions.append(start + (voxel + 0.5) * (extent / voxels) - 0.5)
        return positions


class MultiViews:
    """Two or more augmented views of every sample of a batch, reproducible from ``seed`` whatever the batch.

    Args:
        views: one recipe per view: first the global ones, at least two of one size, then local ones of another size.
        seed: 0 or above.
        chunk_size: samples worked on at once; None: 1 on a CPU, whose cache holds one view but not a batch of them,
            and the whole batch elsewhere.

    Raises:
        UserError: fewer than two global views, a global view after a local one, or a negative seed.
    """

    def __init__(self, views: Sequence[ViewRecipe], seed: int, chunk_size: int | None = None) -> None:
        self.views, self.seed, self.chunk_size = list(views), seed, chunk_size
        sizes = [recipe.size for recipe in self.views]
        self.num_global_views = sum(size == sizes[0] for size in sizes)
        if self.num_global_views < 2:
            raise UserError(
                f"views: sizes {sizes} hold {self.num_global_views} global view(s), but each is compared with another: "
                "give at least two recipes of one size first."
            )
        if sizes[: self.num_global_views] != [sizes[0]] * self.num_global_views:
            raise UserError(f"views: sizes {sizes} mix global and local views: put all of size {sizes[0]} first.")
        for name, value, least in (("seed", seed, 0), ("chunk_size", chunk_size, 1)):
            if value is not None and value < least:
                raise UserError(f"views: {name} {value} must be {least} or above.")

    def geometry(self, context_size: Tensor, index: Tensor, epoch: Tensor) -> list[ViewGeometry]:
        """Where each view of these samples lies; the very boxes that calling with the same arguments uses."""
        return [geometry for geometry, _ in self._draws(context_size, index, epoch)]

    @torch.no_grad()
    def __call__(self, image: Tensor, context_size: Tensor, index: Tensor, epoch: Tensor) -> list[Tensor]:
        """Make all views of a batch: one float32 tensor (B, C, x, y, z) per recipe, on the image's device.

        Args:
            image: (B, C, X, Y, Z) context crops, padded at the far ends; the padding never enters a view.
            context_size: (B, 3) voxels of each context without its padding.
            index: (B,) which sample of the dataset it is.
            epoch: (B,) in which pass over the dataset.

        Raises:
            UserError: when the context sizes do not fit the image.
        """
        _check_batch(image, context_size)
        image = image.as_subclass(Tensor)  # a MetaTensor would track every step
        chunk_size = self.chunk_size or (1 if image.device.type == "cpu" else len(image))
        chunks = [slice(first, first + chunk_size) for first in range(0, len(image), chunk_size)]
        with torch.autocast(image.device.type, enabled=False):
            views = []
            for geometry, intensity in self._draws(context_size, index, epoch):
                views.append(image.new_empty((*image.shape[:2], *geometry.size), dtype=torch.float32))
                for chunk in chunks:
                    views[-1][chunk] = make_view(image[chunk], geometry[chunk], intensity[chunk])
            return views

    def _draws(self, context_size: Tensor, index: Tensor, epoch: Tensor) -> list[tuple[ViewGeometry, np.ndarray]]:
        sizes = context_size.tolist()
        keys = list(zip(epoch.tolist(), index.tolist(), strict=True))
        draws = []
        for view, recipe in enumerate(self.views):
            rngs = [keyed(_STREAM, self.seed, epoch, index, view) for epoch, index in keys]
            boxes = [recipe.draw_box(rng, size) for rng, size in zip(rngs, sizes, strict=True)]
            start, extent, flip = torch.from_numpy(np.stack(boxes, axis=1))
            intensity = np.array([recipe.draw_intensity(rng) for rng in rngs], dtype=INTENSITY_DRAWS)
            draws.append((ViewGeometry(start, extent, flip.bool(), recipe.size), intensity))
        return draws


class PrepareViews:
    """``prepare_batch`` of the trainer: a collated batch of contexts becomes ``(list of views, None)``.

    Args:
        multi_views: makes the views, on the trainer's device.
    """

    def __init__(self, multi_views: MultiViews) -> None:
        self.multi_views = multi_views

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[list[Tensor], None]:
        """Move the contexts to ``device`` and make their views there; keys stay on the CPU, which draws."""
        absent = {"image", "context_size", "index", "epoch"} - set(batchdata)
        if absent:
            raise UserError(f"views: the batch lacks {sorted(absent)}. Take ContextDataset and collate_contexts.")
        image = batchdata["image"].to(device=device, non_blocking=non_blocking)
        keys = (torch.as_tensor(batchdata[name]) for name in ("context_size", "index", "epoch"))
        return self.multi_views(image, *keys), None


def make_view(image: Tensor, geometry: ViewGeometry, intensity: np.ndarray) -> Tensor:
    """Make one view (B, C, x, y, z) of each context (B, C, X, Y, Z); ``intensity`` holds (B,) `INTENSITY_DRAWS`."""
    view = resample(image, geometry)
    view = _where_drawn(add_noise, view, intensity["noise_sd"], 0.0, intensity["noise_seed"])
    view = _where_drawn(blur, view, intensity["blur_sigma"], 0.0)
    view = _where_drawn(Tensor.mul_, view, intensity["brightness_factor"], 1.0)
    view = _where_drawn(Tensor.add_, view, intensity["brightness_shift"], 0.0)
    view = _where_drawn(change_contrast, view, intensity["contrast"], 1.0)
    return _where_drawn(change_gamma, view, intensity["gamma"], 1.0)


def resample(image: Tensor, geometry: ViewGeometry) -> Tensor:
    """Cut the boxes out of (B, C, X, Y, Z), resize them linearly to the view's size and flip them.

    Samples lie at the centers of the view's voxels (``align_corners=False``); beyond the outermost voxel centers of a
    box its border voxels count, so nothing outside the box is read.
    """
    made = []
    draws = zip(image, geometry.start.tolist(), geometry.extent.tolist(), geometry.flip.tolist(), strict=True)
    for volume, start, extent, flip in draws:
        for axis, (first, length) in enumerate(zip(start, extent, strict=True), 1):
            volume = volume.narrow(axis, first, length)
        made.append(resized(volume, geometry.size).flip([axis for axis, turned in enumerate(flip, 1) if turned]))
    return torch.stack(made)


def _where_drawn(step: Callable[..., Tensor], view: Tensor, strength: np.ndarray, neutral: float, *more: Any) -> Tensor:
    """Apply ``step`` to the samples whose strength differs from the one that changes nothing."""
    drawn = np.flatnonzero(strength != neutral)
    if len(drawn) == 0:
        return view
    strengths = torch.from_numpy(strength[drawn]).float().to(view.device, non_blocking=True).view(-1, 1, 1, 1, 1)
    more = tuple(values[drawn] for values in more)
    if len(drawn) == len(view):
        return step(view, strengths, *more)
    rows = torch.from_numpy(drawn).to(view.device, non_blocking=True)
    return view.index_copy(0, rows, step(view[rows], strengths, *more))


def _check_batch(image: Tensor, context_size: Tensor) -> None:
    shapes = tuple(image.shape), tuple(context_size.shape)
    if image.ndim != 5 or shapes[1] != (len(image), 3):
        raise UserError(f"views: got {shapes[0]} and {shapes[1]}; wanted images (B, C, X, Y, Z) and sizes (B, 3).")
    if (context_size < 1).any() or (context_size > torch.tensor(image.shape[2:], device=context_size.device)).any():
        raise UserError(
            f"views: context sizes {context_size.tolist()} must lie between 1 and the image's {tuple(image.shape[2:])}."
        )
