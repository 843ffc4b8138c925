"""The learning rate, counted in **optimiser steps** by the optimiser's own hook.

Under gradient accumulation an engine fires an iteration for every micro-batch, and a skipped step of mixed precision
fires none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch.optim import Optimizer

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
