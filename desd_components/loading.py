"""Loader processes: what they hand over, and what a run says when one is lost.

PyTorch moves a batch to shared memory in a thread of its own, whose errors only that thread sees: where ``/dev/shm`` is
full, the batch never arrives, and the run waits for it for ever. `ShareableCollate` moves the batch beforehand, in the
loader process itself, from which errors travel to the run.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, list_data_collate
from torch.utils.data import get_worker_info

from .errors import UserError, chain_of

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


def move_to_shared_memory(batch: Any) -> None:
    """Move every tensor of nested dictionaries and sequences, and those in the metadata of a `MetaTensor`."""
    if isinstance(batch, torch.Tensor):
        batch.share_memory_()
        if isinstance(batch, MetaTensor):
            move_to_shared_memory([batch.meta, batch.applied_operations])
    elif isinstance(batch, Mapping):
        move_to_shared_memory(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            move_to_shared_memory(part)


def loader_fault(error: BaseException | None) -> str | None:
    """The line for an error whose chain says that a loader process was lost or found no memory; None for others."""
    for each in chain_of(error):
        if lost := _LOST.search(str(each)):
            processes, signal_name = lost.groups()
            if signal_name is not None and signal_name.startswith("Bus error"):
                return f"{NO_SPACE} (A loader process, {processes}, ended with a bus error.)"
            return _lost_line(f"was killed ({signal_name})" if signal_name else "is gone", f" (process {processes})")
        if isinstance(each, _BROKEN_OFF) and "_try_get_data" in _functions(each):
            return _lost_line("is gone")
        if isinstance(each, OSError) and each.errno == errno.ENOSPC and _is_of_semaphore(each):
            return NO_SPACE
    return None


def _lost_line(how: str, which: str = "") -> str:
    return (
        f"A process of the loader {how}{which}: somebody ended it, or the machine ran out of memory; "
        f"`dmesg` tells. Use fewer with --num_workers N, or do without: --num_workers 0. {_AGAIN}"
    )


def _functions(error: BaseException) -> list[str]:
    """The names of the functions that an error passed, outermost first."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_of_semaphore(error: BaseException) -> bool:
    """Whether an error comes from the making of a semaphore, which lies in ``/dev/shm``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_filename.endswith("synchronize.py")
