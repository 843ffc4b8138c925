"""What a person sees while a run goes on: how long it will take, a bar, a line for each epoch."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys

logger = logging.getLogger(__name__)


WATCHED, SLOW = 20, 5  # iterations that an estimate looks at, and the first of them, which it leaves out


def spoken_time(seconds: float) -> str:
    """A duration for people: "0.45 s", "45 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


class TerminalProgress:
    """A progress bar with speed and time left of the epoch, on a terminal and on the first process only.

    Args:
        label: what the bar stands for.
        output_transform: the engine's output -> what stands beside the bar; None for nothing.
    """

    def __init__(self, label: str, output_transform: Any = None) -> None:
        self.label, self.output_transform = label, output_transform

    def attach(self, engine: Engine) -> None:
        """Show the bar of each epoch of `engine`."""
        if idist.get_rank() == 0 and sys.stderr.isatty():
            from ignite.handlers import ProgressBar  # late: it wants tqdm

            ProgressBar(desc=self.label, bar_format=None).attach(engine, output_transform=self.output_transform)


class ProgressHandler:
    """How far a run is: a bar for each epoch on a terminal, a line for each epoch, and soon how long it will take.

    On the first process only.

    Args:
        label: what the run does.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._first, self._started = 0, 0.0

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer, from where it starts in this process."""
        if idist.get_rank() != 0:
            return
        TerminalProgress(self.label, lambda output: {"loss": output[CommonKeys.LOSS].item()}).attach(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._estimate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._line)

    def _start(self, engine: Workflow) -> None:
        self._first = engine.state.iteration

    def _estimate(self, engine: Workflow) -> None:
        done = engine.state.iteration - self._first
        if done == SLOW:
            self._started = time.monotonic()
        elif done == WATCHED:
            seconds = (time.monotonic() - self._started) / (WATCHED - SLOW)
            left = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
            logger.info("%.2f s a step: about %s to go.", seconds, spoken_time(seconds * left))

    def _line(self, engine: Workflow) -> None:
        loss = engine.state.output[CommonKeys.LOSS].item()
        logger.info("%s: epoch %d of %d, loss %.4f", self.label, engine.state.epoch, engine.state.max_epochs, loss)


class StepOutput(list):
    """A list of one dict that also answers to the dict's keys: ``output["loss"]`` is ``output[0]["loss"]``."""

    def __getitem__(self, key: Any) -> Any:
        """The value of a key, or the item of a place."""
        return super().__getitem__(0)[key] if isinstance(key, str) else super().__getitem__(key)


def let_output_be_tracked(engine: Engine) -> None:
    """Make a `StepOutput` of what a trainer's iteration gave, which was not decollated, before handlers log it."""
    if isinstance(engine.state.output, dict):
        engine.state.output = StepOutput([engine.state.output])
