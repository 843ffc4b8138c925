"""Handlers: when something happens in a run; the objects they hold say what.

Everything that the recipe counts in steps is counted in **optimiser steps**, by the optimiser's own hook: under
gradient accumulation an engine fires an iteration for every micro-batch, and a skipped step of mixed precision fires
none here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch.optim import Optimizer

from ..base.errors import UserError
from .network import DeepSelfDistillationNetwork

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


class TeacherEMAHandler(StepCounter):
    """Update the teacher after each optimiser step; the momentum used is ``engine.state.teacher_momentum``.

    Args:
        network: the network itself, never its wrapper for several processes.
        momentum: optimiser step, counted from 0 -> what the teacher keeps of itself.
    """

    def __init__(self, network: DeepSelfDistillationNetwork, momentum: Schedule) -> None:
        if not 0 <= momentum(0) <= 1:
            raise UserError(f"teacher_momentum={momentum(0):g}: it is what the teacher keeps of itself, from 0 to 1.")
        self.network, self.momentum = network, momentum
        self._follows: Optimizer | None = None

    def attach(self, engine: Workflow) -> None:
        """Follow the engine's optimiser from the start of the run; the engine has it only then."""
        engine.add_event_handler(Events.STARTED, self._follow)

    def _follow(self, engine: Workflow) -> None:
        optimizer = engine.optimizer  # type: ignore[attr-defined]
        if optimizer is not self._follows:
            optimizer.register_step_post_hook(lambda *_: self(engine))
            self._follows = optimizer

    def __call__(self, engine: Workflow) -> None:
        """Move the teacher once."""
        engine.state.teacher_momentum = self.momentum(self.step)
        self.network.update_teacher(engine.state.teacher_momentum)
        self.step += 1

    def scalars(self) -> dict[str, float]:
        """The momentum of the last update."""
        return {"teacher_momentum": self.momentum(max(self.step - 1, 0))}


class FreezePrototypesHandler:
    """Leave the prototypes untrained for the first epochs; ``engine.state.prototypes_frozen`` says whether.

    Args:
        network: whose student's prototypes are meant.
        epochs: epochs without a gradient; 1 in the published recipe, 0 for never.
    """

    def __init__(self, network: DeepSelfDistillationNetwork, epochs: int = 1) -> None:
        self.network, self.epochs = network, epochs

    def attach(self, engine: Workflow) -> None:
        """Act between backward and optimiser step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Drop the gradients of the prototypes while the run is in its first epochs."""
        engine.state.prototypes_frozen = engine.state.epoch <= self.epochs
        if engine.state.prototypes_frozen:
            for prototypes in self.network.prototypes():
                # dropped, not zeroed: with zeros, momentum and weight decay would still move the prototypes
                prototypes.grad = None
