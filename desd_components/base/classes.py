"""Classes of a segmentation: their names, the label values that each covers, and the value that stands for "unknown".

As nnU-Net's ``dataset.json`` has them (Isensee et al., Nature Methods 2021): a class may be a region of several label
values, and voxels of the value called ``ignore`` were not annotated: they are neither learnt nor scored.
"""

import ast
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .errors import UserError

logger = logging.getLogger(__name__)

IGNORE = -32768  # what a preprocessed label holds where its voxels were not annotated, whatever value the file has
Regions = bool | Sequence[Sequence[int]] | None  # label values of each class from 1 on; a bool: its own alone
_HIGHEST = 10_000  # label value


@dataclass(frozen=True)
class Classes:
    """What a data set says of its labels.

    Attributes:
        names: of the classes, background first; by label value where there are no regions.
        regions: label values that each class but the background covers; False: its own alone.
        ignore: the label value of voxels that were not annotated; None where all were.
    """

    names: list[str]
    regions: bool | list[list[int]] = False
    ignore: int | None = None


def classes_of(labels: Any, source: str = "class_names", order: Any = None) -> Classes:
    """Classes from what people and ``dataset.json`` write.

    Args:
        labels: a list or a comma-separated string of names, with or without ``background`` in front; a dictionary
            ``{"0": "background", ...}`` or ``{"background": 0, "whole": [1, 2], ...}``; or the number of classes beside
            the background. The name ``ignore`` is no class.
        source: named in the error.
        order: ``regions_class_order``: the label value that each region leaves in a label map.

    Raises:
        UserError: when it is none of these, names are not distinct or mean something else here, or values are odd.
    """
    labels = _as_python(labels) if isinstance(labels, str) else labels
    if isinstance(labels, dict):
        pairs = _pairs(labels, source)
    elif isinstance(labels, int) and not isinstance(labels, bool) and labels > 0:
        pairs = [(f"class_{value}", [value]) for value in range(1, labels + 1)]
    else:
        names = labels.split(",") if isinstance(labels, str) and labels.strip()[:1] not in ("[", "{") else labels
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{source} is {labels!r}: give a list such as \"['liver','tumour']\".")
        names = [name.strip() for name in names]
        start = 0 if names and names[0].lower() == "background" else 1
        pairs = [(name, [value]) for value, name in enumerate(names, start)]
    ignored = [values for name, values in pairs if name.lower() == "ignore"]
    if any(len(values) != 1 for values in ignored):
        raise UserError(f"{source}: `ignore` is {ignored[0]}: give it one label value.")
    for name, values in pairs:
        if values == [0] and name.lower() not in ("background", "ignore"):
            logger.warning("%s: label value 0 is the background here, and not a class called %r", source, name)
    pairs = [(name, values) for name, values in pairs if name.lower() != "ignore" and values != [0]]
    if any(not 0 < value <= _HIGHEST for _, values in pairs for value in values):
        raise _unknown_form(labels, source)
    regions: bool | list[list[int]] = False
    if any(len(values) > 1 for _, values in pairs):
        names, regions = [name for name, _ in pairs], _ordered([values for _, values in pairs], order, source)
    else:
        by_value = {values[0]: name for name, values in pairs}
        names = [by_value.get(value, f"class_{value}") for value in range(1, max(by_value, default=0) + 1)]
    classes = Classes(["background", *names], regions, ignored[0][0] if ignored else None)
    _refuse_odd(classes, source)
    return classes


def _as_python(text: str) -> Any:
    """The list, tuple or dictionary that a text writes down as Python does; else the text."""
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return found if isinstance(found, list | tuple | dict) else text


def ignored_value(labels: Any) -> int | None:
    """The label value of `ignore`, whatever the other names are; None without one."""
    named = labels.items() if isinstance(labels, dict) else enumerate(labels) if isinstance(labels, list) else ()
    found = [_values(value) for pair in named for name, value in (pair, pair[::-1]) if str(name).lower() == "ignore"]
    return next((values[0] for values in found if values), None)


def _pairs(labels: Mapping[Any, Any], source: str) -> list[tuple[str, list[int]]]:
    """Names with their label values, from a dictionary that has either as its keys."""
    for pairs in ([(name, value) for value, name in labels.items()], list(labels.items())):
        texts = [("" if name is None else name, value) for name, value in pairs if not isinstance(name, list | dict)]
        read = [(str(name).strip(), _values(value)) for name, value in texts]
        found = [(name, values) for name, values in read if values]
        singles = [values[0] for _, values in found if len(values) == 1]
        if found and len(found) == len(labels) and len(set(singles)) == len(singles):
            return found
    raise _unknown_form(labels, source)


def _unknown_form(labels: Any, source: str) -> UserError:
    return UserError(
        f'{source}: the labels {labels} are not of the form {{"0": "background", "1": "liver"}}: mend them, or '
        "name the classes with `--class_names \"['liver','tumour']\"`."
    )


def _values(written: Any) -> list[int] | None:
    """Label values from a whole number, as text or not, or from a list of them; None where it is neither."""
    values = written if isinstance(written, list | tuple) else [written]
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    odd = any(isinstance(value, bool) for value in values) or any(number % 1 for number in numbers)
    return None if odd else sorted({int(number) for number in numbers})


def _ordered(regions: list[list[int]], order: Any, source: str) -> list[list[int]]:
    """The regions, each with the label value in front that `order` has it leave in a label map."""
    if order is None:
        return regions
    fits = isinstance(order, list) and len(order) == len(regions)
    if not fits or not all(value in own for value, own in zip(order, _uncovered(regions), strict=True)):
        raise UserError(
            f"{source}: regions_class_order {order} does not fit the regions {regions}: give for each one, in their "
            "order, a label value that it covers and no later one does."
        )
    return [[value, *(v for v in members if v != value)] for value, members in zip(order, regions, strict=True)]


def _refuse_odd(classes: Classes, source: str) -> None:
    if "" in classes.names:
        raise UserError(f"{source}: {classes.names}: label value {classes.names.index('')} has no name: give it one.")
    lowered = [name.lower() for name in classes.names]
    if len(set(lowered)) < len(lowered) or len(lowered) < 2:
        raise UserError(
            f"{source}: {classes.names} must be distinct, with at least one class beside the background: rename."
        )
    if "mean" in lowered:
        raise UserError(
            f"{source}: a class cannot be called 'mean', for the mean over classes is called so: rename it, with "
            "`--class_names \"['liver','tumour']\"`, in the order of the label values 1, 2, ..."
        )
    check_regions(classes.regions, len(classes.names))
    highest = label_count(classes.names, classes.regions) - 1
    if classes.ignore is not None and 0 <= classes.ignore <= highest:
        raise UserError(
            f"{source}: `ignore` is {classes.ignore}, among the values of classes (0 to {highest}): it must be above "
            "them, as nnU-Net has it; change it in the labels, too."
        )


def class_members(num_classes: int, regions: Regions = None) -> list[list[int]]:
    """The label values that each channel covers, the background's first: its own alone, or what `regions` says."""
    if regions is None or isinstance(regions, bool):
        return [[value] for value in range(num_classes)]
    return [[0], *map(list, regions)]


def written_values(num_classes: int, regions: Regions = None) -> list[int]:
    """The label value that each channel leaves in a label map: the first that it covers and no later one does."""
    return [own[0] for own in _uncovered(class_members(num_classes, regions))]


def _uncovered(regions: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each region the label values that no later one covers."""
    return [
        [value for value in members if not any(value in later for later in regions[number:])]
        for number, members in enumerate(regions, start=1)
    ]


def label_count(class_names: Sequence[str], regions: Regions = None) -> int:
    """How many label values there are: 0 to the largest that any class covers."""
    return 1 + max(value for own in class_members(len(class_names), regions) for value in own)


def value_names(class_names: Sequence[str], regions: Regions = None) -> list[str]:
    """Names by label value: of the class that leaves the value in a label map, ``class_2`` where none does."""
    names = dict(zip(written_values(len(class_names), regions), class_names, strict=True))
    return [names.get(value, f"class_{value}") for value in range(label_count(class_names, regions))]


def check_regions(regions: Regions, num_classes: int) -> None:
    """Refuse regions that are not one list of label values for each class but the background.

    Raises:
        UserError: naming the number found and the number wanted, the odd value, or the region that no label map shows.
    """
    if regions is None or isinstance(regions, bool):
        return
    lists = [members for members in regions if isinstance(members, list | tuple)]
    if len(lists) != num_classes - 1 or len(lists) < len(regions):
        raise UserError(f"regions={regions!r}: {len(lists)} lists for {num_classes - 1} classes. Give one for each.")
    values = [value for members in lists for value in members]
    if odd := [value for value in values if isinstance(value, bool) or not isinstance(value, int) or value < 1]:
        raise UserError(f"regions={regions!r}: label values are whole numbers from 1, {odd[0]!r} is none.")
    for members, own in zip(lists, _uncovered(lists), strict=True):
        if not own:
            raise UserError(
                f"regions={regions!r}: all of {list(members)} belongs to later regions, too, which hide it in a label "
                "map: list larger regions before those inside them."
            )


def mark_ignored(labels: torch.Tensor, value: int) -> torch.Tensor:
    """Labels in float in which `IGNORE` stands where `value` was."""
    return labels.masked_fill(labels.round() == value, IGNORE)
