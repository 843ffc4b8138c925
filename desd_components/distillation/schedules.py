"""Schedules: from an optimiser step to a number.

Source: METHOD "schedules", that is Ye et al., "DeSD", MICCAI 2022, whose published scripts follow Caron et al., "DINO".
Both ends of the warm-up are included; the end of the cosine is approached and never reached. A schedule is a pure
function of the step, so resuming needs no state, and a warm-up that does not fit is refused when it is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..base.errors import UserError, require_whole
from ..base.processes import place


def cosine(step: int, total_steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` (step 0) towards `end`, which `total_steps` would reach."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * step / total_steps))


def linear_warmup(step: int, warmup_steps: int, start: float, peak: float) -> float:
    """`warmup_steps` evenly spaced points from `start` to `peak`, both included; `peak` afterwards."""
    if step >= warmup_steps - 1:
        return peak
    return start + (peak - start) * step / (warmup_steps - 1)


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine.

    Args:
        peak: value after the warm-up, where the cosine starts.
        end: value that the cosine approaches.
        total_steps: optimiser steps of the whole run.
        warmup_steps: points of the warm-up, from `start` to `peak`, both included; 0 for none.
        start: value at step 0 of a warm-up.

    Raises:
        UserError: when the run has no step, or when the warm-up is as long as the run or longer.
    """

    peak: float
    end: float
    total_steps: int
    warmup_steps: int = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise UserError(
                f"The run has {self.total_steps} optimiser steps. Give more volumes, epochs, or a smaller batch."
            )
        if not 0 <= self.warmup_steps < self.total_steps:
            raise UserError(
                f"The warm-up of {self.warmup_steps} steps does not fit into a run of {self.total_steps} steps. "
                "Lower warmup_steps or raise max_epochs."
            )

    def __call__(self, step: int) -> float:
        """The value for optimiser step `step`, counted from 0; steps past the end keep the last value."""
        if step < self.warmup_steps:
            return linear_warmup(step, self.warmup_steps, self.start, self.peak)
        last = self.total_steps - 1
        return cosine(min(step, last) - self.warmup_steps, self.total_steps - self.warmup_steps, self.peak, self.end)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: kernels with `weight_decay`; biases and other 1-D parameters without."""
    if not weight_decay >= 0:
        raise UserError(f"weight_decay={weight_decay!r}: give 0 or more, for less would let weights grow.")
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Steps:
    """Optimiser steps, which everything scheduled counts: an epoch's last, shorter accumulation is a step too.

    Args:
        batches: of an epoch, on each process.
        batch_size: volumes or crops of a batch, on each process.
        max_epochs: that the schedules are made for.
        accumulation_steps: batches of an optimiser step.

    Attributes:
        per_epoch, total: optimiser steps; without data `total` is 1, so that a trainer can be built and looked at.
        volumes: of an optimiser step, over all processes.

    Raises:
        UserError: when a number is no whole one, or too small.
    """

    def __init__(self, batches: int, batch_size: int, max_epochs: int, accumulation_steps: int = 1) -> None:
        require_whole(1, batch_size=batch_size, accumulation_steps=accumulation_steps)
        require_whole(0, max_epochs=max_epochs)
        self.max_epochs, self.per_epoch = max_epochs, -(-batches // accumulation_steps)
        self.total = self.of_epochs(max_epochs) if batches else 1
        self.volumes = batch_size * accumulation_steps * place()[1]

    def of_epochs(self, epochs: int) -> int:
        """The steps of so many epochs."""
        return epochs * self.per_epoch

    def share(self, fraction: float) -> int:
        """The steps of a share of the run.

        Raises:
            UserError: when it is no share below 1.
        """
        if not 0 <= fraction < 1:
            raise UserError(f"{fraction} of the steps: give a share of the run, from 0 to below 1.")
        return round(fraction * self.total)

    def scaled(self, learning_rate: float) -> float:
        """A learning rate given for 256 volumes a step, in proportion to the volumes of a step."""
        return learning_rate * self.volumes / 256
