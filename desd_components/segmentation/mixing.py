"""Crops mixed of several scans: labelled ones among each other, and crops of unlabelled scans beside them.

Source: Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023. Ours: half of
the crops stay as they are, each has its own intensity changes, and the last steps see none that are mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import list_data_collate
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from ..base.draws import MIXING_STREAM, PARTNER_STREAM, SampleKey, key_of, keyed
from ..base.errors import require_share
from ..base.processes import place
from ..distillation.schedules import LearningRateHandler

SIDE = 2 / 3  # of a crop, that the cuboid has which is pasted [BCP]
MIXED = 0.5  # of the crops of a step that mixes


def cuboids(corners: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Masks (B, 1, X, Y, Z) of cuboids with `SIDE` of a crop's sides; their corners (B, 3) are shares of the room."""
    inside = torch.ones((), dtype=torch.bool, device=corners.device)
    for axis, size in enumerate(shape):
        side = round(SIDE * size)
        start = (corners[:, axis] * (size - side + 1)).long()[:, None]
        places = torch.arange(size, device=corners.device)
        along = (places >= start) & (places < start + side)
        inside = inside & along.reshape(-1, 1, *(size if number == axis else 1 for number in range(3)))
    return inside


def moved(part: torch.Tensor, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
    """A part of a batch on a device, without MONAI's records."""
    tensor: torch.Tensor = convert_to_tensor(part, track_meta=False)
    return tensor.to(device, non_blocking=non_blocking, **kwargs)


class CropMixing:
    """Prepares batches of a trainer: half of the crops get a cuboid of another one of their batch, image and label.

    So each of few labelled scans is seen among others. What a trained network will see are crops as they are: so the
    last steps of a run have no others.

    Args:
        rate: whose steps say how far the run is.
        share: of the run's steps, that mix.
        seed: of the draws, which are a function of it, of the step and of the process.

    Raises:
        UserError: when the share is none.
    """

    def __init__(self, rate: LearningRateHandler, share: float, seed: int = 0) -> None:
        require_share(**{"train#mixing#share": share})
        self.rate, self.share, self.seed = rate, share, seed

    def prepare(
        self, batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch's ``image`` (B, C, X, Y, Z) and ``label`` (B, 1, X, Y, Z) on the device, and mixed."""
        images, labels = (moved(batch[name], device, non_blocking, **kwargs) for name in ("image", "label"))
        if self.rate.step >= self.share * self.rate.schedule.total_steps:  # type: ignore[attr-defined]
            return images, labels
        draws = keyed(self.seed, MIXING_STREAM, self.rate.step, place()[0]).random((len(images), 4))
        is_chosen = torch.from_numpy(draws[:, 0] < MIXED).reshape(-1, 1, 1, 1, 1)
        pasted = cuboids(torch.from_numpy(draws[:, 1:]), images.shape[2:]) & is_chosen
        pasted = pasted.to(images.device, non_blocking=non_blocking)
        return torch.where(pasted, images.roll(1, 0), images), torch.where(pasted, labels.roll(1, 0), labels)


class WithUnlabelled(Dataset):
    """Batches of labelled crops, with a crop of an unlabelled scan for each of their second half.

    Args:
        labelled: gives ``image`` (C, X, Y, Z) and ``label`` (1, X, Y, Z).
        unlabelled: gives ``weak``, which a teacher sees, and ``image``, the same voxels changed for its student.
        seed: of the draws, which are a function of it and of a labelled crop's key.
    """

    def __init__(self, labelled: Dataset, unlabelled: Dataset, seed: int = 0) -> None:
        self.labelled, self.unlabelled, self.seed = labelled, unlabelled, seed

    def __len__(self) -> int:
        return len(self.labelled)  # type: ignore[arg-type]

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> tuple[list[Any], list[dict[str, Any]]]:
        """The labelled and the unlabelled samples of a batch, as PyTorch's loaders ask for them."""
        return [self.labelled[key] for key in keys], [self._partner(key_of(key)) for key in keys[len(keys) // 2 :]]

    def _partner(self, key: SampleKey) -> dict[str, Any]:
        draws = keyed(self.seed, PARTNER_STREAM, *key)
        # a number of its own for each sample, so that another one takes another crop of the same scan
        number = SampleKey(key.epoch * len(self) + key.index, int(draws.integers(len(self.unlabelled))))  # type: ignore[arg-type]
        return {**self.unlabelled[number], "draws": torch.from_numpy(draws.random(4))}

    @staticmethod
    def collate(samples: tuple[list[Any], list[dict[str, Any]]]) -> dict[str, Any]:
        """A batch: ``image``, ``label``; and of the unlabelled crops ``weak``, ``strong`` and ``draws`` (B, 4)."""
        labelled, unlabelled = map(list_data_collate, samples)
        return {**labelled, "weak": unlabelled["weak"], "strong": unlabelled["image"], "draws": unlabelled["draws"]}
