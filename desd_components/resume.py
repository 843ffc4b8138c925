"""The whole state of a run, written as one unit at the end of each epoch, and restored.

Random draws need no saving: each is a function of (seed, epoch, sample, view). What is saved are the objects that have
a `state_dict`, the place in the run, and the settings that must not change under a running schedule: MONAI's own
checkpoint loader restores `max_epochs` and lets schedules derived from it shift in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from .errors import UserError
from .tensorfiles import load_tensors
from .weights import save_tensors

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything with a state of tensors, numbers and strings."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from a state."""


class ResumeHandler:
    """Save the state of a run after every epoch, and go on from it when the run starts again.

    Args:
        output_dir: the run's folder; the state lies there as ``state.pt``, the one before as ``state_previous.pt``.
        objects: name -> object with `state_dict` and `load_state_dict`: networks (never a wrapper for several
            processes), optimiser, loss, handlers.
        settings: name -> plain value: what must be the same in the run that goes on.
        resume: "auto" goes on from the run's own state where there is one; "never" starts anew; a path goes on from
            that state.
        interval: epochs between two savings; the last epoch is always saved.
    """

    def __init__(
        self,
        output_dir: str | Path,
        objects: Mapping[str, Stateful],
        settings: Mapping[str, Any],
        resume: str = "auto",
        interval: int = 1,
    ) -> None:
        self.path = Path(output_dir) / "state.pt"
        self.objects, self.settings, self.resume, self.interval = objects, dict(settings), str(resume), interval

    def attach(self, engine: Workflow) -> None:
        """Restore when `engine` starts, before other handlers of that event act; save after its epochs."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Workflow) -> None:
        if not engine.has_event_handler(self._save, Events.EPOCH_COMPLETED):
            # only now, so that it comes after all others of that event, a validation's best model among them
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        if engine.state.iteration == 0:  # a trainer that goes on, as in federated rounds, holds weights newer than ours
            self._restore(engine)

    def _source(self) -> Path | None:
        if self.resume == "never":
            return None
        if self.resume == "auto":
            return self.path if self.path.is_file() else None
        return Path(self.resume)

    def _restore(self, engine: Workflow) -> None:
        source = self._source()
        if source is None:
            return
        state = load_tensors(source)
        self._refuse_other_settings(source, state)
        for name, thing in self.objects.items():
            thing.load_state_dict(state["objects"][name])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        logger.info("%s: going on after epoch %d (%d iterations).", source, state["epoch"], state["iteration"])

    def _refuse_other_settings(self, source: Path, state: Any) -> None:
        if not isinstance(state, dict) or set(state) != {"settings", "objects", "scaler", "epoch", "iteration"}:
            raise UserError(f"{source}: not the state of a run. Give the state.pt of one, or resume: never.")
        differing = [
            f"{name} was {state['settings'].get(name)!r}, now {self.settings.get(name)!r}"
            for name in sorted({*state["settings"], *self.settings})
            if state["settings"].get(name) != self.settings.get(name)
        ]
        absent = sorted(set(self.objects) ^ set(state["objects"]))
        if absent:
            differing.append(f"saved and present parts differ in {', '.join(absent)}")
        if differing:
            raise UserError(
                f"{source}: cannot go on, for {'; '.join(differing)}. Set them back, or start anew with resume: never "
                "or another output_dir."
            )

    def _save(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        if idist.get_rank() != 0 or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        scaler = getattr(engine, "scaler", None)
        state = {
            "settings": self.settings,
            "objects": {name: thing.state_dict() for name, thing in self.objects.items()},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "epoch": epoch,
            "iteration": engine.state.iteration,
        }
        if self.path.is_file():
            self.path.replace(self.path.with_name("state_previous.pt"))
        save_tensors(self.path, state)
