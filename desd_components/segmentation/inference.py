"""Inference that spares time and memory; the sliding window, and the inverse of the preprocessing, are MONAI's."""

import functools
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import FolderLayoutBase, MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from ..base.errors import UserError
from ..base.grids import Resampling
from .losses import decode_channels, probabilities
from .results import write_by_class


class FlipInferer(Inferer):
    """Average the logits of an inferer over all flips of the given axes, each flipped back.

    Args:
        inferer: what runs the network once, such as a `SlidingWindowInferer`.
        axes: spatial axes to flip, 0 = x, 1 = y, 2 = z; none leaves the inferer as it is, three cost eight times as
            much. Flip only what training flipped: a network that tells left from right is confused by axis 0.

    Raises:
        UserError: when an axis is not 0, 1 or 2.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = ()) -> None:
        super().__init__()
        if not set(axes) <= {0, 1, 2}:
            raise UserError(f"flip_axes={list(axes)}: the axes are 0 (x), 1 (y) and 2 (z).")
        self.inferer, self.axes = inferer, sorted(set(axes))

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> mean logits of the same spatial shape."""
        total: torch.Tensor = self.inferer(inputs, network, *args, **kwargs)
        dims = [axis + 2 for axis in self.axes]
        flips = [flip for count in range(1, len(dims) + 1) for flip in itertools.combinations(dims, count)]
        for flip in flips:
            total.add_(self.inferer(inputs.flip(flip), network, *args, **kwargs).flip(flip))
        return total / (1 + len(flips)) if flips else total


class SkipAirInferer(Inferer):
    """An inferer whose network sees of the windows that hold one value throughout only the first of each value.

    Such are the windows of air, once preprocessing has clipped it; each gets the logits of the first.

    Args:
        inferer: what cuts the volume into windows, such as a `SlidingWindowInferer`.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volume (B, C, X, Y, Z) -> logits of the same spatial shape."""
        seen: dict[tuple[float, ...], torch.Tensor] = {}

        def predicted(windows: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            voxels = windows.flatten(2)
            is_flat = (voxels == voxels[..., :1]).all(-1).all(-1).tolist()
            values = [tuple(window) for window in voxels[..., 0].tolist()]
            new = {value: number for number, value in enumerate(values) if is_flat[number] and value not in seen}
            asked = [number for number, flat in enumerate(is_flat) if not flat or number in new.values()]
            found = dict(zip(asked, network(windows[asked], *rest, **named), strict=True)) if asked else {}
            seen.update({value: found[number] for value, number in new.items()})
            return torch.stack([found[n] if n in found else seen[value] for n, value in enumerate(values)])

        result: torch.Tensor = self.inferer(inputs, predicted, *args, **kwargs)
        return result


def _way_to_scan(image: MetaTensor) -> tuple[Resampling, torch.Tensor]:
    """From the grid of what a network saw to that of its scan, and the affine there."""
    affine, shape = torch.as_tensor(image.meta["original_affine"]), image.meta["spatial_shape"]
    return Resampling(image.affine.cpu().numpy(), image.shape[1:], affine.numpy(), shape), affine


class SaveProbabilitiesd(MapTransform):
    """Write the probabilities of all classes on the scan's grid, as a NIfTI (X, Y, Z, C), class by class.

    Interpolation acts on logits; memory holds the sum of a softmax and one class on that grid, however many there are.

    Args:
        keys: logits (C, X, Y, Z), which stay as they are.
        orig_key: the image that the network saw, which remembers the grid of its scan.
        activation: "softmax" or "sigmoid".
        layout: where the file goes.
    """

    def __init__(self, keys: Any, orig_key: str, activation: str, layout: FolderLayoutBase) -> None:
        super().__init__(keys)
        self.orig_key, self.activation, self.layout = orig_key, activation, layout

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A dictionary with logits; the same comes back."""
        image = data[self.orig_key]
        (on_scan, affine), scan = _way_to_scan(image), str(image.meta["filename_or_obj"])
        for key in self.keys:
            logits = convert_to_tensor(data[key], track_meta=False)
            each = probabilities(functools.partial(map, on_scan, logits), self.activation)
            shape = (*on_scan.target_shape, len(logits))
            write_by_class(self.layout.filename(subject=scan), each, shape, affine.numpy(), scan)
        return dict(data)


class DecodeOnScand(MapTransform):
    """Logits of the network's grid to label values on the scan's own, class by class.

    Interpolation acts on logits, as in MONAI's ``Invertd``; but only one class at a time lies in memory on the scan's
    grid, beside the largest logit so far and the labels, however many classes there are.

    Args:
        keys: logits (C, X, Y, Z), which become (1, X, Y, Z) label values on the scan's grid.
        orig_key: the image that the network saw, which remembers the grid of its scan.
        regions, single: see `decode`.
    """

    def __init__(self, keys: Any, orig_key: str, regions: Any = False, single: Sequence[int] = ()) -> None:
        super().__init__(keys)
        self.orig_key, self.regions, self.single = orig_key, regions, single

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A dictionary with logits to one with labels."""
        result, image = dict(data), data[self.orig_key]
        on_scan, affine = _way_to_scan(image)
        for key in self.keys:
            channels = (on_scan(channel)[None] for channel in convert_to_tensor(data[key], track_meta=False))
            labels = decode_channels(channels, len(data[key]), self.regions, self.single)
            result[key] = MetaTensor(labels, affine=affine, meta={**image.meta, "affine": affine})
        return result
