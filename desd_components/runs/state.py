"""The file that a run goes on from: written whole or not at all, checked when it is read, with the one before it.

A thread writes it, of a copy, while the run goes on: a state of the published network takes a disk seconds.

``state.pt`` is a file of PyTorch's, a zip archive, whose CRCs cover the content of each record. What stands between the
records no CRC covers, and readers pass over most of it; it says nothing that is not said twice, so it is compared.
"""

from __future__ import annotations

import logging
import os
import struct
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..base.errors import UserError
from ..base.files import told_if_unwritable, write_tensors
from ..base.tensors import load_tensors

logger = logging.getLogger(__name__)


OLD_MARK = b"\nsha256 "  # of the checksum behind a state of format 2, which is refused for that, not as damaged


class DamagedState(ValueError):
    """A state that cannot be trusted: cut short, altered, or none at all."""


def read_state(path: Path) -> Any:
    """The content of a state, of which every bit is as it was written.

    Raises:
        DamagedState: when it is not whole, or there is more in it than tensors and plain values.
        OSError: when it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                whole = archive.testzip() is None and _is_framed_as_written(file, archive)
        except Exception as error:  # zipfile has no one word for what a wrong bit leads it to
            raise DamagedState("cut short, damaged, or not the state of a run") from error
    if not whole:
        raise DamagedState("damaged: its content does not match its checksums")
    try:
        return load_tensors(path)
    except UserError as error:  # anybody can make an archive with right checksums
        raise DamagedState(str(error).removeprefix(f"{path}: ")) from error


#: of an archive's directory, what is the same for each record
_ALIKE = attrgetter(
    *("create_version", "create_system", "extract_version", "reserved", "flag_bits", "compress_type", "date_time"),
    *("volume", "internal_attr", "external_attr", "comment"),
)


def _is_framed_as_written(file: BinaryIO, archive: zipfile.ZipFile) -> bool:
    """Whether all that stands around the records is as PyTorch writes it.

    Before each record is a header, like those of the others, its name and padding; behind it, what the directory says
    of it, once more. Beyond 4 GB the directory's places have 64 bits.
    """
    alike, size = set(), 0
    for entry in archive.infolist():
        file.seek(entry.header_offset)
        header, name, extra = struct.unpack("<26s2H", file.read(30))
        alike.add((header, _ALIKE(entry)))
        padding = extra - len(entry.extra) - 4
        if file.read(name + extra)[name:] != entry.extra + struct.pack("<2sH", b"FB", max(padding, 0)) + b"Z" * padding:
            return False
        file.seek(entry.compress_size, os.SEEK_CUR)
        sizes = "2Q" if entry.extra else "2L"
        again = struct.pack(f"<4sL{sizes}", b"PK\7\10", entry.CRC, entry.compress_size, entry.file_size)
        if file.read(len(again)) != again:
            return False
        size += 46 + len(entry.orig_filename.encode()) + len(entry.extra)
    file.seek(archive.start_dir + size)
    end, _, _ = file.read().partition(OLD_MARK)
    return len(alike) == 1 and end == _end_of_archive(len(archive.infolist()), archive.start_dir, size)


def _end_of_archive(count: int, start: int, size: int) -> bytes:
    """What comes behind a directory of `count` records that begins at the byte `start` and has `size` bytes."""
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, size, start)
    place = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    return end + place + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, min(start, 0xFFFFFFFF), 0)


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


def copied(content: Any) -> Any:
    """A copy that nothing changes any more: its tensors lie on the CPU, in dictionaries, lists and tuples."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, Mapping):
        return {key: copied(value) for key, value in content.items()}
    return type(content)(map(copied, content)) if type(content) in (list, tuple) else content


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
        self._writing: Future | None = None

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

    def begin(self, content: Any) -> None:
        """`write` a copy of the content in a thread, once the one before is written.

        Raises:
            UserError: see `finish`.
        """
        self.finish()
        thread = ThreadPoolExecutor(1)
        self._writing = thread.submit(self.write, copied(content))
        thread.shutdown(wait=False)  # Python itself waits for it before it ends

    def finish(self, wait: bool = True) -> None:
        """Wait until the thread has written; or only look whether it has.

        Raises:
            UserError: when it could not; see `write`.
        """
        if self._writing is not None and (wait or self._writing.done()):
            writing, self._writing = self._writing, None
            writing.result()

    def write(self, content: Any) -> None:
        """Write a new state; what was the newest becomes the previous one, unless it is damaged or of another run.

        Raises:
            UserError: when the disk is full or fails; the states that were there stay.
        """
        part = self.newest.with_name("state.pt.part")
        remedy = f"{self._what_is_left()} Make room there and start the same command again."
        with told_if_unwritable(self.newest, remedy):
            write_tensors(part, content)
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


FORMAT = 3  # of a state; the first had no number and did not note all settings, the second a checksum at its end
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
