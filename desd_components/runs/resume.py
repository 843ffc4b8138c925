"""The whole state of a run, saved as one unit, and restored so that the run ends as if it had never stopped.

Random draws need no saving: each is a function of (seed, epoch, sample, view). What is saved are the objects that have
a `state_dict`, the place in the run, and the settings that must not change under a running schedule: MONAI's own
checkpoint loader restores `max_epochs` and lets schedules derived from it shift in silence.

A state is of the end of an epoch, after all that happens there, or of a place between two optimiser steps of an epoch.
Going on within an epoch fires that epoch's EPOCH_STARTED again, so that what it sets is set; its last batch and its
EPOCH_COMPLETED are always still to come, for at the last batch a state waits until the epoch has ended.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from ..base.errors import UserError, require_one_of, require_whole
from .ending import StopSignals
from .same_run import EXTENSIONS, misfit, refuse_other_run
from .state import FORMAT, StatePair, state_to_resume

logger = logging.getLogger(__name__)


class ResumeHandler:
    """Save the state of a run, go on from it when the run starts again, and stop when told to.

    It saves at the ends of epochs, within them when some minutes have passed, and after the current optimiser step on
    SIGTERM or SIGINT, which then end the run; see `stopping`. It must be the first of the handlers, for those that set
    something when a run starts must find what it restores. States within an epoch want a loader whose sampler is an
    `EpochSampler`; with any other, the run is saved, and stops, at ends of epochs only.

    Args:
        output_dir: the run's folder; the state lies there as ``state.pt``, the one before as ``state_previous.pt``.
        objects: name -> object with `state_dict` and `load_state_dict`, of tensors, numbers and strings: networks
            (never a wrapper for several processes), optimiser, loss, handlers. None stands for a part that this run
            has not.
        settings: name -> plain value: what must be the same in the run that goes on (see `run_settings`);
            "max_epochs" is what its schedules are made for.
        resume: "auto" goes on from the run's own state where there is one; "never" starts anew; a path goes on from
            that state.
        interval: epochs between two savings; the last epoch is always saved.
        minutes: the run is also saved, between two steps, when the last saving is so long ago; None: never.
        extend: None, "keep" or "stretch"; see `scheduled_epochs`.

    Raises:
        UserError: when the run starts: no state can be read, or settings differ; while it trains, or when it ends:
            the disk is full.
    """

    def __init__(
        self,
        output_dir: str | Path,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any],
        resume: str = "auto",
        interval: int = 1,
        minutes: float | None = None,
        extend: str | None = None,
    ) -> None:
        self.states = StatePair(output_dir)
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}
        self.settings, self.resume, self.extend = dict(settings), str(resume), extend
        require_one_of(EXTENSIONS, extend=extend)
        require_whole(1, save_interval=interval)
        self.interval, self.minutes = interval, minutes
        self.signals = StopSignals()
        self._found: tuple[Path, dict[str, Any]] | None = None
        self._saved_at, self._stopped_by = time.monotonic(), 0

    def attach(self, engine: Workflow) -> None:
        """Restore when `engine` starts, before other handlers of that event act; save after its steps and epochs."""
        engine.add_event_handler(Events.STARTED, self._start)
        # the first of its event, for Ignite leaves out those after one that raises
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def refuse_misfit(self, epoch_length: int) -> None:
        """Refuse a state that the run cannot go on from; the same is looked at again when it starts, and then restored.

        A run that asks before it writes anything leaves the folder as it was when it is refused.

        Args:
            epoch_length: batches of an epoch.

        Raises:
            UserError: when settings, or tensors, differ from those of the state, or it cannot be read.
        """
        self._found = self._found or state_to_resume(self.states, self.resume)
        if self._found is not None:
            now = {**self.settings, "batches of an epoch": epoch_length}
            refuse_other_run(*self._found, now, self.objects, self.extend)

    def _start(self, engine: Workflow) -> None:
        if not engine.has_event_handler(self._after_epoch, Events.EPOCH_COMPLETED):
            # only now, so that they come after all others of their event, a validation's best model among them
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
            engine.add_event_handler(Events.COMPLETED, self._end)
        if engine.state.iteration == 0:  # a trainer that goes on, as in federated rounds, holds weights newer than ours
            self._restore(engine)
        self._saved_at, self._stopped_by = time.monotonic(), 0
        self.signals.listen()

    def _restore(self, engine: Workflow) -> None:
        self.refuse_misfit(engine.state.epoch_length)
        found, self._found = self._found, None
        self._agree_on_place(-1 if found is None else found[1]["iteration"])
        if found is None:
            return
        path, state = found
        for name, thing in self.objects.items():
            try:
                thing.load_state_dict(state["objects"][name])
            except (RuntimeError, ValueError, KeyError) as error:  # of an optimiser, say, whose groups are others
                raise misfit(path, name, " ".join(str(error).split())[:200]) from error
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        self._go_to(engine, state["epoch"], state["iteration"])
        logger.info("%s: going on %s.", path, self._place(engine))

    def _agree_on_place(self, iteration: int) -> None:
        if idist.all_reduce(iteration, "MIN") != idist.all_reduce(iteration, "MAX"):
            raise UserError(
                f"{self.states.newest}: not all processes find the same state there. Give an output_dir that all "
                "machines share."
            )

    def _go_to(self, engine: Workflow, epoch: int, iteration: int) -> None:
        """Let Ignite go on after `iteration`: it counts the epoch up itself, and its batches from that place."""
        engine.state.epoch, engine.state.iteration = epoch, iteration
        engine._init_iter = None  # an engine that was stopped and runs again would count its batches from 0
        seen = iteration - epoch * engine.state.epoch_length
        if seen:
            skip = self._skip_of(engine)
            if skip is None:
                raise UserError("A state within an epoch needs a loader with an EpochSampler. Give resume: never.")
            skip(seen)

    @staticmethod
    def _skip_of(engine: Workflow) -> Callable[[int], None] | None:
        return getattr(getattr(engine.data_loader, "sampler", None), "skip", None)

    @staticmethod
    def _place(engine: Workflow) -> str:
        iteration, length = engine.state.iteration, engine.state.epoch_length
        epochs, seen = divmod(iteration, length)
        if seen:
            return f"in epoch {epochs + 1} after {seen} of its {length} batches ({iteration} iterations)"
        return f"after epoch {epochs} ({iteration} iterations)"

    def _after_step(self, engine: Workflow) -> None:
        seen = engine.state.iteration % engine.state.epoch_length
        # at the last batch, the epoch's end decides; gradients that wait for their optimiser step are not saved
        if seen and seen % getattr(engine, "accumulation_steps", 1) == 0 and self._skip_of(engine) is not None:
            self._pause(engine, self._is_late())

    def _after_epoch(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        self._pause(engine, epoch % self.interval == 0 or epoch == engine.state.max_epochs or self._is_late())

    def _is_late(self) -> bool:
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes

    def _pause(self, engine: Workflow, is_due: bool) -> None:
        self.states.finish(wait=False)
        self._stopped_by = self.signals.agreed()
        if is_due or self._stopped_by or engine.should_terminate:
            self._save(engine)
        if self._stopped_by:
            name = signal.Signals(self._stopped_by).name
            logger.warning(
                "%s: stopped by %s %s; the same command goes on there.", self.states.newest, name, self._place(engine)
            )
            engine.terminate()

    def _save(self, engine: Workflow) -> None:
        self._saved_at = time.monotonic()
        if idist.get_rank() != 0:
            return
        scaler = getattr(engine, "scaler", None)
        self.states.begin(
            {
                "format": FORMAT,
                "settings": self.settings,
                "objects": {name: thing.state_dict() for name, thing in self.objects.items()},
                "scaler": scaler.state_dict() if scaler is not None else None,
                "epoch": engine.state.iteration // engine.state.epoch_length,
                "iteration": engine.state.iteration,
                "epoch_length": engine.state.epoch_length,
            }
        )

    def _end(self) -> None:
        self.states.finish()
        if self._stopped_by:
            self.signals.answer(self._stopped_by)
        else:
            self.signals.restore()

    def _fail(self, error: BaseException) -> None:
        self.signals.restore()
        with contextlib.suppress(UserError):  # the error that ended the run is the one to tell
            self.states.finish()
        raise error
