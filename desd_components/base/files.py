"""Writing files whole or not at all, and saying in one line why one could not be written: the disk is full, say."""

import errno
import json
import math
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import UserError, chain_of

_AGAIN = "start the same command again; a training goes on from its last state."
MAKE_ROOM, MEND = f"Make room there and {_AGAIN}", f"Mend that, or give another place, and {_AGAIN}"
SHORTEN = f"Shorten the name of the scan, or of the folder, and {_AGAIN}"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REMEDIES = {errno.ENOSPC: MAKE_ROOM, errno.EDQUOT: MAKE_ROOM, errno.ENAMETOOLONG: SHORTEN}


@contextmanager
def told_if_unwritable(path: Path, remedy: str = "") -> Iterator[None]:
    """Let what the system says against writing `path` become a `UserError` of one line, which ends in a remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # a failed write is to PyTorch a size that it did not expect
        failure = next((each for each in chain_of(error) if isinstance(each, OSError)), None)
        if failure is None:
            raise
        remedy = remedy or _REMEDIES.get(failure.errno or 0, MEND)
        raise UserError(f"{path}: cannot be written ({failure.strerror or failure}). {remedy}") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error's chain says that a disk is full, or takes nothing."""
    return any(isinstance(each, OSError) and each.errno in _FULL for each in chain_of(error))


def disk_fault(error: BaseException | None) -> str | None:
    """The line for an error whose chain says that a disk is full or takes nothing, or no such name; None for others.

    Writers that we do not own, TensorBoard's and matplotlib's among them, say no more than the system does.
    """
    for each in chain_of(error):
        if isinstance(each, OSError) and each.errno in _FULL:
            remedy = _REMEDIES.get(each.errno or 0, MEND)
            return f"{each.filename or 'a file of this run'}: cannot be written ({each.strerror}). {remedy}"
        if isinstance(each, OSError) and each.errno == errno.ENAMETOOLONG:
            return f"{each.filename}: cannot be a path ({each.strerror}). Give a shorter one."
    return None


def beside(path: Path) -> Path:
    """A new name beside `path`, for what is to take its place once it is whole.

    `tempfile` gives private files and folders, and whoever renames them has to guess what the umask would have given.
    """
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file, and wait until the disk has it; where that fails none is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush, rename: a reader sees the old file or the new one, never a part.

    Raises:
        UserError: when the disk is full or fails; the old file stays.
    """
    with told_if_unwritable(path):
        _write(part := beside(path), lambda file: file.write(content))
        os.replace(part, path)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, of its suffix, for writers that are not ours; it becomes `path` once it is whole.

    Raises:
        UserError: when the disk is full or fails; the old file stays, and nothing of the new one.
    """
    part = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        with told_if_unwritable(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: Path, content: Any) -> None:
    """`torch.save`, and wait until the disk has it.

    Raises:
        OSError, RuntimeError: when the disk is full or fails, see `told_if_unwritable`; then no file is left.
    """
    _write(path, lambda file: torch.save(content, file))


def save_tensors(path: Path, content: Any) -> None:
    """`torch.save`, atomically.

    Raises:
        UserError: when the disk is full or fails; the old file stays.
    """
    part = path.with_name(path.name + ".part")
    with told_if_unwritable(path):
        write_tensors(part, content)
        os.replace(part, path)


def require_writable(directory: str | Path, name: str = "output_dir") -> Path:
    """The directory, created where it is missing.

    Args:
        directory: what a run wants to write to.
        name: the config key that holds it, named in the error.

    Raises:
        UserError: when it cannot be created or written to.
    """
    path = Path(directory).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # os.access says yes to root on a read-only mount
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be written to ({reason}): give another folder with `--{name} DIR`.") from error
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
        return json.loads(text, object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}): mend the file or give another one.") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON's object; of two entries of one name Python would drop the first without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return content


_LFS = b"version https://git-lfs"


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file only says where git-LFS keeps its content."""
    with open(path, "rb") as stream:
        return stream.read(len(_LFS)) == _LFS


def json_text(content: Any, indent: int | None = None) -> str:
    """`content` as JSON that every reader takes: it knows no NaN and no infinity, so numbers that are none are null."""
    return json.dumps(_without_nan(content), indent=indent, allow_nan=False)


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically; see `json_text`."""
    write_atomically(path, (json_text(content, indent=2) + "\n").encode())


def readable(size: float) -> str:
    """Bytes for people."""
    unit = next((power for power in range(4) if size < 999.5 * 1000**power), 4)
    return f"{size / 1000**unit:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[unit]}"
