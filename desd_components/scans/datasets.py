"""Volumes and labels for fine-tuning that read only what a sample needs, from volumes that were preprocessed once.

Differs from stock datasets: every draw is a function of (seed, epoch, index), so that workers, processes and resuming
need no generator state, and volumes are memory-mapped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SpatialCrop
from monai.transforms.utils import correct_crop_centers
from torch.utils.data import Dataset

from ..base.draws import AUGMENTATION_STREAM, SampleKey, keyed, position_of
from .cache.cache import VolumeCache
from .cache.entries import is_label, open_array, read_meta
from .names import Scan, as_scans

logger = logging.getLogger(__name__)


def place_of(sample: Any) -> np.ndarray:
    """Where the middle of a crop lies, (3,), in shares of its volume's sides; `sample` is as a dataset gives it."""
    image: MetaTensor = (sample[0] if isinstance(sample, list) else sample)["image"]
    middle = np.array([*((size - 1) / 2 for size in image.shape[1:]), 1.0])
    voxel = np.linalg.solve(np.asarray(image.meta["volume_affine"]), np.asarray(image.affine) @ middle)
    return (voxel[:3] + 0.5) / np.asarray(image.meta["volume_shape"])


class PreprocessedDataset(Dataset):
    """Preprocessed volumes and labels for fine-tuning, with random transforms keyed by (seed, epoch, index).

    ``dataset[key]`` takes a `SampleKey` or an index and gives what ``augmentation`` makes of ``{"image": MetaTensor
    float32 (C, X, Y, Z), "label": MetaTensor (1, X, Y, Z) whole numbers}``, with the affine of the preprocessed grid,
    and with it and the volume's shape as ``volume_affine`` and ``volume_shape`` in the metadata.
    Both lie on a memory map: a transform that crops reads the voxels of its crop. They carry no record of the
    preprocessing, so ``Invertd`` does not work on them: to write results on a scan's own grid, use a stock dataset.

    Args:
        data: scans ``{"image": ..., "label": ...}``.
        cache: of the preprocessed volumes; its keys are those of a sample.
        augmentation: stock MONAI transforms done per sample, random ones included: a Compose, a list, or None.
        seed: of all draws.

    Raises:
        UserError: when a scan cannot be used.
    """

    def __init__(
        self,
        data: Sequence[Scan],
        cache: VolumeCache,
        augmentation: Any = None,
        seed: int = 0,
    ) -> None:
        self.data, self.keys = as_scans(data), cache.keys
        self.seed = seed
        steps = augmentation if isinstance(augmentation, list | tuple) else [augmentation]
        self.augmentation = augmentation if isinstance(augmentation, Compose) else Compose([s for s in steps if s])
        self.entries = [str(path) for path in cache.prepare(self.data)]
        logger.info("%d volumes", len(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: SampleKey | int) -> Any:
        return self.sample(key)

    def sample(self, key: SampleKey | int, near: np.ndarray | None = None, window: Sequence[int] = ()) -> Any:
        """What the augmentation makes of a volume, or of no more of it than the `window` about a place.

        Args:
            key: of the sample.
            near: the place (3,), in shares of the volume's sides.
            window: voxels; it lies within the volume, of which it takes all where that is smaller.
        """
        epoch, index = position_of(key, len(self))
        sample: dict[str, Any] = self._load(self.entries[index])
        if near is not None:
            shape = sample[self.keys[0]].shape[1:]
            size = np.minimum(window, shape)
            middle = correct_crop_centers((near * shape).astype(int).tolist(), size, shape)
            sample = {name: SpatialCrop(roi_center=middle, roi_size=size)(part) for name, part in sample.items()}
        state = keyed(self.seed, AUGMENTATION_STREAM, epoch, index).integers(2**32, dtype=np.uint32)
        self.augmentation.set_random_state(seed=int(state))
        return self.augmentation(sample)

    def _load(self, path: str) -> dict[str, MetaTensor]:
        sample = {}
        meta = read_meta(path)
        for key in self.keys:
            # Copy-on-write: a transform that works in place changes its own pages, never the file.
            array = open_array(path, key, mode="c")
            array = array if is_label(key) else array.astype(np.float32, copy=False)
            affine = torch.tensor(meta[key].get("affine", np.eye(4).tolist()), dtype=torch.float64)
            about = {"volume_affine": affine.numpy(), "volume_shape": array.shape[1:]}
            about["filename_or_obj"] = meta[key]["source"][0]
            sample[key] = MetaTensor(torch.from_numpy(array), affine=affine, meta=about)
        return sample
