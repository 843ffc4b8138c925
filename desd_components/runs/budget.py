"""A budget of minutes: a training ends when they are over, with its schedules at their ends.

Ours. How many epochs fit is told by what the epochs so far took, after each of them; the schedules run towards the end
that is foreseen, so that a machine that slows down or speeds up meanwhile still ends them where they should end. What
was decided is part of a run's state.
"""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines.workflow import Workflow

from ..base.processes import from_all_processes
from ..base.steps import checked_minutes
from .ending import is_bundle_command
from .progress import spoken_time

logger = logging.getLogger(__name__)

RESERVE = 0.03  # of the minutes, for what comes after the last step: weights, state, the page


class BudgetHandler:
    """Set a trainer's `max_epochs` after each epoch to what the minutes have room for; the first of its handlers.

    A run of ``python -m monai.bundle`` counts from the start of its process, reading and preprocessing included, any
    other from the making of this handler. A run that goes on counts what it has taken before.

    Args:
        minutes: the budget; None leaves the trainer as it is.
        schedules: handlers whose ``schedule`` has `total_steps`, which follow.
        steps_per_epoch: optimiser steps of an epoch.
    """

    def __init__(self, minutes: float | None, schedules: Sequence[Any], steps_per_epoch: int) -> None:
        self.minutes = checked_minutes(minutes)
        self.schedules, self.steps_per_epoch = list(schedules), steps_per_epoch
        self.started = time.monotonic() - (process_age() if is_bundle_command(sys.argv) else 0.0)
        self.before = 0.0
        self.epochs: int | None = None
        self._after = 0.0  # the longest that what follows an epoch has taken: validation, weights, state

    def attach(self, engine: Workflow) -> None:
        """Serve a trainer."""
        if self.minutes is not None:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._foresee)
            engine.add_event_handler(Events.EPOCH_STARTED, self._look_back)

    @property
    def seconds(self) -> float:
        """That the run has taken so far."""
        return self.before + time.monotonic() - self.started

    def _begin(self, engine: Workflow) -> None:
        self._training_from, self._first = time.monotonic(), engine.state.iteration
        self._foreseen: float | None = None
        if self.epochs is not None:
            self._set(engine, self.epochs)

    def _look_back(self) -> None:
        if self._foreseen is not None:
            self._after = max(self._after, time.monotonic() - self._foreseen)

    def _foresee(self, engine: Workflow) -> None:
        assert self.minutes is not None
        self._foreseen = time.monotonic()
        done = engine.state.epoch
        share = max(1, engine.state.iteration - self._first) / engine.state.epoch_length  # less than 1 from within one
        epoch = (time.monotonic() - self._training_from) / share
        left = 60 * self.minutes * (1 - RESERVE) - self.seconds - self._after  # for the last epoch is validated, too
        epochs = from_all_processes([done + max(0, int(left / epoch + 0.5))])[0]
        if epochs != engine.state.max_epochs:
            told = "%s an epoch: %d epochs fit into the budget of %g minutes, not %d."
            logger.info(told, spoken_time(epoch), epochs, self.minutes, engine.state.max_epochs)
            self._set(engine, epochs)

    def _set(self, engine: Workflow, epochs: int) -> None:
        self.epochs = engine.state.max_epochs = epochs
        for handler in self.schedules:
            total = max(epochs * self.steps_per_epoch, handler.schedule.warmup_steps + 1)
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
