"""Handlers: when something happens to the teacher and the prototypes; the network that they hold says what."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch.optim import Optimizer

from ..base.errors import UserError
from .network import DeepSelfDistillationNetwork
from .schedules import Schedule, StepCounter


class TeacherEMAHandler(StepCounter):
    """Update the teacher after each optimiser step; the momentum used is ``engine.state.teacher_momentum``.

    Args:
        network: whatever has `update_teacher`; the network itself, never its wrapper for several processes.
        momentum: optimiser step, counted from 0 -> what the teacher keeps of itself.
    """

    def __init__(self, network: Any, momentum: Schedule) -> None:
        if not 0 <= momentum(0) <= 1:
            raise UserError(f"teacher_momentum={momentum(0):g}: it is what the teacher keeps of itself, from 0 to 1.")
        self.network, self.schedule = network, momentum
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
        engine.state.teacher_momentum = self.schedule(self.step)
        self.network.update_teacher(engine.state.teacher_momentum)
        self.step += 1

    def scalars(self) -> dict[str, float]:
        """The momentum of the last update."""
        return {"teacher_momentum": self.schedule(max(self.step - 1, 0))}


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
