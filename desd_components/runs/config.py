"""Configs as data: laid over one another, walked, and asked for what they refer to, what they know, and what it may be.

Nothing here is evaluated; of what a config names, only the modules of targets are imported. A `Place` is the keys, and
numbers in lists, that lead to an item; ids join them by ``#``, as people write them.
"""

import difflib
import functools
import inspect
import os
import pydoc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, EnumType
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np
import torch
from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver
from monai.inferers import Inferer

from ..base.errors import UserError, none_if_null

Handler = TypeVar("Handler")
Place = tuple[str, ...]
#: what `monai.bundle run` itself asks a config for
ENTRIES = ("imports", "initialize", "run", "training", "inference", "finalize")


def shared(handler: Handler) -> Handler:
    """The same handler: an entry of a handler list for one that other parts of a config refer to as well.

    MONAI reads ``_target_`` of each entry of ``train#handlers``, so none of them may be a mere reference.
    """
    return handler


def plain(value: Any) -> Any:
    """`value` as a config file says it, where one can: what programs hand over is not always text, a number or a list.

    Paths and devices become text, arrays and tuples lists, a dtype the expression for it; an entry of a mapping that is
    the text null, as a command line hands it over, becomes None.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): none_if_null(plain(part)) for key, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(part) for part in value]
    if isinstance(value, torch.dtype):
        return f"${value}"
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return str(value) if isinstance(value, str | torch.device) else value


def is_plain(value: Any) -> bool:
    """Whether a config file can say `value`, and says it just so."""
    return all(type(part) in (dict, list, str, int, float, bool, NoneType) for _, part in walk({"": value}))


def merged(files: Sequence[str | Path]) -> ConfigParser:
    """The config that files make when each is laid over those before."""
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    return parser


def content(parser: ConfigParser) -> dict[str, Any]:
    """The items of a config, without the metadata that MONAI adds."""
    return {key: value for key, value in parser.get().items() if key != "_meta_"}


def place_of(name: str) -> Place:
    """The place that an id or a reference leads to, whichever of MONAI's signs separates its parts."""
    return tuple(ReferenceResolver.normalize_id(name).split("::"))


def id_of(place: Place) -> str:
    """The id of a place: ``train#handlers#0#interval``."""
    return "#".join(place)


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """Key or number, and value, of what a mapping or a list holds; nothing for other values."""
    if isinstance(value, Mapping):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def walk(
    config: Any, place: Place = (), enters: Callable[[Place, Any], bool] = lambda *_: True
) -> Iterator[tuple[Place, Any]]:
    """Every item below `config` with its place, the outer ones first; into those that `enters` says."""
    if place:
        yield place, config
    if enters(place, config):
        for key, value in parts_of(config):
            yield from walk(value, (*place, str(key)), enters)


def references(value: Any) -> list[Place]:
    """What one item refers to, by ``@`` or ``%``; the items below it are not looked at."""
    if not isinstance(value, str):
        return []
    text = ReferenceResolver.normalize_id(value)
    return [place_of(name) for name in (*ReferenceResolver.match_refs_pattern(text), *re.findall(r"^%([\w:]+)", text))]


def all_references(config: Any) -> set[Place]:
    """What the items of a config refer to."""
    return {name for _, value in walk(config) for name in references(value)}


@functools.cache  # MONAI searches all its modules for a bare name
def located(target: str) -> Any:
    """What a target, as configs name it, stands for; None when there is no such thing."""
    try:
        return pydoc.locate(str(ConfigComponent({"_target_": target}).resolve_module_name()))
    except (ImportError, pydoc.ErrorDuringImport):
        return None


def accepts(target: str, argument: str) -> bool:
    """Whether the callable named `target`, as configs name it, takes `argument`."""
    function = located(target)
    if not callable(function):
        return True  # an expression, or something that fails later with its own words
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def is_known(parser: ConfigParser, name: str) -> bool:
    """Whether `name` is an id of the config, or an argument that its parent's target accepts."""
    name = ReferenceResolver.normalize_id(name)
    return name in parser or is_argument(parser, name)


def is_argument(parser: ConfigParser, name: str) -> bool:
    """Whether `name` is an argument that its parent's target accepts."""
    name = ReferenceResolver.normalize_id(name)
    parent, _, leaf = name.rpartition("::")
    target = parser[parent] if parent and parent in parser else None
    return isinstance(target, Mapping) and "_target_" in target and accepts(str(target["_target_"]), leaf)


def unknown_setting(parser: ConfigParser, name: str, dashes: str = "--") -> str:
    """The message: what is not known, and what may have been meant."""
    items = walk(parser.get(), enters=lambda _, value: isinstance(value, Mapping))
    wanted = id_of(place_of(name))
    near = difflib.get_close_matches(wanted, sorted(id_of(place) for place, _ in items), n=1, cutoff=0.5)
    hint = f" Did you mean {dashes}{near[0]}?" if near else ""
    told = f"{dashes}{name.replace('::', '#')}"
    where = "Settings stand at the top of the config file, or where they are used."
    return f"{told}: the config has no such setting.{hint} {where}"


class Rule(NamedTuple):
    """What a setting may be: whether a value is that, and how it is called, which may take a look at the machine."""

    holds: Callable[[Any], bool]
    words: str | Callable[[], str]


def is_number(value: Any) -> bool:
    """Whether it is one; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int) -> Rule:
    return Rule(
        lambda value: is_number(value) and float(value).is_integer() and value >= least,
        f"a whole number of at least {least}",
    )


def _between(low: float, high: float = float("inf")) -> Rule:
    words = f"a number from {low:g} to {high:g}" if high < float("inf") else f"a number of at least {low:g}"
    return Rule(lambda value: is_number(value) and low <= value <= high, words)


def _list(count: int, entry: Rule) -> Rule:
    return Rule(
        lambda value: isinstance(value, list | tuple) and len(value) == count and all(map(entry.holds, value)),
        f"a list of {count}, each {entry.words}",
    )


def _or_null(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.words}, or null")


def _is_device(value: Any) -> bool:
    """Whether PyTorch can put a number there, and get it back."""
    try:
        torch.zeros(1, device=value).item()
    except Exception:  # each kind of device has its own
        return False
    return isinstance(value, str)  # MONAI's engines take no numbers


def _devices() -> str:
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    more = [] if here is None else [f"{here.type}:{number}" for number in range(torch.accelerator.device_count())]
    return f"a device that PyTorch {torch.__version__} finds here: {', '.join(['cpu', *more])}"


_SIZE, _WINDOW = _list(3, _whole(1)), _list(2, _between(-float("inf")))
_AXES = Rule(lambda value: isinstance(value, list) and all(axis in (0, 1, 2) for axis in value), "a list of 0, 1, 2")
_INCREASING = Rule(lambda value: _WINDOW.holds(value) and value[0] < value[1], "[low, high] in HU")
_PATH = Rule(lambda value: isinstance(value, str), "a path, one that looks like a number as ./2024")
FOLDERS = ("bundle_root", "dataset_dir", "output_dir", "cache_dir")
PATHS = (*FOLDERS, "data_split", "unlabelled_dir", "resume", "init_checkpoint", "encoder_checkpoint", "checkpoint")
DEVICES = ("device", "stitch_device")
RULES: dict[str, Rule] = {
    **dict.fromkeys(PATHS, _or_null(_PATH)),
    **dict.fromkeys(FOLDERS, _PATH),
    **dict.fromkeys(DEVICES, Rule(_is_device, _devices)),
    **dict.fromkeys(("num_workers", "seed", "frozen_prototype_epochs", "warmup_steps"), _whole(0)),
    **dict.fromkeys(("batch_size", "sw_batch_size"), _whole(1)),
    "amp": Rule(lambda value: value in (True, False, "true", "True"), "True or False"),
    **dict.fromkeys(("flip_axes", "test_flip_axes"), _AXES),
    "val_fraction": _between(0, 1),
    "rotation": _list(3, _between(0)),
    "single": Rule(
        lambda value: isinstance(value, list) and all(map(_whole(1).holds, value)), "a list of classes, from 1 on"
    ),
    **dict.fromkeys(("num_labels", "patience", "val_interval", "samples_per_epoch"), _or_null(_whole(1))),
    **dict.fromkeys(("trim_wider_than", "slab_depth", "slab_stride"), _or_null(_whole(1))),
    **dict.fromkeys(("learning_rate", "final_learning_rate", "weight_decay"), _between(0)),
    "augmentation_probability": _between(0, 1),
    "save_minutes": _or_null(_between(0)),
    "overlap": _between(0, 0.99),
    "roi_size": _or_null(_SIZE),
    "hu_window": _or_null(_INCREASING),
}


def _choices(target: str) -> dict[str, Rule]:
    """The arguments of one of MONAI's inferers that are words of a list; other components take more than they list."""
    inferer = located(target) if target.endswith("Inferer") else None
    if not (isinstance(inferer, type) and issubclass(inferer, Inferer)):
        return {}
    hints = get_type_hints(inferer.__init__)
    kinds: dict[str, Any] = {
        name: kind for name, hint in hints.items() for kind in get_args(hint) if isinstance(kind, EnumType)
    }
    words = {name: [word.value for word in kind] for name, kind in kinds.items()}
    return {name: Rule(known.__contains__, f"one of {known}") for name, known in words.items()}


def refuse_odd_values(settings: Mapping[str, Any]) -> None:
    """Check the settings of a config for which there is a rule, at the top or where they are used.

    Expressions and references are passed over.

    Args:
        settings: name -> value, as the configs and the command line say.

    Raises:
        UserError: naming the first that is odd, and what it may be.
    """
    choices: dict[Place, Rule] = {}
    for place, value in walk(settings):
        if isinstance(value, Mapping) and "_target_" in value:
            target = str(value["_target_"])
            if target[:1] not in ("$", "@", "%") and located(target) is None:
                raise UserError(f"{id_of(place)}: there is no {target} here: mend its name, or install its package.")
            choices |= {(*place, name): rule for name, rule in _choices(target).items()}
        rule, value = choices.get(place) or RULES.get(place_of(place[-1])[-1]), none_if_null(value)
        if rule is None or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
            continue
        if not rule.holds(value):
            words = rule.words() if callable(rule.words) else rule.words
            raise UserError(f"{id_of(place)}: {value!r} is not possible: give {words}.")
