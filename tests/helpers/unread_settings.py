"""Whether a config lies: every setting is to be read by something, every argument to be one that its target takes.

`monai.bundle` ignores what nothing refers to, so a misspelt knob looks like one that does nothing. Used is what the run
reads, the expressions of ``run``, ``initialize`` and ``finalize``, and what MONAI's programs look up, such as
``train#preprocessing``; whatever these refer to, and so on. Nothing is evaluated or imported but the targets' modules;
what a function does with an argument, only a run shows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from desd_components.runs.config import ENTRIES, Place, accepts, content, located, merged, place_of, references, walk

#: read by programs: the properties that MONAI's workflows look up by name, in an evaluation's config, too
ASKED_FOR = {place_of(str(told[BundlePropertyConfig.ID])) for told in (TrainProperties | InferProperties).values()}
#: of a component, read by MONAI itself
COMPONENT_KEYS = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_")


def config_faults(files: Sequence[str | Path]) -> list[str]:
    """What is wrong with a config, one line for each fault, beginning with the dotted place of the item.

    Args:
        files: laid over one another in this order. A last file that replaces ``run`` uses what it needs of those before
            it, so only its own items have to be used; otherwise those of all files have to be.
    """
    items = dict(walk(_read(files)))
    own = _judged(files)
    dead = [place for place in _dead(items, used_items(items)) if any(_overlap(place, key) for key in own)]
    faults = [f"{dotted(place)}: nothing uses it" for place in dead]
    return sorted([*faults, *_dangling(items), *_refused_arguments(items)])


def _read(files: Sequence[str | Path]) -> dict[str, Any]:
    parser = merged(files)
    parser.resolve_macro_and_relative_ids()
    return content(parser)


def _judged(files: Sequence[str | Path]) -> set[Place]:
    """The items, as the files name them, that have to be used."""
    read = [ConfigParser.load_config_file(str(file)) for file in files]
    return {place_of(str(key).removeprefix("+")) for one in (read[-1:] if "run" in read[-1] else read) for key in one}


def _overlap(one: Place, other: Place) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def used_items(items: dict[Place, Any]) -> set[Place]:
    """The paths of all items that a run reads, as far as the references tell."""
    below: dict[Place, list[Place]] = {}
    for place in items:
        for length in range(1, len(place) + 1):
            below.setdefault(place[:length], []).append(place)
    waiting: list[Place] = [*((name,) for name in ENTRIES), *ASKED_FOR]
    used: set[Place] = set()
    while waiting:
        for place in below.get(waiting.pop(), []):
            if place not in used:
                used.add(place)
                waiting += references(items[place])
    return used


def _dead(items: dict[Place, Any], used: set[Place]) -> list[Place]:
    """Unused leaves; of a component or list that is unused as a whole, only the outermost item."""
    alive = {place[:length] for place in used for length in range(1, len(place) + 1)}
    return [place for place in items if place not in alive and (len(place) == 1 or place[:-1] in alive)]


def _dangling(items: dict[Place, Any]) -> Iterator[str]:
    for place, value in items.items():
        for name in references(value):
            if name not in items and not _within_value(items, name):
                yield f"{dotted(place)}: refers to {dotted(name)!r}, which does not exist"


def _within_value(items: dict[Place, Any], name: Place) -> bool:
    """Whether a reference leads into what an expression evaluates to."""
    outer = next((name[:n] for n in range(len(name) - 1, 0, -1) if name[:n] in items), None)
    value = items.get(outer) if outer else None
    return isinstance(value, str) and value.startswith(("$", "@"))


def _refused_arguments(items: dict[Place, Any]) -> Iterator[str]:
    for place, value in items.items():
        target = str(value["_target_"]) if isinstance(value, dict) and "_target_" in value else None
        if target is None or target.startswith("$"):
            continue
        if not callable(located(target)):
            yield f"{dotted(place)}: its target {target} does not exist"
            continue
        for argument in map(str, value):
            if argument not in COMPONENT_KEYS and not accepts(target, argument):
                yield f"{dotted((*place, argument))}: {target} takes no such argument"


def dotted(place: Place) -> str:
    """A place for people: ``train.handlers.0.interval``."""
    return ".".join(place)
