"""The folder of a training: its log and records, its history, its states, and what a person sees meanwhile.

Everything that a training keeps is one component, so that a config says once where it lies, what belongs to its state,
and what must stay the same when the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines.workflow import Workflow

from .history import RunRecordHandler
from .log import record_run, start_log
from .progress import ProgressHandler, TimeEstimateHandler, TrackableOutputHandler
from .resume import ResumeHandler
from .same_run import run_settings


class RunFolder:
    """What a training keeps in its folder, as one handler: the first of a trainer's, for it restores a state.

    Figures are recorded, and states saved, after all that the other handlers do at the same event.

    Args:
        output_dir: the run's folder.
        parts: name -> part of the run: networks (never a wrapper for several processes), optimiser, loss, handlers.
            Those with `state_dict` make the state, those with `scalars` the history; None stands for a part that this
            run has not.
        facts: what must be the same in a run that goes on, beside its config; see `run_settings`.
        may_differ: entries of the config that may differ then, beside those of `same_run.MAY_DIFFER`.
        resume, extend, save_interval, save_minutes: see `ResumeHandler`.
        record_interval: iterations between two records of the history.
        label: what the run does, for its progress bar.

    Raises:
        UserError: when a setting is none.
    """

    def __init__(
        self,
        output_dir: str | Path,
        parts: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        may_differ: Sequence[str] = (),
        resume: str = "auto",
        extend: str | None = None,
        save_interval: int = 1,
        save_minutes: float | None = 10,
        record_interval: int = 10,
        label: str = "train",
    ) -> None:
        self.output_dir, self.label = output_dir, label
        sources = [part for part in parts.values() if hasattr(part, "scalars")]
        self.record = RunRecordHandler(output_dir, sources, record_interval)
        objects = {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
        settings = run_settings(may_differ, **(facts or {}))
        states = {**objects, "record": self.record}
        self.state = ResumeHandler(output_dir, states, settings, resume, save_interval, save_minutes, extend)
        self._attached = False

    def open(self, device: Any, data: Mapping[str, Any], epoch_length: int) -> None:
        """Start the log, refuse a state that does not fit, and only then write down what is about to run.

        Args:
            device: as chosen, for the record.
            data: section -> scans.
            epoch_length: batches of an epoch.

        Raises:
            UserError: when the folder cannot be written to, or the run cannot go on from its state.
        """
        start_log(self.output_dir)
        self.state.refuse_misfit(epoch_length)  # before anything in the folder is replaced
        record_run(self.output_dir, device, dict(data))

    def attach(self, engine: Workflow) -> None:
        """Serve a trainer."""
        TrackableOutputHandler().attach(engine)
        engine.add_event_handler(Events.STARTED, self._attach_last)
        self.state.attach(engine)

    def _attach_last(self, engine: Workflow) -> None:
        # at the start, and so behind the other handlers of their events; Ignite fires those of this event, too
        if not self._attached:
            for handler in (self.record, TimeEstimateHandler(), ProgressHandler(self.label)):
                handler.attach(engine)
        self._attached = True
