"""Refuse values of settings that mean nothing, before anything is read or trained, with the setting's name.

What only the component behind a setting can judge, it refuses itself. Here stand values on which PyTorch or MONAI
would stumble later, in words of their own, or not at all.
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
_FLAG = Rule(lambda value: isinstance(value, bool) or value in ("true", "True"), "True or False")

RULES: dict[str, Rule] = {
    **dict.fromkeys(("num_workers", "seed", "val_volumes", "warmup_epochs", "frozen_prototype_epochs"), _whole(0)),
    **dict.fromkeys(("val_interval", "record_interval", "save_interval", "batch_size", "sw_batch_size"), _whole(1)),
    **dict.fromkeys(
        ("accumulation_steps", "in_channels", "samples_per_volume", "samples_per_epoch"), _or_null(_whole(1))
    ),
    **dict.fromkeys(("teacher_temperature_epochs", "patience", "max_skipped_steps", "decoder_width"), _whole(1)),
    **dict.fromkeys(("slab_depth", "slab_stride", "trim_wider_than", "num_labels"), _or_null(_whole(1))),
    **dict.fromkeys(("learning_rate", "end_learning_rate", "final_learning_rate", "weight_decay"), _between(0)),
    **dict.fromkeys(("val_fraction", "augmentation_probability", "layer_decay"), _between(0, 1)),
    "save_minutes": _or_null(_between(0)),
    "overlap": _between(0, 0.99),
    "view_size": _SIZE,
    "roi_size": _or_null(_SIZE),
    "hu_window": _or_null(_INCREASING),
    "amp": _FLAG,
    "amp_dtype": Rule(lambda value: value in ("bfloat16", "float16", "float32"), "bfloat16, float16 or float32"),
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
