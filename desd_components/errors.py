"""Errors for people: one line that says what was wrong, where, and what to do.

A config error travels through ``monai.bundle`` and arrives as some sixty lines that end in "Failed to evaluate
ConfigExpression". `plain_errors`, the first item of every ``initialize``, prints the innermost `UserError` instead.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something the user can mend; its message names the thing, the place and the remedy."""


def innermost_user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` that started a chain of re-raised exceptions, or None when there is none in it."""
    found = None
    while error is not None:
        if isinstance(error, UserError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _print_plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = innermost_user_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
        return
    logger.debug("the whole trace of the error below", exc_info=(kind, error, trace))
    print(f"error: {cause}", file=sys.stderr)


def plain_errors() -> None:
    """Print a `UserError` that ends the process as one line; the trace goes to the log at level DEBUG.

    Then compare the command line with the configs: see `refuse_unknown_settings`.
    """
    from .command_line import refuse_unknown_settings

    sys.excepthook = _print_plainly
    refuse_unknown_settings(sys.argv)
