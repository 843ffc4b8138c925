"""Make a trainer's output readable by `--tracking mlflow` without decollating it.

MONAI's default tracking settings read the loss with ``from_engine(["loss"], first=True)``. That takes a loss out of a
list of samples, but of a plain dict, as a trainer with ``decollate: false`` leaves, it makes a tuple, on which MLflow
fails. Decollating instead would copy views and crops that nobody reads.
"""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents


class StepOutput(list):
    """A list of one dict that also answers to the dict's keys: ``output["loss"]`` is ``output[0]["loss"]``."""

    def __getitem__(self, key: Any) -> Any:
        """The value of a key, or the item of a place."""
        return super().__getitem__(0)[key] if isinstance(key, str) else super().__getitem__(key)


class TrackableOutputHandler:
    """Wrap the output of each of a trainer's iterations, which was not decollated, into a `StepOutput`."""

    def attach(self, engine: Engine) -> None:
        """Wrap at the end of every iteration, before the handlers that log."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Wrap the output at hand."""
        if isinstance(engine.state.output, dict):
            engine.state.output = StepOutput([engine.state.output])
