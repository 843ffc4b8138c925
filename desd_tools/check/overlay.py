"""Overlays for the two bundles, written as YAML with the reason of each line beside it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from desd_components.base.errors import UserError
from desd_components.scans.cache.cache import readable

from .proposal import (
    FINETUNING_BATCH,
    FINETUNING_CROPS,
    MANY,
    VOXELS,
    Setting,
    context_scales,
    encoder_settings,
    epoch_settings,
    preprocessing_settings,
    sizes_of,
    view_size,
    window_size,
)
from .survey import Survey


@dataclass
class Overlays:
    """Settings of both bundles, and what is known about the cost of using them.

    Attributes:
        pretrain, finetune: settings in the order of the file.
        context: voxels (x, y, z) of a mean context.
        samples: of an epoch of pre-training.
        notes: lines for the head of both files: time, memory, disk; estimates, all of them.
    """

    pretrain: list[Setting]
    finetune: list[Setting]
    context: list[int]
    samples: int
    notes: list[str] = field(default_factory=list)


def propose(seen: Survey, in_channels: int, window: Sequence[float], cache_dir: str = "runs/cache") -> Overlays:
    """Settings for what was seen.

    Raises:
        UserError: when no image can be used.
    """
    images = seen.facts("image")
    if not images:
        raise UserError(f"{seen.folder.source}: no image is without a fault, so nothing can be proposed: mend them.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = sizes_of(images)
    spacing = np.median([facts.ras_spacing for facts in images], axis=0)
    view = view_size(sizes.small, spacing, VOXELS[device])
    scales = context_scales(view, sizes.small)
    roi = window_size(view, sizes.middle, VOXELS[device])
    shared = preprocessing_settings(seen, images, sizes, [float(value) for value in window])
    cache = Setting("cache_dir", cache_dir, _disk(sizes.extents, in_channels, bool(seen.facts("label")), cache_dir))
    small = " x ".join(f"{extent:.0f}" for extent in sizes.small)
    workers = Setting("num_workers", *_workers(device))
    large = device == "cuda" and len(images) >= MANY
    epoch = epoch_settings(images, sizes, view, device)
    pretrain = [
        *shared,
        Setting("train#dataset#slab_depth", None, "whole volumes: contexts are boxes along all axes"),
        Setting("train#dataset#slab_stride", None, "likewise"),
        Setting("train#dataset#trim_wider_than", None, "borders may hold what matters; made for whole-body CT"),
        Setting("view_size", view, f"voxels; nine volumes of ten have at least {small}, which is really larger"),
        Setting(
            "train#dataset#context_scale",
            scales,
            "of the view, within those volumes: the box that both views come from",
        ),
        encoder_settings(view, "network_def#scratch_architecture", large),
        *epoch,
        workers,
        cache,
    ]
    finetune = [
        *shared,
        Setting("roi_size", roi, "voxels of a crop: multiples of the encoder's strides within the median volume"),
        encoder_settings(view, "network_def#encoder#scratch_architecture", large),
        Setting("batch_size", FINETUNING_BATCH, "crops; as in small.yaml"),
        Setting("samples_per_epoch", FINETUNING_CROPS, "crops; as in small.yaml"),
        workers,
        cache,
    ]
    context = [round(size * (low + high) / 2) for size, (low, high) in zip(view, scales, strict=True)]
    per_volume = next(setting.value for setting in epoch if setting.name == "train#dataset#samples_per_volume")
    return Overlays(pretrain, finetune, context, len(images) * per_volume)


def _workers(device: str) -> tuple[int, str]:
    if device == "cpu":
        return 0, "loader processes would take cores from the network, and reading a context costs a millisecond"
    cores = os.cpu_count() or 1
    return min(8, cores), f"loader processes, of {cores} cores: views are made on the GPU"


def _disk(extents: np.ndarray, in_channels: int, labels: bool, cache_dir: str) -> str:
    """What the cache takes, as float32 with labels of a byte, against what is free."""
    need = float(extents.prod(axis=1).sum()) * (4 * in_channels + labels)
    place = next(path for path in (Path(cache_dir).absolute(), *Path(cache_dir).absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    told = f"takes about {readable(need)} for {len(extents)} volumes as float32; {readable(free)} are free there"
    return told if need < free else f"{told}: TOO LITTLE, choose another disk"


def write_overlay(path: str | Path, settings: Sequence[Setting], head: Sequence[str]) -> None:
    """Write settings as YAML, each with its reason, below comment lines."""
    lines = [f"# {line}".rstrip() for line in head]
    for setting in settings:
        lines += _lines(setting)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(setting: Setting, indent: str = "") -> list[str]:
    if setting.is_block:
        block = [f"{indent}{setting.name}:  # {setting.why}"]
        return block + [line for part in setting.value for line in _lines(part, indent + "  ")]
    return [f"{indent}{setting.name}: {_flow(setting.value)}  # {setting.why}"]


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def head_of(bundle: str, path: str, seen: Survey, overlays: Overlays) -> list[str]:
    """What stands above the settings: for which data, how to use them, what they will cost."""
    configs = [f"bundles/{bundle}/configs/train.yaml", f"bundles/{bundle}/configs/small.yaml", path]
    listed = ",".join(f"'{config}'" for config in configs)
    data = shlex.quote(seen.folder.dataset_dir)
    return [
        f"Proposed by `desd check` for {seen.folder.dataset_dir}; on train.yaml and small.yaml:",
        f'  python -m monai.bundle run training --config_file "[{listed}]" --dataset_dir {data}',
        *overlays.notes,
    ]
