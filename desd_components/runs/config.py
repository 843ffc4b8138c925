"""Configs as data: laid over one another, walked, and asked for what they refer to and what they know.

Nothing here is evaluated; of what a config names, only the modules of targets are imported. A `Place` is the keys, and
numbers in lists, that lead to an item; ids join them by ``#``, as people write them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import pydoc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from monai.bundle import ConfigComponent, ConfigParser, ReferenceResolver

Handler = TypeVar("Handler")
Place = tuple[str, ...]
#: what `monai.bundle run` itself asks a config for
ENTRIES = ("imports", "initialize", "run", "training", "inference", "finalize")


def shared(handler: Handler) -> Handler:
    """The same handler: an entry of a handler list for one that other parts of a config refer to as well.

    MONAI reads ``_target_`` of each entry of ``train#handlers``, so none of them may be a mere reference.
    """
    return handler


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
