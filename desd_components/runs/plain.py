"""How an error reaches a person: one line (what, where, what to do), in our commands and in those of MONAI bundles."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from ..base.errors import innermost_user_error, plain_message

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
    from ..base.files import disk_fault
    from ..scans.loading import loader_fault

    cause = innermost_user_error(error)
    return loader_fault(error) or disk_fault(error) if cause is None else plain_message(cause)


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


def plain_errors() -> None:
    """In a process that ``python -m monai.bundle`` started: print a `UserError` that ends it as one line.

    The whole trace goes to the log at level DEBUG. The command line is compared with the configs, too; see
    `refuse_unknown_settings`. A program that merely loads a bundle keeps its own way with errors.
    """
    from .command import refuse_unknown_settings

    print_user_errors()
    refuse_unknown_settings(sys.argv)


def print_user_errors() -> None:
    """The first half of `plain_errors`: in a bundle's own process, a `UserError` that ends it becomes one line."""
    from .command import is_bundle_command

    if is_bundle_command(sys.argv):
        sys.excepthook = _print_plainly
        threading.excepthook = _print_of_thread


def _print_of_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread that writes a file hands its error on to the run, which then ends with the same line."""
    if failure.exc_value is None or known_cause(failure.exc_value) is None:
        threading.__excepthook__(failure)
