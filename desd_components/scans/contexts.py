"""Contexts for pre-training: the boxes that the views of a sample come from, read from preprocessed volumes.

Method: Ye et al., "DeSD", MICCAI 2022; slabs, trimming and context as in the authors' script. Ours: every draw is a
function of (seed, epoch, index), so that workers, processes and resuming need no generator state, and the last slab of
a volume ends with it, so that no slice is left out.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..base.draws import CONTEXT_STREAM, SampleKey, key_of, keyed, position_of
from ..base.errors import UserError
from .cache.cache import VolumeCache
from .cache.entries import read_box
from .loading import shareable_zeros
from .names import Scan, as_scans

logger = logging.getLogger(__name__)


def slab_starts(depth: int, slab_depth: int | None, slab_stride: int | None) -> list[int]:
    """First slices of the slabs of a volume of ``depth`` slices; one slab where it is not deeper than that."""
    if slab_depth is None or depth <= slab_depth:
        return [0]
    last = depth - slab_depth
    starts = list(range(0, last + 1, slab_stride or slab_depth))
    return starts if starts[-1] == last else [*starts, last]


def axis_scales(context_scale: Any) -> tuple[tuple[float, float] | None, ...]:
    """Per axis the (low, high) of the context's size in views, or None for the whole extent.

    Args:
        context_scale: one pair for all axes, or three entries, each a pair or None.

    Raises:
        UserError: when it is neither, or a pair is not 1 <= low <= high.
    """
    entries = list(context_scale) if isinstance(context_scale, Sequence) else []
    if len(entries) == 2 and all(isinstance(entry, int | float) for entry in entries):
        entries = [entries] * 3
    scales = tuple(tuple(entry) if isinstance(entry, Sequence) else entry for entry in entries)
    known = [scale for scale in scales if scale is not None]
    if len(scales) != 3 or not all(isinstance(s, tuple) and len(s) == 2 and 1 <= s[0] <= s[1] for s in known):
        raise UserError(
            f"context_scale is {context_scale}: give [low, high], or one such pair or null per axis (x, y, z), with "
            "1 <= low <= high, for instance [[1.4, 1.8], [1.4, 1.8], null]."
        )
    return scales


def collate_contexts(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Put context boxes of unequal size into a batch, padded with zeros at the far end.

    Returns:
        ``image`` (B, C, X, Y, Z) with the batch's largest X, Y, Z, in the type of the boxes and, as they lie, with z
        slowest in memory; ``context_size`` (B, 3) int64, the true sizes in voxels; ``index``, ``epoch``, ``volume``
        (B,) int64.
    """
    sizes = torch.stack([sample["context_size"] for sample in samples])
    first = samples[0]["image"]
    x, y, z = sizes.amax(dim=0).tolist()
    batch = shareable_zeros((len(samples), len(first), z, x, y), first.dtype).permute(0, 1, 3, 4, 2)
    for row, sample in zip(batch, samples, strict=True):
        x, y, z = sample["image"].shape[1:]
        row[:, :x, :y, :z] = sample["image"]
    numbers = {name: torch.tensor([sample[name] for sample in samples]) for name in ("index", "epoch", "volume")}
    return {"image": batch, "context_size": sizes, **numbers}


class ContextDataset(Dataset):
    """Context boxes for pre-training, each read from a volume that was preprocessed once, and hardly more than the box.

    An item is a slab of a volume; its context is drawn anew in every epoch. ``dataset[key]`` takes a `SampleKey` or an
    index and gives ``image`` (C, X, Y, Z) in the type of the cache, ``context_size`` int64 (3,) in voxels, ``index``,
    ``epoch`` and ``volume`` (the position in ``data``).

    Args:
        data: scans ``{"image": path or [path per channel]}``, or paths.
        cache: of the preprocessed volumes.
        view_size: voxels (x, y, z) of a global view.
        context_scale: per axis the range of context size / view size, or null for the whole extent; a pair for all.
        slab_depth: slices of a slab; None takes whole volumes.
        slab_stride: slices between the starts of two slabs; None means ``slab_depth``.
        one_slab: the middle slab of each volume only, as for a validation.
        seed: of all draws.

    Raises:
        UserError: when a setting or a scan cannot be used.
    """

    collate = staticmethod(collate_contexts)

    def __init__(
        self,
        data: Sequence[Scan | str],
        cache: VolumeCache,
        view_size: Sequence[int],
        context_scale: Any,
        slab_depth: int | None = None,
        slab_stride: int | None = None,
        one_slab: bool = False,
        seed: int = 0,
    ) -> None:
        if len(view_size) != 3 or min(view_size) < 1:
            raise UserError(f"view_size {list(view_size)} must be three positive sizes.")
        if any(slices is not None and slices < 1 for slices in (slab_depth, slab_stride)):
            raise UserError(f"slab_depth {slab_depth} and slab_stride {slab_stride} must be at least 1 slice, or null.")
        self.view_size, self.context_scale = tuple(map(int, view_size)), axis_scales(context_scale)
        self.data, self.seed = as_scans(data), seed
        self.settings = {"view_size": view_size, "context_scale": context_scale, "seed": seed, "slab_depth": slab_depth}
        entries = cache.prepare(self.data)
        self.entries = [str(path) for path in entries]
        rows = []
        for volume, path in enumerate(entries):
            x, y, z = cache.facts[path]["image"]["shape"][1:]
            thick = z if slab_depth is None else min(slab_depth, z)
            starts = [(z - thick) // 2] if one_slab else slab_starts(z, slab_depth, slab_stride)
            rows += [(volume, start, x, y, thick) for start in starts]
        # volume, first slice, extent (x, y, z); int32, so that 100,000 slabs take 2 MB
        self.slabs = np.array(rows, dtype=np.int32).reshape(-1, 5)
        logger.info("%d volumes, %d slabs", len(self.entries), len(self.slabs))

    def __len__(self) -> int:
        return len(self.slabs)

    def box(self, key: SampleKey | int) -> tuple[int, tuple[slice, slice, slice]]:
        """The volume and the context box of a sample, in voxels of that volume."""
        epoch, index = key_of(key)
        volume, first_slice, *extents = self.slabs[index].tolist()
        draws = keyed(self.seed, CONTEXT_STREAM, epoch, index)
        axes = []
        slab = zip((0, 0, first_slice), extents, self.view_size, self.context_scale, strict=True)
        for first, extent, view, scale in slab:
            # Both draws are made for every axis, so that one axis' setting does not shift the draws of the next.
            factor, position = draws.random(), draws.random()
            size = context_length(extent, view, scale, factor)
            start = first + min(int(position * (extent - size + 1)), extent - size)
            axes.append(slice(start, start + size))
        return volume, (axes[0], axes[1], axes[2])

    def __getitem__(self, key: SampleKey | int) -> dict[str, Any]:
        epoch, index = position_of(key, len(self))
        volume, box = self.box(SampleKey(epoch, index))
        image = torch.from_numpy(read_box(self.entries[volume], "image", box))
        size = torch.tensor(image.shape[1:])
        return {"image": image, "context_size": size, "index": index, "epoch": epoch, "volume": volume}


def middle_slabs(dataset: ContextDataset, data: Sequence[Scan | str], cache: VolumeCache) -> ContextDataset:
    """Contexts like those of `dataset`, of the volumes in `data`, each volume's middle slab alone: for a validation."""
    return ContextDataset(data, cache, **dataset.settings, one_slab=True)


def context_length(extent: int, view: int, scale: tuple[float, float] | None, draw: float) -> int:
    """Voxels of the context along one axis, of a slab's `extent` and a global `view`; `draw` is uniform in [0, 1).

    ``scale`` views; one view where the slab is too small for that; the extent where it is smaller than the view, or
    where there is no scale.
    """
    if scale is None or view >= extent:
        return extent
    size = round((scale[0] + (scale[1] - scale[0]) * draw) * view)
    return size if size <= extent else view


def warn_of_equal_boxes(dataset: ContextDataset, view_size: Sequence[int], samples: int = 200) -> None:
    """Warn when contexts are hardly larger than a view: both views then come from the same box and show the same.

    The published recipe's contexts have 3.8 times the voxels of a view; the warning comes below 1.2 times, in the
    median of up to `samples` samples of the first epoch.
    """
    places = np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).astype(int)
    boxes = [dataset.box(int(place))[1] for place in places]
    sizes = [math.prod(side.stop - side.start for side in box) for box in boxes]
    ratio = float(np.median(sizes)) / math.prod(view_size)
    if ratio < 1.2:
        logger.warning(
            "A context has %.2f times the voxels of a view of %s: both views come from nearly the same box. "
            "Use a smaller view_size, or a larger context_scale where the volumes allow it.",
            ratio, tuple(view_size),
        )  # fmt: skip
