"""Which samples an epoch takes, in what order, and how they become a batch.

Differs from torch's ``DistributedSampler``: it yields (epoch, index) pairs, so that a dataset keys its draws by them;
an incomplete last global batch is dropped instead of filled up; and it needs no process group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from .errors import UserError
from .processes import distributed

# One seed feeds several draws; a stream each keeps them apart.
ORDER_STREAM, CONTEXT_STREAM, AUGMENTATION_STREAM = 0x0D1, 0xC0D, 0xA06


class SampleKey(NamedTuple):
    """What a sample's draws are keyed by, beside the seed: the epoch (from 1, as Ignite counts) and the index."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key


def key_of(key: SampleKey | int | Sequence[int]) -> SampleKey:
    """A key as datasets are given it; a plain index means epoch 0."""
    return SampleKey(int(key[0]), int(key[1])) if isinstance(key, Sequence) else SampleKey(0, int(key))


def keyed(*key: int) -> np.random.Generator:
    """A fresh generator that is a function of its key only."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def generator(seed: int, stream: int, epoch: int, index: int = 0) -> np.random.Generator:
    """The generator of one kind of draw for an epoch, or for a sample in it."""
    return keyed(seed, stream, epoch, index)


class EpochSampler(DistributedSampler):
    """Yield a `SampleKey` per sample; the same global batches however many processes share them.

    The order is a function of (seed, epoch). Rank r of w takes the positions r, r + w, ...: a global batch of one
    process with 2B samples holds the same samples as that of two with B. The incomplete last global batch is dropped.
    It is a ``DistributedSampler`` because MONAI's trainer then calls ``set_epoch``; no process group is needed.

    Args:
        dataset: anything with a length.
        batch_size: samples of a batch on one process, as the loader's.
        seed: of the order.
        shuffle: otherwise the order is that of the dataset.
        num_replicas, rank: processes and this one's number; None asks the process group, or means one process.

    Raises:
        UserError: when the dataset is smaller than a global batch.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if num_replicas is None:
            num_replicas = torch.distributed.get_world_size() if distributed() else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed() else 0
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed, drop_last=True)
        self.batch_size = int(batch_size)
        global_batch = self.batch_size * num_replicas
        if self.batch_size < 1 or len(dataset) < global_batch:
            raise UserError(
                f"a step takes {global_batch} samples (batch_size {batch_size} on {num_replicas} processes), but an "
                f"epoch has {len(dataset)}: lower `batch_size`, or draw more samples from each volume."
            )
        self.batches = len(dataset) // global_batch
        self.num_samples, self.total_size = self.batches * self.batch_size, self.batches * global_batch
        self._length, self._skipped = len(dataset), 0

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass only: those that a resumed epoch has already seen."""
        self._skipped = int(batches)

    def order(self, epoch: int) -> np.ndarray:
        """The sample indices of an epoch over all processes, in order, without the incomplete last batch."""
        count = self._length
        everything = generator(self.seed, ORDER_STREAM, epoch).permutation(count) if self.shuffle else np.arange(count)
        return everything[: self.total_size]

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, skipped = self.epoch, self._skipped * self.batch_size
        self._skipped = 0
        for index in self.order(epoch)[self.rank :: self.num_replicas][skipped:].tolist():
            yield SampleKey(epoch, index)


def collate_contexts(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack context boxes of unequal size, padded with zeros at the far end.

    Returns:
        ``image`` (B, C, X, Y, Z) float32 with the batch's largest X, Y, Z; ``context_size`` (B, 3) int64, the true
        sizes in voxels; ``index``, ``epoch``, ``volume`` (B,) int64.
    """
    sizes = torch.stack([sample["context_size"] for sample in samples])
    images = [sample["image"] for sample in samples]
    batch = images[0].new_zeros(len(images), images[0].shape[0], *sizes.amax(dim=0).tolist())
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2], : image.shape[3]] = image
    numbers = {name: torch.tensor([sample[name] for sample in samples]) for name in ("index", "epoch", "volume")}
    return {"image": batch, "context_size": sizes, **numbers}
