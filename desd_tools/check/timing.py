"""How long an epoch of the proposed settings takes here, from a few real steps of the proposed network.

The steps are those of the bundles' own configs (network, loss, optimiser, views), on random voxels, in this process and
with its threads. Reading and validation are left out, so that the result is an estimate from below.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser

from desd_components.base.errors import UserError
from desd_components.runs.config import merged
from desd_components.runs.progress import spoken_time
from desd_components.scans.cache.cache import readable

from ..places import BUNDLES
from .overlay import Overlays


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step (median), and the memory of this process at its fullest, in bytes."""

    seconds: float
    peak_bytes: int


def bundle_config(bundle: str, settings: Mapping[str, Any]) -> ConfigParser:
    """A bundle's train.yaml and small.yaml with settings on top, its imports done.

    Raises:
        UserError: when the bundle does not lie beside the package.
    """
    configs = [BUNDLES / bundle / "configs" / f"{name}.yaml" for name in ("train", "small")]
    if not all(config.is_file() for config in configs):
        raise UserError(
            f"{configs[0]}: is not there, so no step can be timed: run from the repository, or give `--steps 0`."
        )
    parser = merged(configs)
    for name, value in settings.items():
        parser[name] = value
    parser.get_parsed_content("imports")
    return parser


def timed(step: Callable[[], None], steps: int) -> StepCost:
    """Run a step once to warm up, then ``steps`` times."""
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return StepCost(statistics.median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def pretraining_cost(settings: Mapping[str, Any], context: Sequence[int], in_channels: int, steps: int) -> StepCost:
    """Views, student, teacher, loss, backward, optimiser and EMA of one batch."""
    parser = bundle_config("desd_pretrain", {**settings, "in_channels": in_channels, "optimizer#lr": 1e-3})
    network, loss = (
        parser.get_parsed_content("network").train(),
        parser.get_parsed_content("train#trainer#loss_function"),
    )
    optimizer = parser.get_parsed_content("optimizer")
    prepare, device = (parser.get_parsed_content(name) for name in ("train#trainer#prepare_batch", "device"))
    count = settings["batch_size"]
    batch = {
        "image": torch.randn(count, in_channels, *context),
        "context_size": torch.tensor([list(context)] * count),
        "index": torch.arange(count),
        "epoch": torch.zeros(count, dtype=torch.int64),
    }

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        views, _ = prepare(batch, device)
        value = loss(network(views))
        value.backward()
        optimizer.step()
        network.update_teacher(0.95)
        value.item()  # waits for a GPU

    return timed(step, steps)


def finetuning_cost(settings: Mapping[str, Any], classes: Sequence[str], in_channels: int, steps: int) -> StepCost:
    """Forward, loss, backward and optimiser of one batch of crops."""
    own = {"in_channels": in_channels, "classes": list(classes)}
    parser = bundle_config("desd_seg_finetune", {**settings, **own})
    network, loss = parser.get_parsed_content("network").train(), parser.get_parsed_content("loss")
    device = parser.get_parsed_content("device")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    shape = (settings["batch_size"], in_channels, *settings["roi_size"])
    image = torch.randn(shape, device=device)
    label = torch.randint(len(classes), (shape[0], 1, *shape[2:]), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss(network(image), label)
        value.backward()
        optimizer.step()
        value.item()

    return timed(step, steps)


def add_notes(overlays: Overlays, classes: Sequence[str], in_channels: int, steps: int) -> dict[str, float]:
    """Time a few steps of both trainings and note what an epoch takes; returns the figures.

    Args:
        overlays: gets the notes.
        classes: of the labels, background first.
        in_channels: channels of an image.
        steps: to time; 0 leaves time and memory unsaid.
    """
    if steps < 1:
        return {}
    pretrain = {setting.name: setting.plain() for setting in overlays.pretrain}
    finetune = {setting.name: setting.plain() for setting in overlays.finetune}
    first = pretraining_cost(pretrain, overlays.context, in_channels, steps)
    second = finetuning_cost(finetune, classes, in_channels, steps)
    batches, epochs = overlays.samples // pretrain["batch_size"], pretrain["max_epochs"]
    epoch = batches * first.seconds
    crops = finetune["samples_per_epoch"] // finetune["batch_size"]
    crops_epoch = crops * second.seconds
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    peak = max(first.peak_bytes, second.peak_bytes)
    overlays.notes += [
        f"Estimates, from {steps} steps of each network on random voxels ({machine}), reading and validation aside:",
        f"  pre-training: {first.seconds:.2f} s a step, {spoken_time(epoch)} an epoch of {batches} steps, "
        f"{spoken_time(epoch * epochs)} in all",
        f"  fine-tuning: {second.seconds:.2f} s a step, {spoken_time(crops_epoch)} an epoch of {crops} steps",
        f"  RAM: {readable(peak)} at most while these steps ran; preprocessing holds one volume a thread",
    ]
    return {
        "pretrain_step_seconds": first.seconds,
        "pretrain_epoch_seconds": epoch,
        "finetune_step_seconds": second.seconds,
        "finetune_epoch_seconds": crops_epoch,
        "peak_bytes": peak,
    }
