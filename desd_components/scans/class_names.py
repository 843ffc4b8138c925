"""Names of classes by label value, from the many ways in which people and data sets write them."""

from __future__ import annotations

from typing import Any

from ..base.errors import UserError


def with_background(class_names: Any, source: str = "class_names") -> list[str]:
    """Class names by label value, background first, from what people write.

    Args:
        class_names: a list or a comma-separated string, with or without ``background`` in front; a dictionary
            ``{"0": "background", ...}`` or ``{"background": 0, ...}``; or the number of classes beside the background.
        source: named in the error.

    Raises:
        UserError: when the names are neither, are not distinct, or label values are not whole numbers from 0.
    """
    if isinstance(class_names, dict):
        names = _names_from_dictionary(class_names, source)
    elif isinstance(class_names, int) and not isinstance(class_names, bool) and class_names > 0:
        names = [f"class_{value}" for value in range(1, class_names + 1)]
    elif isinstance(class_names, str):
        names = [name.strip() for name in class_names.split(",") if name.strip()]
    elif isinstance(class_names, list | tuple) and all(isinstance(name, str) for name in class_names):
        names = [name.strip() for name in class_names]
    else:
        raise UserError(f"{source} is {class_names!r}: give a list such as \"['liver','tumour']\".")
    if not names or names[0].lower() != "background":
        names = ["background", *names]
    lowered = [name.lower() for name in names]
    if len(set(lowered)) < len(names) or len(names) < 2:
        raise UserError(f"{source}: {names} must be distinct, with at least one class beside the background: rename.")
    return names


def _names_from_dictionary(labels: dict[Any, Any], source: str) -> list[str]:
    """Names by value; a value that nobody names between two that are named is called ``class_<value>``."""
    try:
        by_value = {int(key): str(value) for key, value in labels.items()}
    except ValueError:
        try:
            by_value = {int(value): str(key) for key, value in labels.items()}
        except (TypeError, ValueError):
            by_value = {}
    if not by_value or min(by_value) < 0 or len(by_value) < len(labels) or max(by_value) > 10000:
        raise UserError(
            f'{source}: the labels {labels} are not of the form {{"0": "background", "1": "liver"}}: mend them, or '
            "name the classes with `--class_names \"['liver','tumour']\"`."
        )
    by_value[0] = "background"
    return [by_value.get(value, f"class_{value}") for value in range(max(by_value) + 1)]
