"""The whole state of a run, saved as one unit, and restored so that the run ends as if it had never stopped.

Random draws need no saving: each is a function of (seed, epoch, sample, view). What is saved are the objects that have
a `state_dict`, the place in the run, and the settings that must not change under a running schedule: MONAI's own
checkpoint loader restores `max_epochs` and lets schedules derived from it shift in silence.

A state is of the end of an epoch, after all that happens there, or of a place between two optimiser steps of an epoch.
Going on within an epoch fires that epoch's EPOCH_STARTED again, so that what it sets is set; its last batch and its
EPOCH_COMPLETED are always still to come, for at the last batch a state waits until the epoch has ended.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from .errors import UserError
from .statefile import DamagedState, StatePair, read_state
from .stopping import StopSignals
from .weights import given

logger = logging.getLogger(__name__)

PARTS = {"settings", "objects", "scaler", "epoch", "iteration", "epoch_length"}
EXTENSIONS = (None, "keep", "stretch")


class Stateful(Protocol):
    """Anything with a state of tensors, numbers and strings."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from a state."""


def state_to_resume(states: StatePair, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """What a run goes on from, and its path; None for a run that starts anew.

    Args:
        states: the run's own.
        resume: "auto" takes the run's own newest state where there is one; "never" none; else it is a path.

    Raises:
        UserError: when there is a state to go on from, but none that can be read.
    """
    if resume == "never" or (resume == "auto" and not states.exists()):
        return None
    path, state = states.read() if resume == "auto" else (Path(resume), _read_path(Path(resume)))
    if not isinstance(state, dict) or set(state) != PARTS:
        raise UserError(f"{path}: not the state of a run of this version. Give the state.pt of one, or resume: never.")
    return path, state


def _read_path(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such state. resume is auto, never, or the path of the state.pt of a run.")
    try:
        return read_state(path)
    except DamagedState as damage:
        raise UserError(f"{path}: {damage}. Give the state.pt of a run, or resume: never.") from damage


def scheduled_epochs(output_dir: str | Path, resume: str, extend: str | None, max_epochs: int) -> int:
    """The epochs that the schedules of a run are made for: `max_epochs`, unless a longer run keeps its first plan.

    A run that goes on with another `max_epochs` is refused, for its schedules would shift. `extend` says how it may:

    - "keep": the schedules run as first planned; in the added epochs they stay at their last values. Nothing changes at
      the seam.
    - "stretch": from the seam on, the schedules are those of the longer run: optimiser step s gets what a run of
      `max_epochs` epochs would have given it at s. Steps and optimiser state go on, what was learnt stays as it is,
      and learning rate and teacher momentum jump at the seam from the shorter curve to the longer one: at the end of
      a cosine, back up to its middle. Groups of parameters that were to rest for some steps rest no longer than first
      planned.

    Where there is no state to go on from, both mean a plain run of `max_epochs`.

    Raises:
        UserError: when `extend` is no such word, or `max_epochs` is fewer than the schedules were made for.
    """
    extend = _extension(extend)
    if extend != "keep":
        return max_epochs
    found = state_to_resume(StatePair(output_dir), str(resume))
    if found is None:
        return max_epochs
    path, state = found
    planned = int(state["settings"]["max_epochs"])
    if max_epochs < planned:
        raise UserError(f"{path}: extend adds epochs, but max_epochs={max_epochs} is fewer than the planned {planned}.")
    return planned


def _extension(extend: str | None) -> str | None:
    extend = given(extend)
    if extend not in EXTENSIONS:
        raise UserError(f"extend={extend!r}: choose null, keep or stretch.")
    return extend


class ResumeHandler:
    """Save the state of a run, go on from it when the run starts again, and stop when told to.

    It saves at the ends of epochs, within them when some minutes have passed, and after the current optimiser step on
    SIGTERM or SIGINT, which then end the run; see `stopping`. It must be the first of the handlers, for those that set
    something when a run starts must find what it restores. States within an epoch want a loader whose sampler is an
    `EpochSampler`; with any other, the run is saved, and stops, at ends of epochs only.

    Args:
        output_dir: the run's folder; the state lies there as ``state.pt``, the one before as ``state_previous.pt``.
        objects: name -> object with `state_dict` and `load_state_dict`: networks (never a wrapper for several
            processes), optimiser, loss, handlers. None stands for a part that this run has not.
        settings: name -> plain value: what must be the same in the run that goes on; "max_epochs" is what its
            schedules are made for.
        resume: "auto" goes on from the run's own state where there is one; "never" starts anew; a path goes on from
            that state.
        interval: epochs between two savings; the last epoch is always saved.
        minutes: the run is also saved, between two steps, when the last saving is so long ago; None: never.
        extend: None, "keep" or "stretch"; see `scheduled_epochs`.

    Raises:
        UserError: when the run starts: no state can be read, or settings differ; when it saves: the disk is full.
    """

    def __init__(
        self,
        output_dir: str | Path,
        objects: Mapping[str, Stateful | None],
        settings: Mapping[str, Any],
        resume: str = "auto",
        interval: int = 1,
        minutes: float | None = None,
        extend: str | None = None,
    ) -> None:
        self.states = StatePair(output_dir)
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}
        self.settings, self.resume, self.extend = dict(settings), str(resume), _extension(extend)
        self.interval, self.minutes = interval, given(minutes)
        self.signals = StopSignals()
        self._saved_at, self._stopped_by = time.monotonic(), 0

    def attach(self, engine: Workflow) -> None:
        """Restore when `engine` starts, before other handlers of that event act; save after its steps and epochs."""
        engine.add_event_handler(Events.STARTED, self._start)
        # the first of its event, for Ignite leaves out those after one that raises
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

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
        found = state_to_resume(self.states, self.resume)
        self._agree_on_place(-1 if found is None else found[1]["iteration"])
        if found is None:
            return
        path, state = found
        self._refuse_other_settings(path, state, engine)
        for name in self.objects:
            self._load(path, name, state["objects"][name])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        self._go_to(engine, state["epoch"], state["iteration"])
        logger.info("%s: going on %s.", path, self._place(engine))

    def _load(self, path: Path, name: str, state: Any) -> None:
        try:
            self.objects[name].load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:  # tensors of other names or shapes
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: its {name} does not fit this run ({reason}). Set the settings of the network back, or start "
                "anew with resume: never or another output_dir."
            ) from error

    def _agree_on_place(self, iteration: int) -> None:
        if idist.get_world_size() > 1 and idist.all_reduce(iteration, "MIN") != idist.all_reduce(iteration, "MAX"):
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

    def _refuse_other_settings(self, path: Path, state: Mapping[str, Any], engine: Workflow) -> None:
        before = {**state["settings"], "batches of an epoch": state["epoch_length"]}
        now = {**self.settings, "batches of an epoch": engine.state.epoch_length}
        differing = {name for name in {*before, *now} if before.get(name) != now.get(name)}
        is_longer = "max_epochs" in differing and now.get("max_epochs", 0) > before.get("max_epochs", 0)
        if is_longer and self.extend == "stretch":
            differing.remove("max_epochs")
        told = [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in sorted(differing)]
        absent = sorted(set(self.objects) ^ set(state["objects"]))
        if absent:
            told.append(f"saved and present parts differ in {', '.join(absent)}")
        if told:
            longer = " More epochs: extend: keep, or extend: stretch." if is_longer else ""
            raise UserError(
                f"{path}: cannot go on, for {'; '.join(told)}. Set them back, or start anew with resume: never or "
                f"another output_dir.{longer}"
            )

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
        self.states.write(
            {
                "settings": self.settings,
                "objects": {name: thing.state_dict() for name, thing in self.objects.items()},
                "scaler": scaler.state_dict() if scaler is not None else None,
                "epoch": engine.state.iteration // engine.state.epoch_length,
                "iteration": engine.state.iteration,
                "epoch_length": engine.state.epoch_length,
            }
        )

    def _end(self) -> None:
        if self._stopped_by:
            self.signals.answer(self._stopped_by)
        else:
            self.signals.restore()

    def _fail(self, error: BaseException) -> None:
        self.signals.restore()
        raise error
