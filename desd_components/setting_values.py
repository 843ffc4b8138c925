"""Refuse values of settings that mean nothing, before anything is read or trained, with the setting's name.

Here stand values on which PyTorch, MONAI or Fire would stumble later in words of their own, or not at all: a folder
``2024`` is a number to Fire. What a component of this package refuses itself has no rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .errors import UserError
from .weights import given


class Rule(NamedTuple):
    """What a setting may be: whether a value is that, and how it is called."""

    holds: Callable[[Any], bool]
    words: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int) -> Rule:
    return Rule(
        lambda value: _is_number(value) and float(value).is_integer() and value >= least,
        f"a whole number of at least {least}",
    )


def _between(low: float, high: float = float("inf")) -> Rule:
    words = f"a number from {low:g} to {high:g}" if high < float("inf") else f"a number of at least {low:g}"
    return Rule(lambda value: _is_number(value) and low <= value <= high, words)


def _list(count: int, entry: Rule) -> Rule:
    return Rule(
        lambda value: isinstance(value, list | tuple) and len(value) == count and all(map(entry.holds, value)),
        f"a list of {count}, each {entry.words}",
    )


def _or_null(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.words}, or null")


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return True


_SIZE, _WINDOW = _list(3, _whole(1)), _list(2, _between(-float("inf")))
_INCREASING = Rule(lambda value: _WINDOW.holds(value) and value[0] < value[1], "[low, high] in HU")
_DTYPES = ("bfloat16", "float16", "float32")
_PATH = Rule(lambda value: isinstance(value, str | None), "a path, one that looks like a number as ./2024")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("bundle_root", "dataset_dir", "output_dir", "cache_dir", "data_split"), _PATH),
    **dict.fromkeys(("init_checkpoint", "encoder_checkpoint", "checkpoint"), _PATH),
    **dict.fromkeys(("num_workers", "seed", "val_volumes", "frozen_prototype_epochs"), _whole(0)),
    **dict.fromkeys(("val_interval", "patience", "sw_batch_size", "samples_per_epoch"), _whole(1)),
    "teacher_temperature_epochs": _whole(1),
    "trim_wider_than": _or_null(_whole(1)),
    **dict.fromkeys(("learning_rate", "end_learning_rate", "final_learning_rate", "weight_decay"), _between(0)),
    "augmentation_probability": _between(0, 1),
    "save_minutes": _or_null(_between(0)),
    "overlap": _between(0, 0.99),
    "roi_size": _or_null(_SIZE),
    "hu_window": _or_null(_INCREASING),
    "amp_dtype": Rule(lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}"),
    "device": Rule(_is_device, "a device of PyTorch's, such as cpu or cuda:0"),
}


def refuse_odd_values(settings: Mapping[str, Any]) -> None:
    """Check the settings of a config for which there is a rule; expressions and references are passed over.

    Args:
        settings: name -> value, as the configs and the command line say.

    Raises:
        UserError: naming the first that is odd, and what it may be.
    """
    for name, rule in RULES.items():
        value = given(settings.get(name))
        if name not in settings or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
            continue
        if not rule.holds(value):
            raise UserError(f"{name}: {value!r} means nothing: give {rule.words}.")
