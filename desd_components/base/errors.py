"""Errors for people: one line that says what was wrong, where, and what to do.

A config error travels through ``monai.bundle`` and arrives as some sixty lines that end in "Failed to evaluate
ConfigExpression". `plain_errors`, the first item of every ``initialize``, prints the innermost `UserError` instead.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from monai.utils import optional_import

Triple = tuple[int, int, int]


class UserError(ValueError):
    """Something the user can mend; its message names the thing, the place and the remedy."""

    def __str__(self) -> str:
        """The message, without the trace that a `DataLoader` writes into an error of one of its worker processes."""
        text = super().__str__()
        _, in_worker, message = text.rpartition(f"{type(self).__name__}: ")
        return message.strip() if in_worker and "Original Traceback" in text else text


def require_whole(least: int, **settings: Any) -> None:
    """Refuse settings that are not whole numbers of at least `least`.

    Raises:
        UserError: naming the first.
    """
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name}={value!r}: give a whole number of at least {least}.")


def require_share(**settings: Any) -> None:
    """Refuse settings that are no shares.

    Raises:
        UserError: naming the first.
    """
    for name, value in settings.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(f"{name}={value!r}: give a number from 0 to 1.")


def require_triple(name: str, value: int | Sequence[int], odd: bool = False) -> Triple:
    """A stride or kernel as (x, y, z), given as one number or three.

    Raises:
        UserError: when a number is not positive, or none that keeps a kernel's centre where `odd` is asked.
    """
    values = (value,) * 3 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != 3 or min(values) < 1:
        raise UserError(f"{name}: {value!r} is not one positive number, nor three in (x, y, z).")
    if odd and any(side % 2 == 0 for side in values):
        raise UserError(f"{name}: {value!r} must be odd, so that the map keeps its centre.")
    return values


class MissingPackage(UserError):
    """An optional package, or an optional part of this one, is not there."""


def optional_module(module: str, missing: str) -> Any:
    """A module that not everybody has, of another package or of this one, looked for when something asks for it.

    Args:
        module: its full name.
        missing: what needs it, and what to do where it is not there.

    Raises:
        MissingPackage: when it is not there.
    """
    found, is_there = optional_import(module)
    if not is_there:
        raise MissingPackage(missing)
    return found


def left_out(extra: str) -> str:
    """In a message: the remedy for a part of this package that a packed bundle has left out, and for its `extra`."""
    whole = f'install the whole package, with `pip install ".[{extra}]"` in its repository'
    return f"which this copy of the package came without: {whole}"


def require_one_of(choices: Collection[Any], **settings: Any) -> None:
    """Refuse settings that are not among the choices.

    Raises:
        UserError: naming the first.
    """
    for name, value in settings.items():
        if value not in choices:
            raise UserError(f"{name}={value!r}: choose one of {list(choices)}.")


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


def one_line(error: BaseException) -> str:
    """The innermost cause of an error, shortened."""
    *_, error = chain_of(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]


def none_if_null(setting: Any) -> Any:
    """`setting`, or None for the words null and None, as which a command line hands over ``--name null``."""
    return None if setting in ("null", "None") else setting
