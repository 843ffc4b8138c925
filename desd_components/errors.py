"""Errors for people: one line that says what was wrong, where, and what to do.

A config error travels through ``monai.bundle`` and arrives as some sixty lines that end in "Failed to evaluate
ConfigExpression". `plain_errors`, the first item of every ``initialize``, prints the innermost `UserError` instead.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something the user can mend; its message names the thing, the place and the remedy."""


def require_whole(least: int, **settings: Any) -> None:
    """Refuse settings that are not whole numbers of at least `least`.

    Raises:
        UserError: naming the first.
    """
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name}={value!r}: give a whole number of at least {least}.")


def innermost_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` that started a chain of re-raised exceptions, or None when there is none in it."""
    return next((each for each in reversed(list(chain_of(error))) if isinstance(each, UserError)), None)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or while handling, and so on; each once.

    A chain may close on itself, for anybody may raise an error from itself.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


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
    from .loading import loader_fault
    from .writing import disk_fault

    cause = innermost_user_error(error)
    return loader_fault(error) or disk_fault(error) if cause is None else plain_message(cause)


def plain_message(error: UserError) -> str:
    """Its message, without the trace that a `DataLoader` writes into an error of one of its worker processes."""
    text = str(error)
    _, in_worker, message = text.rpartition(f"{UserError.__name__}: ")
    return message.strip() if in_worker and "Original Traceback" in text else text


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
    from .command_line import refuse_unknown_settings

    print_user_errors()
    refuse_unknown_settings(sys.argv)


def print_user_errors() -> None:
    """The first half of `plain_errors`: in a bundle's own process, a `UserError` that ends it becomes one line."""
    from .command_line import is_bundle_command

    if is_bundle_command(sys.argv):
        sys.excepthook = _print_plainly
        threading.excepthook = _print_of_thread


def _print_of_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread that writes a file hands its error on to the run, which then ends with the same line."""
    if failure.exc_value is None or known_cause(failure.exc_value) is None:
        threading.__excepthook__(failure)
