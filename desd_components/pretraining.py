"""Small answers that the pre-training configs ask for: groups, steps, rates, processes, and the manifest.

Source: Ye et al., "DeSD", MICCAI 2022, and its published scripts: weight decay on kernels only, a learning rate in
proportion to the total batch.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import distributed, nn

from .data import ContextDataset
from .encoder import ResNet3DEncoder, shape_table
from .errors import UserError, require_whole
from .loss import DeepSelfDistillationLoss
from .monitor import starting_lines
from .network import STAGES, DeepSelfDistillationNetwork
from .record import calling_parser, config_hash, resolved_config

logger = logging.getLogger(__name__)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: kernels with `weight_decay`; biases and other 1-D parameters without."""
    if not weight_decay >= 0:
        raise UserError(f"weight_decay={weight_decay!r}: give 0 or more, for less would let weights grow.")
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def optimizer_steps(batches: int, epochs: int, accumulation_steps: int = 1) -> int:
    """Optimiser steps of `epochs` epochs of `batches` batches; an epoch's last, shorter accumulation is a step too."""
    require_whole(1, accumulation_steps=accumulation_steps)
    return epochs * -(-batches // accumulation_steps)


def total_batch(batch_size: int, accumulation_steps: int = 1) -> int:
    """Volumes of an optimiser step, over all processes."""
    require_whole(1, batch_size=batch_size, accumulation_steps=accumulation_steps)
    return batch_size * accumulation_steps * idist.get_world_size()


def scaled_learning_rate(learning_rate: float, volumes: int) -> float:
    """A learning rate given for 256 volumes a step, in proportion to the `volumes` of a step."""
    return learning_rate * volumes / 256


def joined_processes() -> str:
    """Join the process group that `torchrun` prepared: NCCL where there are GPUs, else gloo.

    Returns:
        This process's device: "cuda:<local rank>" or "cpu".

    Raises:
        UserError: when the process was not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise UserError("multi_gpu_train.yaml needs torchrun: torchrun --nproc_per_node=N -m monai.bundle run ...")
    # In a SLURM job Ignite would take srun's local rank for this process's: 0 for all that torchrun starts on a node.
    os.environ.pop("SLURM_JOB_ID", None)
    on_gpu = torch.cuda.is_available()
    device = f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    if distributed.get_rank() != 0:
        logging.getLogger().setLevel(logging.WARNING)
    return device


def leave_processes() -> None:
    """Leave the process group, where there is one, and let Ignite forget it too."""
    if distributed.is_available() and distributed.is_initialized():
        idist.finalize()  # leaves the group if Ignite knows of it
        if distributed.is_initialized():
            distributed.destroy_process_group()


def distributed_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """`network` wrapped for several processes, its batch norms synchronised where that exists: on GPUs."""
    device = torch.device(device)
    # stages beyond the last that is taught get no gradient, which the wrapper takes for a mistake unless told
    partly = isinstance(network, DeepSelfDistillationNetwork) and max(network.student_stages) < STAGES[-1]
    on_gpu: dict[str, Any] = {}
    if device.type == "cuda":
        network, on_gpu = nn.SyncBatchNorm.convert_sync_batchnorm(network), {"device_ids": [device]}
    return nn.parallel.DistributedDataParallel(network.to(device), find_unused_parameters=partly, **on_gpu)


def log_start(
    encoder: ResNet3DEncoder,
    view_size: Sequence[int],
    loss: DeepSelfDistillationLoss,
    learning_rate: float,
    teacher_momentum: float,
    steps: int,
) -> None:
    """Say what a user should know before the first step; see `starting_lines` and `shape_table`."""
    logger.info(starting_lines(loss, learning_rate, teacher_momentum, steps))
    logger.info("What the encoder makes of a view:\n%s", shape_table(encoder, view_size))


def warn_of_equal_boxes(dataset: ContextDataset, view_size: Sequence[int], samples: int = 200) -> None:
    """Warn when contexts are hardly larger than a view: both views then come from the same box and show the same.

    The published recipe's contexts have 3.8 times the voxels of a view; the warning comes below 1.2 times, in the
    median of up to `samples` samples of the first epoch.
    """
    places = np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).astype(int)
    boxes = [dataset.box(int(place))[1] for place in places]
    sizes = [math.prod(side.stop - side.start for side in box) for box in boxes]
    ratio = float(np.median(sizes)) / math.prod(view_size)
    if ratio < 1.2:
        logger.warning(
            "A context has %.2f times the voxels of a view of %s: both views come from nearly the same box. "
            "Use a smaller view_size, or a larger context_scale where the volumes allow it.",
            ratio,
            tuple(view_size),
        )


def encoder_manifest(
    encoder: ResNet3DEncoder,
    preprocessing: Mapping[str, Any],
    view_size: Sequence[int],
    volumes: int,
    data_hash: str,
) -> dict[str, Any]:
    """What ``encoder.json`` says beside ``encoder.pt``: enough to build the encoder and the way to its input again."""
    from . import __version__

    parser = calling_parser()
    return {
        "kind": "encoder",
        "half": "teacher",
        "architecture": encoder.architecture,
        "preprocessing": dict(preprocessing),
        "view_size": list(view_size),
        "volumes": volumes,
        "data_hash": data_hash,
        "config_hash": None if parser is None else config_hash(resolved_config(parser)),
        "desd_components": __version__,
    }
