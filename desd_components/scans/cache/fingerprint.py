"""What a deterministic transform is, in words that two processes write alike, so that results can be kept under it.

Differs from pickling, which ``monai.data.PersistentDataset`` offers: the last call and the addresses of objects
do not enter, and a function counts by its code.
"""

import enum
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Randomizable

from ...base.errors import UserError

# What a transform or a reader remembers of its last call says nothing about its result.
_REMEMBERED = {"R", "_do_transform", "_tracing", "filenames"}


def describe(thing: Any, seen: tuple[int, ...] = ()) -> Any:
    """A stable, JSON-able description of a transform: classes and attributes all the way down, no addresses.

    Private attributes count too, for a setting that hides in one would otherwise leave old results in use.
    """
    if thing is None or isinstance(thing, str | int | float | bool):
        return repr(thing) if isinstance(thing, float) else thing
    if id(thing) in seen:
        return "..."
    seen = (*seen, id(thing))
    if isinstance(thing, enum.Enum):
        return [type(thing).__qualname__, thing.name]
    if isinstance(thing, np.ndarray | torch.Tensor):
        array = np.asarray(thing)
        return ["array", str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(thing, Mapping):
        return {str(key): describe(value, seen) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(item, seen) for item in thing]
    if isinstance(thing, set | frozenset):
        return sorted(json.dumps(describe(item, seen), sort_keys=True) for item in thing)
    if isinstance(thing, functools.partial):
        return ["partial", describe(thing.func, seen), describe(thing.args, seen), describe(thing.keywords, seen)]
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__}"
    if hasattr(thing, "__code__"):
        # Names and constants too: log(x) and sqrt(x) differ in nothing else.
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        owner = getattr(thing, "__self__", None)
        return [thing.__qualname__, _code(thing.__code__), describe([cells, thing.__defaults__, owner], seen)]
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if hasattr(thing, "__dict__"):
        state = {key: value for key, value in vars(thing).items() if key not in _REMEMBERED}
        return [name, describe(state, seen)]
    return [name, re.sub(r" at 0x[0-9a-f]+", "", repr(thing))]


def _code(code: CodeType) -> list[Any]:
    """What a function does: its byte code, the names it uses and its constants, nested functions included."""
    constants = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _parts(transform: Any) -> Iterator[Any]:
    if isinstance(transform, Compose):
        transform = transform.transforms
    if isinstance(transform, list | tuple):
        for each in transform:
            yield from _parts(each)
    else:
        yield transform


def flat_transforms(transform: Any) -> list[Any]:
    """A transform, a list of them or a Compose, nested or not, as one flat list.

    Raises:
        UserError: when one of them is random, since its draw would be frozen into the cache.
    """
    transforms = list(_parts(transform))
    random = next((each for each in transforms if isinstance(each, Randomizable)), None)
    if random is not None:
        raise UserError(
            f"{type(random).__name__} is random and stands in the preprocessing, which is done once and cached: "
            "move it to `augmentation`."
        )
    return transforms
