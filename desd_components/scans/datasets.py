"""Volumes and labels for fine-tuning that read only what a sample needs, from volumes that were preprocessed once.

Differs from stock datasets: every draw is a function of (seed, epoch, index), so that workers, processes and resuming
need no generator state, and volumes are memory-mapped.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch.utils.data import Dataset

from ..base.draws import AUGMENTATION_STREAM, SampleKey, keyed, position_of
from .cache.cache import VolumeCache
from .cache.entries import is_label, open_array, read_meta
from .names import Scan, as_scans

logger = logging.getLogger(__name__)


class PreprocessedDataset(Dataset):
    """Preprocessed volumes and labels for fine-tuning, with random transforms keyed by (seed, epoch, index).

    ``dataset[key]`` takes a `SampleKey` or an index and gives what ``augmentation`` makes of ``{"image": MetaTensor
    float32 (C, X, Y, Z), "label": MetaTensor (1, X, Y, Z) whole numbers}``, with the affine of the preprocessed grid.
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
        epoch, index = position_of(key, len(self))
        sample = self._load(self.entries[index])
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
            source = {"filename_or_obj": meta[key]["source"][0]}
            sample[key] = MetaTensor(torch.from_numpy(array), affine=affine, meta=source)
        return sample
