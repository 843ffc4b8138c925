"""Stopping when told to: SIGTERM (pre-emption, SLURM, ``kill``) and SIGINT (Ctrl-C) end a run after its current step.

While a trainer runs, a signal is only noted; `ResumeHandler` asks at the end of each step, saves and ends the run. A
bundle's command then exits with 128 + the signal's number, as shells count: 143 for SIGTERM, 130 for SIGINT. In any
other program the signal is delivered once more, to whoever handled it before the run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import ignite.distributed as idist

from .command import is_bundle_command

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_answered: int | None = None  # the signal that ended a run of this process


class StopSignals:
    """Note SIGTERM and SIGINT instead of dying of them, from `listen` to `restore`.

    A second signal changes nothing: ``torchrun`` hands on the Ctrl-C that its processes got already.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take the signals over; outside of the main thread Python allows none of that, and they stay as they are."""
        self.noted, self._process = 0, os.getpid()
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self) -> int:
        """The signal that any of the processes has noted, the same answer on all of them; 0 for none.

        Every process must ask at the same step.
        """
        if idist.get_world_size() == 1:
            return self.noted
        return int(idist.all_reduce(self.noted, "MAX"))

    def answer(self, number: int) -> None:
        """Give the signals back after a run that `number` has ended, and pass it on."""
        global _answered
        self.restore()
        if is_bundle_command(sys.argv):
            _answered = number
        else:
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._note_in_worker(number)
        self.noted = self.noted or number

    def _note_in_worker(self, number: int) -> None:
        # A loader's worker inherits these handlers. SLURM and Ctrl-C signal it along with its parent, whose last step
        # still needs it: the first signal is let pass; the next is the parent's, to a worker that hangs.
        if self.noted:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def was_stopped() -> bool:
    """Whether a signal ended the run of a bundle's command."""
    return _answered is not None


def exit_if_stopped() -> None:
    """Leave a bundle's command with 128 + the number of the signal that ended its run; otherwise do nothing."""
    if _answered is not None:
        sys.exit(128 + _answered)
