"""What a run does when its monitor's alarm sounds: go on with a warning, or stop where it can be resumed.

Ours. Stopping saves the state as a signal does (see `stopping`), between two optimiser steps or at the end of an epoch,
and then ends the run with a `UserError`, so that a bundle's command exits with 1.
"""

from __future__ import annotations

import ignite.distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow

from .errors import UserError
from .monitor import DistillationMonitor
from .nonfinite import ends_step

ACTIONS = ("warn", "stop")


class CollapseHandler:
    """End a run whose monitor has raised an alarm, on all processes together.

    It must come after the monitor in a trainer's handlers.

    Args:
        monitor: whose alarms count.
        on_collapse: "warn" leaves it at the monitor's warning; "stop" saves the state and ends the run.

    Raises:
        UserError: when built, for another word; when the run ends, if an alarm ended it.
    """

    def __init__(self, monitor: DistillationMonitor, on_collapse: str = "warn") -> None:
        if on_collapse not in ACTIONS:
            raise UserError(f"on_collapse={on_collapse!r}: choose one of {list(ACTIONS)}.")
        self.monitor, self.on_collapse = monitor, on_collapse
        self._stopped = ""

    def attach(self, engine: Workflow) -> None:
        """Look after each of the monitor's looks, where a state can be saved."""
        if self.on_collapse == "stop":
            # now, and so before the handlers of a `ResumeHandler`, which saves the state of a run that is to end
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop_if_sounding)
            engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Workflow) -> None:
        self._stopped = ""
        if not engine.has_event_handler(self._end, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._end)  # only now, and so after all others, for it raises

    def _after_step(self, engine: Workflow) -> None:
        last_of_epoch = engine.state.iteration % engine.state.epoch_length == 0  # EPOCH_COMPLETED is still to come
        if self.monitor.due(engine) and ends_step(engine) and not last_of_epoch:
            self._stop_if_sounding(engine)

    def _stop_if_sounding(self, engine: Workflow) -> None:
        messages = list(self.monitor.sounding.values())
        sounding = bool(messages)
        if idist.get_world_size() > 1:  # each process watches its own volumes
            sounding = bool(idist.all_reduce(int(sounding), "MAX"))
        if sounding:
            self._stopped = messages[0] if messages else "another process has raised an alarm; see its log."
            engine.terminate()

    def _end(self, engine: Workflow) -> None:
        if self._stopped:
            raise UserError(
                f"Stopped after {engine.state.iteration} iterations by on_collapse: stop. {self._stopped} The state is "
                "saved: on_collapse: warn goes on from it; a run with other settings starts anew in another output_dir."
            )
