"""What must be the same in a run that goes on: every entry of its config, but for those that are named as free.

A list of the settings to compare would miss new ones, so every setting is compared unless the config's
``state#settings#may_differ`` names it as one that changes no step of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .record import calling_parser, resolved_config
from .weights import given

#: what `--tracking mlflow` puts into a config
TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")


def run_settings(may_differ: Sequence[str], **facts: Any) -> dict[str, Any]:
    """Id -> value of all that decides the steps of the run whose config is being evaluated, for a `ResumeHandler`.

    Args:
        may_differ: ids of entries that do not count, with all that is below them; ``train#dataloader``, say.
        facts: what entries that do not count lead to, under names of their own: a hash of the data for its folder.
            They stand in the place of entries of the same name.

    Returns:
        Plain values. Expressions and references count as they are written; lists of components are taken apart.
    """
    parser = calling_parser()
    config = {} if parser is None else resolved_config(parser)
    free = {name.replace("::", "#") for name in (*may_differ, *TRACKING, *facts)}  # MONAI's parser rewrites ids
    return {**dict(_entries(config, free)), **{name: _plain(value) for name, value in facts.items()}}


def _entries(value: Any, free: set[str], name: str = "") -> Iterator[tuple[str, Any]]:
    """The id and the value of each entry below `value` that holds no others, but for those in `free`."""
    if name in free:
        return
    parts: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        parts = enumerate(value)
    else:
        yield name, _plain(value)
        return
    for key, part in parts:
        yield from _entries(part, free, f"{name}#{key}" if name else str(key))


def _plain(value: Any) -> Any:
    """`value` as a state can hold it, and as YAML and the command line say the same: lists, None, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return given(value if isinstance(value, bool | int | float | None) else str(value))
