"""When a training validates, and a budget of minutes: it ends when they are over, with its schedules at their ends.

Ours. How many epochs fit is told by what the steps so far took, after the first few and after each epoch; the
schedules run towards the end that is foreseen, so that a machine that slows down or speeds up meanwhile still ends them
where they should end. An epoch of which too little fits, as on a machine that others use, is cut short. The validation
at the end has its time kept free, a tenth of the minutes at most. What was decided is part of a run's state.
"""

import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator, SupervisedEvaluator
from monai.engines.workflow import Workflow
from monai.networks import eval_mode

from ..base.processes import from_all_processes
from ..base.steps import checked_minutes
from .ending import is_bundle_command
from .progress import WATCHED, spoken_time

logger = logging.getLogger(__name__)

RESERVE = 0.03  # of the minutes, for what comes after the last step: weights, state, the page
VALIDATION = 0.1  # of the minutes, that a validation takes at most
SAID = 0.1  # by how much the number of epochs differs from the last that was said, to be said again
LOOKS = 16  # times an epoch, that it is looked whether the rest of it fits
LATE = 0.05  # of the minutes, by which an epoch may end later than they do


class ValidationHandler:
    """Validate every few epochs, as MONAI's does, and after the last: what a run leaves has a score.

    Args:
        validator: the evaluator.
        interval: epochs between two validations; None: after the last alone.
    """

    def __init__(self, validator: Evaluator, interval: int | None) -> None:
        self.validator, self.interval = validator, interval

    def attach(self, engine: Workflow) -> None:
        """Serve a trainer, whose last epoch may change while it runs."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Validate if it is time."""
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs or (self.interval and epoch % self.interval == 0):
            self.validator.run(epoch)


class BudgetHandler:
    """Set a trainer's `max_epochs`, early and after each epoch, to what the minutes have room for.

    It is the first of the trainer's handlers.

    A run of ``python -m monai.bundle`` counts from the start of its process, reading and preprocessing included, any
    other from the making of this handler. A run that goes on counts what it has taken before.

    Args:
        minutes: the budget; None leaves the trainer as it is.
        schedules: handlers whose ``schedule`` has `total_steps`, which follow.
        steps_per_epoch: optimiser steps of an epoch.
        validator: what validates after the last epoch, if anything does; where that takes more than `VALIDATION` of
            the minutes, it validates fewer scans.
    """

    def __init__(
        self,
        minutes: float | None,
        schedules: Sequence[Any],
        steps_per_epoch: int,
        validator: SupervisedEvaluator | None = None,
    ) -> None:
        self.minutes = checked_minutes(minutes)
        self._budget = 60 * (self.minutes or 0)  # seconds
        self.schedules, self.steps_per_epoch, self.validator = list(schedules), steps_per_epoch, validator
        self.started = time.monotonic() - (process_age() if is_bundle_command(sys.argv) else 0.0)
        self.before = 0.0
        self.epochs: int | None = None
        self._said = 0
        self._after = 0.0  # the longest that what follows an epoch has taken: validation, weights, state

    def attach(self, engine: Workflow) -> None:
        """Serve a trainer."""
        if self.minutes is not None:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._look_ahead)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
            engine.add_event_handler(Events.EPOCH_STARTED, self._look_back)

    @property
    def seconds(self) -> float:
        """That the run has taken so far."""
        return self.before + time.monotonic() - self.started

    def _begin(self, engine: Workflow) -> None:
        if self.validator is not None:
            self._after = self._fitted(self.validator)
        self._training_from, self._first = time.monotonic(), engine.state.iteration
        self._ended: float | None = None
        if self.epochs is not None:
            self._set(engine, self.epochs)

    def _fitted(self, validator: SupervisedEvaluator) -> float:
        """Seconds that a validation will take, told by the first of its scans, and by then no more scans than fit."""
        scans: Any = validator.data_loader
        began = time.monotonic()
        with torch.no_grad(), eval_mode(validator.network):
            validator.inferer(scans.dataset[0]["image"][None].to(validator.state.device), validator.network)
        each = max(from_all_processes([time.monotonic() - began]))
        fit = min(len(scans), max(1, int(VALIDATION * self._budget / each)))
        if fit < len(scans):
            told = "validation: %d of %d scans, for all of them would take more than a tenth of the minutes."
            logger.info(told, fit, len(scans))
        validator.state.epoch_length = fit
        return fit * each

    def _look_back(self) -> None:
        if self._ended is not None:
            self._after = max(self._after, time.monotonic() - self._ended)

    def _look_ahead(self, engine: Workflow) -> None:
        """Within an epoch that ends too late: let it be the last, with the schedules, and cut it when time is over."""
        state, every = engine.state, -(-engine.state.epoch_length // LOOKS)
        if state.iteration - self._first == WATCHED:  # before that is said how long the rest will take
            self._foresee(engine)
        rest = state.epoch * state.epoch_length - state.iteration
        if rest == 0 or rest % every:
            return
        fit, step = min(from_all_processes([self._left(engine)]))
        if (rest - fit) * step > LATE * self._budget:
            whole = (state.iteration + fit) / state.epoch_length
            self._set(engine, whole)
            if fit < every / 2:
                told = "the budget of %g minutes ends after %d steps, within epoch %d: on a machine in use, give more."
                logger.warning(told, self.minutes, round(whole * self.steps_per_epoch), state.epoch)
                engine.terminate_epoch()

    def _left(self, engine: Workflow) -> tuple[float, float]:
        """Batches that fit into what is left of the minutes, for the last epoch is validated, too; seconds of each."""
        step = (time.monotonic() - self._training_from) / max(1, engine.state.iteration - self._first)
        left = self._budget * (1 - RESERVE) - self.seconds - self._after
        return max(0.0, left) / step, step

    def _end_epoch(self, engine: Workflow) -> None:
        self._ended = time.monotonic()
        if not engine.should_terminate_single_epoch:  # it was not cut
            self._foresee(engine)

    def _foresee(self, engine: Workflow) -> None:
        fit, step = self._left(engine)
        epoch = step * engine.state.epoch_length
        whole = (engine.state.iteration + fit) / engine.state.epoch_length
        epochs = from_all_processes([max(engine.state.epoch, int(whole + 0.5))])[0]
        if abs(epochs - self._said) > SAID * self._said:
            logger.info("%s an epoch: %d fit into the budget of %g minutes.", spoken_time(epoch), epochs, self.minutes)
            self._said = epochs
        self._set(engine, epochs)

    def _set(self, engine: Workflow, epochs: float) -> None:
        """Let the run end after so many epochs; of the last that is a part, where it is cut."""
        self.epochs = engine.state.max_epochs = math.ceil(epochs)
        for handler in self.schedules:
            # a warm-up of so many steps does not shrink with the run
            total = max(round(epochs * self.steps_per_epoch), getattr(handler.schedule, "warmup_steps", 0) + 1)
            handler.schedule = dataclasses.replace(handler.schedule, total_steps=total)

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, and the epochs that were decided on; without a budget nothing counts them."""
        return {"seconds": 0.0 if self.minutes is None else self.seconds, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has taken."""
        self.before, self.epochs = state["seconds"], state["epochs"]


def process_age() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
