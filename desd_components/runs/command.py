"""Refuse settings that no config knows: `monai.bundle run` takes a mistyped one in silence and ignores it.

So are keys of overlays that none of the configs before it has and nothing refers to, words in the place of numbers, and
values that mean nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fire
import torch
from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle import run as bundle_run

from ..base.errors import UserError, none_if_null
from .config import ENTRIES, all_references, id_of, is_argument, is_known, merged, place_of, unknown_setting, walk

_FLAG = re.compile(r"-[A-Za-z]|--.")
#: taken from the command line by `--tracking mlflow`, not by the config
TRACKING_SETTINGS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "output_dir")


def given_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """``--name value``, ``--name=value`` and ``--flag`` of a command line, values read as Fire reads them.

    One dash does as well as two for Fire.
    """
    found: dict[str, Any] = {}
    words = list(arguments)
    for place, word in enumerate(words):
        if not _FLAG.match(word):
            continue
        name, has_value, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not has_value:
            following = words[place + 1] if place + 1 < len(words) else "--"
            value = "True" if following == "--" or _FLAG.match(following) else following
        found[name] = fire.parser.DefaultParseValue(value)
    return found


def is_bundle_command(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of ``python -m monai.bundle run``."""
    program = arguments[0].replace("\\", "/") if arguments else ""
    return program.endswith("monai/bundle/__main__.py") and arguments[1:2] == ["run"]


def refuse_unknown_settings(arguments: Sequence[str]) -> None:
    """Check the command line of a bundle's run; any other is none of our business.

    Raises:
        UserError: naming the first setting that no config has, and the nearest one that exists; or one that is a word
            where the config has a number, or a value that means nothing.
    """
    if not is_bundle_command(arguments):
        return
    given = given_settings(arguments[2:])
    own = set(inspect.signature(bundle_run).parameters) - {"override"}
    if isinstance(given.get("args_file"), str):
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    allowed = own | (set(TRACKING_SETTINGS) if given.get("tracking") else set())
    if "config_file" not in given:
        return
    files = given["config_file"]
    files = files.split(",") if isinstance(files, str) else list(files)
    parser = merged(files)
    for name, value in given.items():
        if name not in allowed and not is_known(parser, name):
            raise UserError(unknown_setting(parser, name))
        if name not in allowed:
            _refuse_mere_word(parser, f"--{name}", name, value)
    refuse_unknown_keys(files)
    refuse_odd_values({**parser.get(), **given})


def _refuse_mere_word(parser: ConfigParser, told: str, name: str, value: Any) -> None:
    name = ReferenceResolver.normalize_id(name)
    before = parser.get(name, None)
    if not isinstance(value, str) or value[:1] in ("$", "@", "%"):
        return
    if isinstance(before, bool) and value not in ("true", "True"):  # any word would count as true
        raise UserError(
            f"{told} {value}: True or False stands there in the config ({before}): give one, as written here."
        )
    if isinstance(before, int | float) and not isinstance(before, bool) and none_if_null(value) is not None:
        raise UserError(f"{told} {value}: a number stands there in the config ({before}): give one.")


def refuse_unknown_keys(files: Sequence[str]) -> None:
    """Check the keys of overlays: each is in a config before it, or is referred to.

    Args:
        files: of configs, each laid over those before it.

    Raises:
        UserError: naming the file, the key, and the nearest one that exists.
    """
    stages = [merged(files[: count + 1]) for count in range(len(files))]
    referred = [all_references(stage.get()) for stage in stages]
    for count, file in enumerate(files[1:], start=1):
        before, after, overlay = stages[count - 1], stages[count], ConfigParser.load_config_file(file)
        for name, value in overlay.items():
            _refuse_mere_word(before, f"{file}: {name}:", name, value)
        for name in _added(overlay, before):
            if is_argument(after, name):  # of another target, which the overlay itself names
                continue
            # by itself or a later overlay, which may take away again what refers to it
            later = {(entry,) for entry in (*ENTRIES, "_meta_")}.union(*referred[count:])
            place = place_of(name)
            if not any(other[: len(place)] == place for other in later):
                raise UserError(f"{file}: {unknown_setting(before, name, dashes='')}")


def _added(overlay: Mapping[str, Any], before: ConfigParser, prefix: str = "") -> Iterator[str]:
    """The ids that an overlay adds to the config before it; a component brings arguments of its own."""
    for key, value in overlay.items():
        name = prefix + ReferenceResolver.normalize_id(str(key).removeprefix("+"))
        if not is_known(before, name):
            yield from () if _is_one_of_many(name, value, before) else (name,)
        elif _is_section(value) and _is_section(before[name]) and not name.endswith("kwargs"):
            yield from _added(value, before, f"{name}::")


def _is_one_of_many(name: str, value: Any, before: ConfigParser) -> bool:
    """Whether an id stands among others of its kind: a further metric, or a further part of the run."""
    parent = name.rpartition("::")[0]
    is_component = isinstance(value, Mapping) or str(value).startswith("@")
    return is_component and bool(parent) and _is_section(before.get(parent))


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" not in value


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
_PATH = Rule(lambda value: isinstance(value, str | None), "a path, one that looks like a number as ./2024")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("bundle_root", "dataset_dir", "output_dir", "cache_dir", "data_split"), _PATH),
    **dict.fromkeys(("init_checkpoint", "encoder_checkpoint", "checkpoint"), _PATH),
    **dict.fromkeys(("num_workers", "seed", "frozen_prototype_epochs"), _whole(0)),
    **dict.fromkeys(("val_interval", "patience", "sw_batch_size"), _whole(1)),
    **dict.fromkeys(("samples_per_epoch", "trim_wider_than", "slab_depth", "slab_stride"), _or_null(_whole(1))),
    **dict.fromkeys(("learning_rate", "final_learning_rate", "weight_decay"), _between(0)),
    "augmentation_probability": _between(0, 1),
    "save_minutes": _or_null(_between(0)),
    "overlap": _between(0, 0.99),
    "roi_size": _or_null(_SIZE),
    "hu_window": _or_null(_INCREASING),
    "device": Rule(_is_device, "a device of PyTorch's, such as cpu or cuda:0"),
}


def refuse_odd_values(settings: Mapping[str, Any]) -> None:
    """Check the settings of a config for which there is a rule, at the top or where they are used.

    Expressions and references are passed over.

    Args:
        settings: name -> value, as the configs and the command line say.

    Raises:
        UserError: naming the first that is odd, and what it may be.
    """
    for place, value in walk(settings):
        rule, value = RULES.get(place_of(place[-1])[-1]), none_if_null(value)
        if rule is None or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
            continue
        if not rule.holds(value):
            raise UserError(f"{id_of(place)}: {value!r} means nothing: give {rule.words}.")
