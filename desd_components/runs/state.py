"""The file that a run goes on from: written whole or not at all, checked when it is read, with the one before it.

``state.pt`` is a PyTorch file with a checksum of itself as its last bytes: one file, so that content and checksum can
never disagree about which saving they belong to. ``torch.load`` reads it too, for those who want to look inside.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..base.errors import UserError
from ..base.files import WitnessedFile, told_if_unwritable, torch_save
from ..base.tensors import load_tensors

logger = logging.getLogger(__name__)


MARK = b"\nsha256 "
TRAILER = len(MARK) + 2 * hashlib.sha256().digest_size
CHUNK = 1 << 22


class DamagedState(ValueError):
    """A state that cannot be trusted: cut short, altered, or none at all."""


class _HashingFile(WitnessedFile):
    """A file that hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.hash = hashlib.sha256()

    def write(self, content: bytes) -> int:
        written = super().write(content)
        self.hash.update(content)
        return written


def write_state(path: Path, content: Any) -> None:
    """Write `content` with its checksum to `path` and wait until the disk has it; the caller renames it.

    Raises:
        OSError: when the disk is full or fails; then no file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            hashing = _HashingFile(file)
            torch_save(content, hashing)
            file.write(MARK + hashing.hash.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_state(path: Path) -> Any:
    """The content of a state, after a look at its checksum.

    Raises:
        DamagedState: when the checksum is missing or differs, or there is more in it than tensors and plain values.
    """
    size = path.stat().st_size - TRAILER
    if size < 0:
        raise DamagedState("cut short, or not the state of a run")
    with open(path, "rb") as file:
        found = hashlib.sha256()
        for chunk in _chunks(file, size):
            found.update(chunk)
        trailer = file.read()
    if not trailer.startswith(MARK):
        raise DamagedState("cut short, or not the state of a run: no checksum at its end")
    if trailer[len(MARK) :] != found.hexdigest().encode():
        raise DamagedState("damaged: its content does not match its checksum")
    try:
        return load_tensors(path)
    except UserError as error:  # anybody can put a right checksum below a file that no run has written
        raise DamagedState(str(error).removeprefix(f"{path}: ")) from error


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(CHUNK, size))):
        size -= len(chunk)
        yield chunk


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`; not every system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StatePair:
    """The newest state of a run, ``state.pt``, and the one before, ``state_previous.pt``.

    At every moment at least one whole state of the run lies in the folder once one was written: the new one is complete
    on disk before the names move.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.newest = Path(folder) / "state.pt"
        self.previous = self.newest.with_name("state_previous.pt")
        self._good: set[Path] = set()  # those that this run has written or could read

    def exists(self) -> bool:
        """Whether there is anything to go on from."""
        return os.path.lexists(self.newest) or os.path.lexists(self.previous)  # a link to a disk that is gone counts

    def read(self) -> tuple[Path, Any]:
        """The newest state that can be read, and its path; a damaged one is named in one line of the log.

        Raises:
            UserError: when none can be read.
        """
        damages = []
        for path in (self.newest, self.previous):
            if not os.path.lexists(path):
                continue
            try:
                state = read_state(path)
            except DamagedState as damage:
                damages.append(f"{path.name} is {damage}")
                continue
            except OSError as error:
                damages.append(f"{path.name} cannot be opened: {error.strerror}")
                continue
            if damages:
                logger.warning("%s: %s; going on from %s instead.", path.parent, damages[0], path.name)
            self._good.add(path)
            return path, state
        raise UserError(
            f"{self.newest.parent}: no state to go on from ({'; '.join(damages) or 'there is none'}). Start anew with "
            "resume: never, or give the path of another state."
        )

    def write(self, content: Any) -> None:
        """Write a new state; what was the newest becomes the previous one, unless it is damaged or of another run.

        Raises:
            UserError: when the disk is full or fails; the states that were there stay.
        """
        part = self.newest.with_name("state.pt.part")
        remedy = f"{self._what_is_left()} Make room there and start the same command again."
        with told_if_unwritable(self.newest, remedy):
            write_state(part, content)
            self._make_room()
            os.replace(part, self.newest)
        self._good.add(self.newest)
        flush_folder(self.newest.parent)

    def _make_room(self) -> None:
        if self.newest in self._good and self.newest.is_file():
            os.replace(self.newest, self.previous)
            self._good.add(self.previous)
        elif self.previous not in self._good:
            self.previous.unlink(missing_ok=True)

    def _what_is_left(self) -> str:
        return "The state before it is intact." if self.newest.is_file() else "No state was saved before."


FORMAT = 2  # of a state; those before had no number, and did not note all settings
PARTS = {"settings": dict, "epoch": int, "iteration": int, "epoch_length": int}  # that a state has beside its objects


def state_to_resume(states: StatePair, resume: str) -> tuple[Path, dict[str, Any]] | None:
    """What a run goes on from, and its path; None for a run that starts anew.

    Args:
        states: the run's own.
        resume: "auto" takes the run's own newest state where there is one; "never" none; else it is a path.

    Raises:
        UserError: when there is a state to go on from, but none that can be read.
    """
    if resume == "never" or (resume == "auto" and not states.exists()):
        return None
    path, state = states.read() if resume == "auto" else (Path(resume), _read_path(Path(resume)))
    if not isinstance(state, dict) or not isinstance(state.get("objects"), dict):
        raise UserError(f"{path}: not the state of a run. Give the state.pt of one, or resume: never.")
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path}: saved by another version, which noted other settings of its run. Let that version finish the "
            "run, or start anew with resume: never or another output_dir."
        )
    if odd := [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]:
        raise UserError(f"{path}: not as a run writes it ({', '.join(odd)}). Give another state, or resume: never.")
    return path, state


def _read_path(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such state. resume is auto, never, or the path of the state.pt of a run.")
    try:
        return read_state(path)
    except DamagedState as damage:
        raise UserError(f"{path}: {damage}. Give the state.pt of a run, or resume: never.") from damage
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}): mend its permissions, or resume: never."
        ) from error
