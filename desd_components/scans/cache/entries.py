"""One preprocessed volume on disk: a file with the arrays of its keys and what is known of them.

`desd_components.scans.cache.making` makes them; the datasets read them, box by box, for as long as a run lasts. The
file is a safetensors file, so that other tools read it too. Its arrays are (C, Z, X, Y): a slab of slices is one piece
of the file, and of each slice a box is a run of rows, so that it is read by one ``pread`` a slice.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ...base.errors import UserError, one_line
from ...base.files import beside

LAYOUT = 3  # of an entry on disk; part of its key
SUFFIX = ".safetensors"
_ON_DISK, _IN_MEMORY = (0, 3, 1, 2), (0, 2, 3, 1)  # from (C, X, Y, Z) to (C, Z, X, Y), and back
_TYPES = {"F32": "<f4", "F16": "<f2", "U8": "|u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_HEAD = 4096  # bytes that hold most heads


class _Place(NamedTuple):
    """Where an array lies in a file: its first byte, its type, and its shape (C, Z, X, Y)."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class _Opened(NamedTuple):
    file: int
    meta: dict[str, Any]
    places: dict[str, _Place]


def is_label(key: str) -> bool:
    """Whether an entry holds class numbers, by its name."""
    return key.startswith("label")


def write_entry(path: Path, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays (C, X, Y, Z) and what is known of them; a reader, and another writer, see the whole file or none.

    Raises:
        OSError: when the disk is full or fails; then nothing is left.
    """
    turned = {key: np.ascontiguousarray(array.transpose(_ON_DISK)) for key, array in arrays.items()}
    head: dict[str, Any] = {"__metadata__": {"layout": str(LAYOUT), "axes": "CZXY", "about": json.dumps(meta)}}
    end = 0
    for key, array in turned.items():
        name = next(name for name, kind in _TYPES.items() if np.dtype(kind) == array.dtype)
        head[key] = {"dtype": name, "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-(8 + len(text)) % 64)
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for array in turned.values():
                stream.write(array.data)
            stream.flush()
            os.fsync(stream.fileno())  # or the name might outlive the content when the machine stops
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: str | Path) -> Iterator[_Opened]:
    """An entry's file, its head read and its length checked; for as long as something is read of it.

    Raises:
        UserError: when it is not there, is not a whole entry of this layout, or ends early.
    """
    try:
        with open(path, "rb", buffering=0) as stream:
            file = stream.fileno()
            start = os.pread(file, _HEAD, 0)
            length = 8 + int.from_bytes(start[:8], "little")
            size = os.fstat(file).st_size
            if length > size:
                raise ValueError(f"{size} bytes are no entry")
            head = json.loads((start + os.pread(file, max(0, length - _HEAD), _HEAD))[8:length])
            own = head.pop("__metadata__")
            if own["layout"] != str(LAYOUT):
                raise ValueError(f"its layout is {own['layout']}, not {LAYOUT}")
            places = {
                key: _Place(length + said["data_offsets"][0], np.dtype(_TYPES[said["dtype"]]), tuple(said["shape"]))
                for key, said in head.items()
            }
            whole = length + max(said["data_offsets"][1] for said in head.values())
            if size != whole:
                raise ValueError(f"{size} of {whole} bytes are there")
            yield _Opened(file, json.loads(own["about"]), places)
    except (OSError, ValueError, LookupError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"{path}: this preprocessed volume was there and cannot be read any more ({reason}): was cache_dir cleaned "
            "during the run? Nothing is lost: start the same command again; it makes what is missing or damaged and "
            "goes on from its last state."
        ) from error


def read_box(path: str | Path, key: str, box: tuple[slice, slice, slice]) -> np.ndarray:
    """A box of an entry's array, (C, x, y, z) in the type it is stored with; hardly more than that is read.

    Args:
        path: as `VolumeCache.prepare` gives it.
        key: "image", "label", ...
        box: along x, y and z, with a start and a stop inside the volume.

    Raises:
        UserError: when the entry is gone or damaged, as when somebody cleans the disk during a run.
    """
    x, y, z = box
    with _opened(path) as entry:
        start, dtype, (channels, depth, width, height) = entry.places[key]
        rows = np.empty((channels, z.stop - z.start, x.stop - x.start, height), dtype)
        for channel, slices in enumerate(rows):
            for number, part in enumerate(slices, channel * depth + z.start):
                _fill(entry.file, part, start + (number * width + x.start) * height * dtype.itemsize)
    return rows[..., y].transpose(_IN_MEMORY)


def _fill(file: int, part: np.ndarray, offset: int) -> None:
    target = part.data.cast("B")
    while target:
        if not (read := os.preadv(file, [target], offset)):
            raise ValueError("it ends early")
        target, offset = target[read:], offset + read


def open_array(path: str | Path, key: str, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The memory map of an entry's array, (C, X, Y, Z); nothing is read until it is indexed.

    With mode "c" the array may be changed in memory without touching the file.

    Raises:
        UserError: when the entry is gone or damaged.
    """
    with _opened(path) as entry:
        start, dtype, shape = entry.places[key]
        return np.memmap(path, dtype, mode, start, shape).transpose(_IN_MEMORY).view(np.ndarray)


def read_meta(path: str | Path) -> dict[str, Any]:
    """What is known of an entry: per key ``shape``, ``dtype``, ``affine``, ``source``, ...; of labels also ``values``.

    Raises:
        UserError: when the entry is gone or damaged.
    """
    with _opened(path) as entry:
        return entry.meta
