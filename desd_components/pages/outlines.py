"""Pictures of segmentations: three slices through the middle of what was found, with the classes outlined."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import FolderLayoutBase, MetaTensor
from monai.transforms import MapTransform, Orientation

from ..scans.volume import voxel_size

PLANES = ("sagittal", "coronal", "axial")  # the plane that each axis of an RAS volume is normal to


def middle(labels: np.ndarray) -> tuple[int, int, int]:
    """The voxel (x, y, z) in the middle of what is labelled, or of the volume where nothing is."""
    voxels = np.argwhere(labels > 0)
    center = np.median(voxels, axis=0) if len(voxels) else np.asarray(labels.shape) // 2
    x, y, z = (int(c) for c in center)
    return x, y, z


def ras(volume: torch.Tensor) -> Any:
    """A volume (C, X, Y, Z) turned to RAS by its affine; a plain tensor is taken as it is."""
    return Orientation(axcodes="RAS", labels=None)(volume) if isinstance(volume, MetaTensor) else volume


def draw_overlay(
    image: torch.Tensor,
    outlines: Mapping[str, torch.Tensor],
    path: str | PathLike,
    class_names: Sequence[str] = (),
) -> None:
    """Write a PNG of three orthogonal slices with outlines.

    Args:
        image: (C, X, Y, Z), of which the first channel is shown; turned to RAS by the affine of a `MetaTensor`.
        outlines: name -> label values (1, X, Y, Z) on the image's grid; the first is drawn solid and its middle is
            where the slices lie, the others are dashed.
        path: the file.
        class_names: name of each label value, for the legend.
    """
    from matplotlib import colormaps  # late: slow to import, and only pictures need it
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = ras(image)
    volume, spacing = np.asarray(shown[0].cpu(), dtype=np.float32), voxel_size(shown)
    maps = {name: np.asarray(ras(labels)[0].cpu()).round().astype(int) for name, labels in outlines.items()}
    solid = next(iter(maps.values()))
    center, (low, high) = middle(solid), np.percentile(volume, (1, 99))
    figure = Figure(figsize=(12, 4.4), facecolor="black", layout="constrained")
    for axis, axes in enumerate(figure.subplots(1, 3)):
        across = [a for a in range(3) if a != axis]
        aspect = spacing[across[1]] / spacing[across[0]]
        axes.imshow(volume.take(center[axis], axis).T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        for style, labels in zip(("solid", "dashed", "dotted"), maps.values(), strict=False):
            _outline(axes, labels.take(center[axis], axis), style)
        axes.set_title(f"{PLANES[axis]}, slice {center[axis]}", color="white", fontsize=9)
        axes.axis("off")
    present = [int(value) for value in np.unique(solid) if value > 0]
    handles = [Line2D([], [], color=colormaps["tab10"]((v - 1) % 10), label=_name(v, class_names)) for v in present]
    if handles:
        figure.legend(handles=handles[:10], loc="outside lower center", ncols=5, labelcolor="white", frameon=False)
    figure.savefig(path, dpi=80)


def _outline(axes: Any, labels: np.ndarray, style: str) -> None:
    from matplotlib import colormaps

    for value in np.unique(labels[labels > 0]) if min(labels.shape) > 1 else ():  # a contour wants two rows
        color = [colormaps["tab10"]((int(value) - 1) % 10)]
        axes.contour((labels == value).T.astype(float), levels=[0.5], colors=color, linewidths=1.2, linestyles=style)


def _name(value: int, class_names: Sequence[str]) -> str:
    return class_names[value] if value < len(class_names) else f"class {value}"


class DrawOverlayd(MapTransform):
    """Write a picture of each sample: the scan with the outlines of its label map.

    Args:
        keys: the label map to outline, (1, X, Y, Z).
        image_key: the scan on the same grid.
        layout: where the picture goes, by the scan's file name.
        class_names: name of each label value.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str, layout: FolderLayoutBase, class_names: Sequence[str] = ()
    ) -> None:
        super().__init__(keys)
        self.image_key, self.layout, self.class_names = image_key, layout, class_names

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw; the sample itself is passed on unchanged."""
        image = data[self.image_key]
        for key in self.key_iterator(dict(data)):
            path = self.layout.filename(subject=data[key].meta["filename_or_obj"])
            draw_overlay(image, {str(key): data[key]}, path, self.class_names)
        return dict(data)
