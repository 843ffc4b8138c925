"""What the processes of a training tell each other outside of its steps."""

from __future__ import annotations

import datetime
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from .errors import UserError

T = TypeVar("T")
#: those of `distributed_network` that are still there
_WRAPPERS: weakref.WeakSet[nn.parallel.DistributedDataParallel] = weakref.WeakSet()


def distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def place() -> tuple[int, int]:
    """This process's rank, and how many processes there are: (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over the process group; `values` itself where there is none."""
    if distributed():
        dist.all_reduce(values)
    return values


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of `values` over the process group; `values` itself where there is none."""
    return sum_over_processes(values) / dist.get_world_size() if distributed() else values


def from_all_processes(items: list[Any], group: Any = None) -> list[Any]:
    """The items of all processes, in the order of their ranks; every process must ask.

    Args:
        items: of this one; anything that can be pickled.
        group: None for the default process group.
    """
    if not distributed():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items, group=group)
    return [item for part in parts for item in part]


def patiently_gathered(item: Any) -> list[Any]:
    """The items of all processes, by rank; also the place where they wait for each other, for days if need be.

    A group of its own, because preprocessing may take hours and NCCL's default patience is ten minutes.
    """
    if place()[1] == 1:
        return [item]
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=14))
    found = from_all_processes([item], group)
    dist.destroy_process_group(group)
    return found


def from_first(work: Callable[[], T]) -> T:
    """What rank 0 makes of `work`, on all processes, or its refusal: they read no folder as often as they are many.

    Raises:
        UserError: on all of them, when `work` does.
    """
    found: T | UserError | None = None
    if place()[0] == 0:
        try:
            found = work()
        except UserError as error:
            found = error
    told = patiently_gathered(found)[0]
    if isinstance(told, UserError):
        raise told
    return told


def joined_processes() -> str:
    """Join the process group that `torchrun` prepared: NCCL where there are GPUs, else gloo.

    Returns:
        This process's device: "cuda:<local rank>" or "cpu".

    Raises:
        UserError: when the process was not started by `torchrun`, or has no GPU where others have one.
    """
    if "LOCAL_RANK" not in os.environ:
        raise UserError("multi_gpu_train.yaml needs torchrun: torchrun --nproc_per_node=N -m monai.bundle run ...")
    # In a SLURM job Ignite would take srun's local rank for this process's: 0 for all that torchrun starts on a node.
    os.environ.pop("SLURM_JOB_ID", None)
    on_gpu, number = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    if on_gpu and number >= (count := torch.cuda.device_count()):
        raise UserError(f"More processes than GPUs: {count} are here. Give torchrun --nproc_per_node={count}.")
    device = f"cuda:{number}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    if not distributed():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    if dist.get_rank() != 0:
        logging.getLogger().setLevel(logging.WARNING)
    return device


def distributed_network(
    network: nn.Module, device: torch.device | str, bf16_gradients: bool = False
) -> nn.parallel.DistributedDataParallel:
    """`network` wrapped for several processes, its batch norms synchronised where that exists: on GPUs.

    Gradients lie in the buffers that are sent. Synchronised statistics are the same everywhere and not sent again.

    Args:
        network: of one process.
        device: of this process.
        bf16_gradients: gradients travel, and are averaged, in bfloat16: half of the bytes, three decimal digits.
    """
    device = torch.device(device)
    # parameters that are meant to get no gradient are a mistake to the wrapper, unless told
    partly = getattr(network, "trains_partly", False)
    on_gpu: dict[str, Any] = {}
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        on_gpu = {"device_ids": [device], "broadcast_buffers": False}
    wrapper = nn.parallel.DistributedDataParallel(
        network.to(device), find_unused_parameters=partly, gradient_as_bucket_view=True, **on_gpu
    )
    if bf16_gradients:
        # torch refuses its hook by its name where there is no NCCL
        wrapper.register_comm_hook(None, lambda group, bucket: bf16_compress_hook(group, bucket))
    _WRAPPERS.add(wrapper)
    return wrapper


def leave_processes() -> None:
    """Leave the process group, where there is one, and let Ignite forget it too.

    The networks of `distributed_network` let go of it as well, and train no more: a group ends its threads only with
    its last owner, and a thread that wants Python while that is ending aborts the process, or makes it hang.
    """
    if distributed():
        while _WRAPPERS:  # before the group itself: what lets go last must not hold Python's lock
            wrapper = _WRAPPERS.pop()
            del wrapper.reducer, wrapper.logger, wrapper.process_group
        idist.finalize()  # leaves the group if Ignite knows of it
        if distributed():
            dist.destroy_process_group()
