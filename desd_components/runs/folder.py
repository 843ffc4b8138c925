"""The folder of a training: its log and records, its history, its states, and what a person sees meanwhile.

Everything that a training keeps is one component, so that a config says once where it lies, what belongs to its state,
and what must stay the same when the run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import nn

from ..base.manifests import licence_of, save_weights, write_weights
from ..base.version import __version__
from .history import RunRecordHandler
from .log import record_run, start_log
from .progress import ProgressHandler, let_output_be_tracked
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
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, let_output_be_tracked)
        engine.add_event_handler(Events.STARTED, self._attach_last)
        self.state.attach(engine)

    def _attach_last(self, engine: Workflow) -> None:
        # at the start, and so behind the other handlers of their events; Ignite fires those of this event, too
        if not self._attached:
            for handler in (self.record, ProgressHandler(self.label)):
                handler.attach(engine)
        self._attached = True


class SaveWeightsHandler:
    """Write a module's weights and manifest at the end of epochs; no run that ends well is without.

    With a metric, the best weights are part of its state: a run that goes on from that writes them to its own folder.
    While the metric is no number, those of the last epoch count as the best.

    Args:
        module: what is saved, e.g. the teacher's encoder.
        path: the weights file; its manifest lies beside it.
        manifest: what the manifest says, or a function that makes it when the weights are saved.
        metric: save only when this metric of the engine rises above its best so far; None saves every time.
        interval: epochs between two savings; the last epoch is always saved.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str | Path,
        manifest: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        metric: str | None = None,
        interval: int = 1,
    ) -> None:
        self.module, self.path, self.manifest = module, Path(path), manifest
        self.metric, self.interval = metric, interval
        self.best = -math.inf
        self._written: dict[str, Any] | None = None

    def attach(self, engine: Workflow) -> None:
        """Save at the end of an epoch of `engine`, a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        if self.metric is None:
            engine.add_event_handler(Events.COMPLETED, self._end)

    def __call__(self, engine: Workflow) -> None:
        """Save if it is time."""
        if idist.get_rank() == 0 and self._due(engine):
            self._save(engine)

    def _save(self, engine: Workflow) -> None:
        manifest = self.manifest() if callable(self.manifest) else self.manifest
        place = {"iteration": engine.state.iteration} if self.metric is None else {self.metric: self.best}
        self._written = save_weights(self.module, self.path, {**manifest, "epoch": engine.state.epoch, **place})
        if self.metric is not None:  # on a CPU they are the module's own, which goes on learning
            self._written["tensors"] = {name: tensor.clone() for name, tensor in self._written["tensors"].items()}

    def _end(self, engine: Workflow) -> None:
        if idist.get_rank() == 0 and self._written is None and not engine.should_terminate:  # nothing was left to do
            self._save(engine)

    def _due(self, engine: Workflow) -> bool:
        if self.metric is None:
            return engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs
        value, before = float(engine.state.metrics[self.metric]), self.best
        self.best = max(before, value)  # which stays where the value is NaN
        return value > before or before == -math.inf

    def state_dict(self) -> dict[str, Any]:
        """The best metric so far, and the weights that had it."""
        return {"best": self.best, "weights": None if self.metric is None else self._written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the best of `state`."""
        self.best, self._written = state["best"], state["weights"]
        if idist.get_rank() == 0 and self._written is not None:
            write_weights(self.path, **self._written)


def encoder_manifest(
    encoder: Any,
    preprocessing: Mapping[str, Any],
    view_size: Sequence[int],
    volumes: int,
    data_hash: str,
    config_hash: str | None = None,
    init_checkpoint: str | None = None,
) -> dict[str, Any]:
    """What ``encoder.json`` says beside ``encoder.pt``: enough to build the encoder and the way to its input again."""
    return {
        "kind": "encoder",
        "half": "teacher",
        "architecture": encoder.architecture,
        "preprocessing": dict(preprocessing),
        "view_size": list(view_size),
        "volumes": volumes,
        "data_hash": data_hash,
        "config_hash": config_hash,
        "desd_components": __version__,
        **licence_of(init_checkpoint),
    }
