"""One preprocessed volume on disk: a folder with an ``.npy`` per key, read through a memory map, and ``meta.json``.

`desd_components.scans.cache.making` makes them; the datasets read them, box by box, for as long as a run lasts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...base.errors import UserError, one_line

META_FILE = "meta.json"


def is_label(key: str) -> bool:
    """Whether an entry holds class numbers, by its name."""
    return key.startswith("label")


def open_array(folder: str | Path, key: str, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The memory map of an entry's array, (C, X, Y, Z); nothing is read until it is indexed.

    Args:
        folder: as `VolumeCache.prepare` gives it.
        key: "image", "label", ...
        mode: "r", or "c" for an array that may be changed in memory without touching the file.

    Raises:
        UserError: when the entry is gone or damaged, as when somebody cleans the disk during a run.
    """
    try:
        return np.load(Path(folder) / f"{key}.npy", mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _gone(folder, error) from error


def read_meta(folder: str | Path) -> dict[str, Any]:
    """``meta.json`` of an entry: per key ``shape``, ``dtype``, ``affine``, ``source``, ...; labels also ``values``.

    Raises:
        UserError: when the entry is gone or damaged.
    """
    try:
        return dict(json.loads((Path(folder) / META_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise _gone(folder, error) from error


def _gone(folder: str | Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return UserError(
        f"{folder}: this preprocessed volume was there and cannot be read any more ({reason}): was cache_dir cleaned "
        "during the run? Delete the folder if it still exists, and start the same command again: it makes what is "
        "missing and goes on from its last state."
    )
