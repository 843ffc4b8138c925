"""How a command ends: by an error in one line (what, where, what to do), or when told to, after its current step.

SIGTERM (pre-emption, SLURM, ``kill``) and SIGINT (Ctrl-C) are only noted while a trainer runs; `ResumeHandler` asks at
the end of each step, saves and ends the run. A bundle's command then exits with 128 + the signal's number, as shells
count: 143 for SIGTERM, 130 for SIGINT. In any other program the signal is delivered once more, to whoever handled it
before the run.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

import ignite.distributed as idist

from ..base.errors import innermost_user_error
from ..base.files import disk_fault
from ..scans.loading import loader_fault

logger = logging.getLogger(__name__)


def _print_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):  # before or after training, which answers it itself
        print("stopped by SIGINT; the same command starts again, and goes on where it saved a state.", file=sys.stderr)
        return
    message = known_cause(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
        return
    logger.debug("the whole trace of the error below", exc_info=(kind, error, trace))
    print(f"error: {message}", file=sys.stderr)


def known_cause(error: BaseException) -> str | None:
    """The line for what a user can mend; None when the error is of another kind."""
    cause = innermost_user_error(error)
    return loader_fault(error) or disk_fault(error) if cause is None else str(cause)


def ended_plainly(command: Callable[[], int]) -> int:
    """The exit code of `command`: 2 after an error that a user can mend, told in one line; 130 after Ctrl-C."""
    try:
        return command()
    except KeyboardInterrupt:
        print("stopped by SIGINT.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        message = known_cause(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2


def is_bundle_command(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of ``python -m monai.bundle run``."""
    program = arguments[0].replace("\\", "/") if arguments else ""
    return program.endswith("monai/bundle/__main__.py") and arguments[1:2] == ["run"]


def print_user_errors() -> None:
    """In a process that ``python -m monai.bundle`` started: print a `UserError` that ends it as one line.

    The whole trace goes to the log at level DEBUG. A program that merely loads a bundle keeps its own way with errors.
    """
    if is_bundle_command(sys.argv):
        sys.excepthook = _print_plainly
        threading.excepthook = _print_of_thread


def _print_of_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread that writes a file hands its error on to the run, which then ends with the same line."""
    if failure.exc_value is None or known_cause(failure.exc_value) is None:
        threading.__excepthook__(failure)


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
