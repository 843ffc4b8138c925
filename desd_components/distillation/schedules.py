"""Schedules: from an optimiser step to a number; and the handler that sets the learning rate by one.

Source: Ye et al., "DeSD", MICCAI 2022, whose scripts follow Caron et al., "DINO". Both ends of a warm-up count, and the
end of the cosine is never reached. Steps are the optimiser's: an engine fires iterations for micro-batches, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn
from torch.optim import Optimizer

from ..base.errors import UserError


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


Schedule = Callable[[int], float]


class StepCounter:
    """Optimiser steps taken so far, which are all that a resumed run needs to know."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        """The steps taken so far."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from the steps of `state`."""
        self.step = state["step"]


class LearningRateHandler(StepCounter):
    """Set the learning rate before every optimiser step.

    The rate of a parameter group is ``schedule(step) * group["lr_scale"]``, and 0 while the step is below
    ``group["frozen_steps"]``; both are optional.

    Args:
        optimizer: whose groups are set.
        schedule: optimiser step, counted from 0 -> learning rate.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule

    def attach(self, engine: Workflow) -> None:
        """Follow the optimiser from the start of the run."""
        engine.add_event_handler(Events.STARTED, lambda: self._set())
        self.optimizer.register_step_post_hook(lambda *_: self._advance())

    def _advance(self) -> None:
        self.step += 1
        self._set()

    def _set(self) -> None:
        rate = self.schedule(self.step)
        for group in self.optimizer.param_groups:
            frozen = self.step < group.get("frozen_steps", 0)
            group["lr"] = 0.0 if frozen else rate * group.get("lr_scale", 1.0)

    def scalars(self) -> dict[str, float]:
        """Steps taken so far, and the rate of the last one."""
        return {"step": self.step, "learning_rate": self.schedule(max(self.step - 1, 0))}
