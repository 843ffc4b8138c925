"""Pictures beside the results of an inference: three planes of each scan, every class outlined in its colour."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import FolderLayoutBase, MetaTensor
from monai.transforms import MapTransform, Orientation

from ..scans.volume import voxel_size
from .slices import labels_figure


def ras(volume: torch.Tensor) -> Any:
    """A volume (C, X, Y, Z) turned to RAS by its affine; a plain tensor is taken as it is."""
    return Orientation(axcodes="RAS", labels=None)(volume) if isinstance(volume, MetaTensor) else volume


def voxels(volume: torch.Tensor) -> np.ndarray:
    """The first channel as an array (X, Y, Z)."""
    return np.asarray(volume[0].cpu())


class DrawOverlayd(MapTransform):
    """Write a PNG of each sample: three planes of the scan with the outlines of its label map; see `labels_figure`.

    Args:
        keys: the label map to outline, (1, X, Y, Z).
        image_key: the scan on the same grid, of which the first channel is shown.
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
        image = ras(data[self.image_key])
        for key in self.key_iterator(dict(data)):
            labels, path = ras(data[key]), self.layout.filename(subject=data[key].meta["filename_or_obj"])
            figure = labels_figure(voxels(image), voxels(labels), voxel_size(labels), self.class_names)
            figure.savefig(path, dpi=128, facecolor="black")
        return dict(data)
