"""The weights of a run, written while it goes on, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn

from ..base.manifests import save_weights
from ..base.version import __version__


class SaveWeightsHandler:
    """Write a module's weights and manifest at the end of epochs.

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

    def attach(self, engine: Workflow) -> None:
        """Save at the end of an epoch of `engine`, a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Save if it is time."""
        if idist.get_rank() == 0 and self._due(engine):
            manifest = self.manifest() if callable(self.manifest) else self.manifest
            progress: dict[str, Any] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
            if self.metric is not None:
                progress = {"epoch": engine.state.epoch, self.metric: self.best}
            save_weights(self.module, self.path, {**manifest, **progress})

    def _due(self, engine: Workflow) -> bool:
        if self.metric is None:
            return engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs
        value = float(engine.state.metrics[self.metric])
        if not value > self.best:
            return False
        self.best = value
        return True

    def state_dict(self) -> dict[str, float]:
        """The best metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from the best of `state`."""
        self.best = state["best"]


def encoder_manifest(
    encoder: Any,
    preprocessing: Mapping[str, Any],
    view_size: Sequence[int],
    volumes: int,
    data_hash: str,
    config_hash: str | None = None,
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
    }
