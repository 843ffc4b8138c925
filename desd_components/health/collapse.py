"""What a run does when its monitor's alarm sounds: go on with a warning, stop where it can be resumed, or be rescued.

Ours. Stopping saves the state as a signal does (see `stopping`), between two optimiser steps or at the end of an epoch,
and then ends the run with a `UserError`, so that a bundle's command exits with 1. For what a rescue does see `rescue`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from ..base.errors import UserError
from ..base.processes import from_all_processes
from ..distillation.handlers import LearningRateHandler, TeacherEMAHandler
from .monitor import DistillationMonitor
from .rescue import REMEDIES, HealthyState, Parts, remedied
from .skipping import ends_step

logger = logging.getLogger(__name__)


ACTIONS = ("warn", "stop", "rescue")
HEALTHY, PENDING, SOUNDING = range(3)


class CollapseHandler:
    """End or rescue a run whose monitor has raised an alarm, on all processes together.

    It must come after the monitor in a trainer's handlers.

    Args:
        monitor: whose alarms count.
        learning_rate: of the run, for a rescue to lower.
        teacher: of the run, for a rescue to change its momentum.
        on_collapse: "warn" leaves it at the monitor's warning; "stop" saves the state and ends the run; "rescue" goes
            back to the last healthy state and on with safer settings, and stops where no setting can be to blame.
        max_rescues: of a run; the alarm after the last of them stops it.

    Raises:
        UserError: when built, for another word or number; when the run ends, if an alarm ended it.
    """

    def __init__(
        self,
        monitor: DistillationMonitor,
        learning_rate: LearningRateHandler,
        teacher: TeacherEMAHandler,
        on_collapse: str = "warn",
        max_rescues: int = 3,
    ) -> None:
        if on_collapse not in ACTIONS:
            raise UserError(f"on_collapse={on_collapse!r}: choose one of {list(ACTIONS)}.")
        if max_rescues < 1:
            raise UserError(f"max_rescues={max_rescues}: give 1 or more, or on_collapse: stop.")
        self.monitor, self.on_collapse, self.max_rescues = monitor, on_collapse, max_rescues
        self.rescues = 0
        self._parts = Parts(monitor.network, monitor.loss, learning_rate, teacher)
        self._healthy = HealthyState(self._parts, monitor.patience)
        self._stopped = ""

    def attach(self, engine: Workflow) -> None:
        """Look after each of the monitor's looks, where a state can be saved."""
        if self.on_collapse != "warn":
            # now, and so before the handlers of a `ResumeHandler`, which saves the state of a run that is to end
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._act)
            engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Workflow) -> None:
        self._stopped = ""
        if self.on_collapse == "rescue":
            self._healthy.begin(engine.state.iteration)
        if not engine.has_event_handler(self._end, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._end)  # only now, and so after all others, for it raises

    def _after_step(self, engine: Workflow) -> None:
        last_of_epoch = engine.state.iteration % engine.state.epoch_length == 0  # EPOCH_COMPLETED is still to come
        if self.monitor.due(engine) and ends_step(engine) and not last_of_epoch:
            self._act(engine)

    def _act(self, engine: Workflow) -> None:
        verdict = self._verdict()
        if verdict == SOUNDING:
            name, message = self._alarm()
            refused = self._refusal(name) if self.on_collapse == "rescue" else ""
            if self.on_collapse == "stop" or refused:
                self._stopped = " ".join(filter(None, [message, refused]))
                engine.terminate()
            else:
                self._rescue(engine, name)
        elif self.on_collapse == "rescue":
            self._healthy.look(verdict == HEALTHY, engine.state.iteration)

    def _verdict(self) -> int:
        """The worst that any process sees, for each watches its own volumes."""
        verdict = SOUNDING if self.monitor.sounding else HEALTHY if self.monitor.is_healthy else PENDING
        return verdict if idist.get_world_size() == 1 else int(idist.all_reduce(verdict, "MAX"))

    def _alarm(self) -> tuple[str, str]:
        """Name and message of the first alarm of the first process that has one, the same on all of them."""
        return next(alarm for alarms in from_all_processes([list(self.monitor.sounding.items())]) for alarm in alarms)

    def _refusal(self, name: str) -> str:
        if name not in REMEDIES:
            return "No setting that a rescue could change is to blame."
        return f"It was rescued {self.rescues} times already." if self.rescues >= self.max_rescues else ""

    def _rescue(self, engine: Workflow, name: str) -> None:
        iteration, length = engine.state.iteration, engine.state.epoch_length
        steps = engine.state.max_epochs * length // getattr(engine, "accumulation_steps", 1)
        back = self._healthy.put_back()
        changed = remedied(name, self._parts, steps)
        self.monitor.start_anew()
        self.rescues += 1
        logger.warning(
            "Iteration %d: rescue %d of %d from %s. Weights, center and optimiser are those of iteration %d again; "
            "%s from here on.",
            iteration,
            self.rescues,
            self.max_rescues,
            name,
            back,
            changed,
        )

    def _end(self, engine: Workflow) -> None:
        if self._stopped:
            raise UserError(
                f"Stopped after {engine.state.iteration} iterations by on_collapse: {self.on_collapse}. "
                f"{self._stopped} The state is saved: on_collapse: warn goes on from it; a run with other settings "
                "starts anew in another output_dir."
            )

    def scalars(self) -> dict[str, float]:
        """How often the run was rescued."""
        return {"rescues": self.rescues}

    def state_dict(self) -> dict[str, Any]:
        """Rescues so far, the settings that they have left, and the healthy states."""
        return {"rescues": self.rescues, "settings": self._parts.settings(), "healthy": self._healthy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the settings of `state`, also in a run that is not to be rescued again."""
        self.rescues = state["rescues"]
        if self.rescues:
            self._parts.set(state["settings"])
        self._healthy.load_state_dict(state["healthy"])
