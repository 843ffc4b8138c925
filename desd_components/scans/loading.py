"""Which samples an epoch takes, in what order, and how they become a batch.

Differs from torch's ``DistributedSampler``: it yields (epoch, index) pairs, so that a dataset keys its draws by them;
an incomplete last global batch is dropped instead of filled up; and it needs no process group.
"""

import errno
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, list_data_collate
from torch.utils.data import DataLoader, DistributedSampler, get_worker_info

from ..base.draws import ORDER_STREAM, SampleKey, keyed
from ..base.errors import UserError, chain_of
from ..base.processes import place


class EpochSampler(DistributedSampler):
    """Yield a `SampleKey` per sample; the same global batches however many processes share them.

    Passes over the dataset follow one another, each in an order that is a function of (seed, pass); an epoch takes the
    next `samples` of them, so that every item comes equally often, however long an epoch is. Rank r of w takes the
    positions r, r + w, ...: a global batch of one process with 2B samples holds the same samples as that of two with B.
    The incomplete last global batch of an epoch is dropped. It is a ``DistributedSampler`` because MONAI's trainer then
    calls ``set_epoch``; no process group is needed.

    Args:
        dataset: anything with a length.
        batch_size: samples of a batch on one process, as the loader's.
        seed: of the order.
        samples: of an epoch; None for one pass.

    Raises:
        UserError: when an epoch is smaller than a global batch; an empty dataset has no batch, and is none to refuse.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0, samples: int | None = None) -> None:
        rank, processes = place()
        super().__init__(dataset, num_replicas=processes, rank=rank, seed=seed, drop_last=True)
        self.batch_size = int(batch_size)
        global_batch = self.batch_size * processes
        self._length, self._skipped = len(dataset), 0
        self._samples = int(samples) if samples is not None and self._length else self._length
        if self.batch_size < 1 or (self._length and self._samples < global_batch):
            raise UserError(
                f"a step takes {global_batch} samples (batch_size {batch_size} on {processes} processes), but an "
                f"epoch has {self._samples}: lower `batch_size`, or raise `samples_per_epoch`."
            )
        self.batches = self._samples // global_batch
        self.num_samples, self.total_size = self.batches * self.batch_size, self.batches * global_batch

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass only: those that a resumed epoch has already seen."""
        self._skipped = int(batches)

    def order(self, epoch: int) -> list[SampleKey]:
        """The samples of an epoch over all processes, in order, without the incomplete last batch."""
        first = epoch * self._samples
        keys: list[SampleKey] = []
        while len(keys) < self.total_size:
            number, place_in_pass = divmod(first + len(keys), self._length)
            order = keyed(self.seed, ORDER_STREAM, number, 0).permutation(self._length)[place_in_pass:]
            keys += [SampleKey(number, index) for index in order[: self.total_size - len(keys)].tolist()]
        return keys

    def __iter__(self) -> Iterator[SampleKey]:
        skipped = self._skipped * self.batch_size
        self._skipped = 0
        yield from self.order(self.epoch)[self.rank :: self.num_replicas][skipped:]


NO_SPACE = (
    "/dev/shm: no space left for the batches of the loader's processes. Enlarge it (docker run --shm-size 8g; in "
    "Kubernetes an emptyDir of medium Memory), use fewer with --num_workers N, or do without: --num_workers 0."
)
_LOST = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: (.+?)\.|exited unexpectedly)")
# What a run meets that is taking over a batch, when its process dies and the kernel has not yet said so.
_BROKEN_OFF = (ConnectionError, EOFError, FileNotFoundError)
_AGAIN = "The same command starts again; a training goes on from its last state."


class ShareableCollate:
    """Collate samples, and in a loader process move the batch to shared memory, where there must be space for it.

    Args:
        collate: samples -> batch: tensors in dictionaries and lists.

    Raises:
        UserError: when ``/dev/shm`` is full.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any] = list_data_collate) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch."""
        try:
            batch = self.collate(samples)
            if get_worker_info() is not None:
                move_to_shared_memory(batch)
        except (RuntimeError, OSError) as error:
            if "shared memory" in str(error) or "No space left" in str(error):
                raise UserError(NO_SPACE) from error
            raise
        return batch


def shareable_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Zeros for a batch to be filled into; a loader process has them in shared memory at once, which spares a copy."""
    if get_worker_info() is None:
        return torch.zeros(*shape, dtype=dtype)
    storage: Any = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # new pages are zero
    return torch.tensor([], dtype=dtype).set_(storage).view(*shape)


def move_to_shared_memory(batch: Any) -> None:
    """Move every tensor of nested dictionaries and sequences, and those in the metadata of a `MetaTensor`."""
    if isinstance(batch, torch.Tensor):
        batch.share_memory_()
        if isinstance(batch, MetaTensor):
            move_to_shared_memory([batch.meta, batch.applied_operations])
    elif isinstance(batch, Mapping | list | tuple):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            move_to_shared_memory(part)


def loader_fault(error: BaseException | None) -> str | None:
    """The line for an error whose chain says that a loader process was lost or found no memory; None for others."""
    for each in chain_of(error):
        if lost := _LOST.search(str(each)):
            processes, signal_name = lost.groups()
            if signal_name is not None and signal_name.startswith("Bus error"):
                return f"{NO_SPACE} (A loader process, {processes}, ended with a bus error.)"
            return _lost_line(f"was killed ({signal_name})" if signal_name else "is gone", f" (process {processes})")
        passed = [frame.f_code for frame, _ in traceback.walk_tb(each.__traceback__)]  # outermost first
        if isinstance(each, _BROKEN_OFF) and "_try_get_data" in [code.co_name for code in passed]:
            return _lost_line("is gone")
        of_semaphore = bool(passed) and passed[-1].co_filename.endswith("synchronize.py")  # they lie in /dev/shm
        if of_semaphore and isinstance(each, OSError) and each.errno == errno.ENOSPC:
            return NO_SPACE
    return None


def _lost_line(how: str, which: str = "") -> str:
    return (
        f"A process of the loader {how}{which}: somebody ended it, or the machine ran out of memory; "
        f"`dmesg` tells. Use fewer with --num_workers N, or do without: --num_workers 0. {_AGAIN}"
    )


def sample_loader(
    dataset: Any,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    device: Any = "cpu",
    shuffle: bool = True,
    sampler: Any = None,
    samples_per_epoch: int | None = None,
) -> DataLoader:
    """The loader of a training, whose batches are a function of (seed, epoch), or, without `shuffle`, of a validation.

    Args:
        dataset: contexts or preprocessed volumes; one with a `collate` of its own is collated by it.
        batch_size: samples of a batch on this process.
        num_workers: loader processes; 0 loads in this one.
        seed: of the order.
        device: that the batches go to; memory is pinned for a GPU.
        shuffle: False gives every sample once, in order, on every process, or those of `sampler`.
        sampler: of a validation that processes share out.
        samples_per_epoch: of a training; None for every item of the dataset once.

    Raises:
        UserError: when a training's epoch is smaller than a batch of all processes.
    """
    order: dict[str, Any] = {"sampler": sampler}
    if shuffle:
        order = {"sampler": EpochSampler(dataset, batch_size, seed, samples_per_epoch), "drop_last": True}
    return DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        persistent_workers=shuffle and num_workers > 0,
        pin_memory=shuffle and torch.device(device).type == "cuda",
        collate_fn=ShareableCollate(getattr(dataset, "collate", list_data_collate)),
        **order,
    )
