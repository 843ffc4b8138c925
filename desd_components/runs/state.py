"""The file that a run goes on from: written whole or not at all, checked when it is read, with the one before it.

A thread writes it, of a copy, while the run goes on: a state of the published network takes a disk seconds.

``state.pt`` is a file of PyTorch's, a zip archive, whose CRCs cover the content of each record. What stands between the
records says nothing that is not said twice: readers pass over it, or find that it contradicts itself.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..base.errors import UserError
from ..base.files import told_if_unwritable, write_tensors
from ..base.tensors import altered_entry, load_tensors

logger = logging.getLogger(__name__)


class DamagedState(ValueError):
    """A state that cannot be trusted: cut short, altered, or none at all."""


def read_state(path: Path) -> Any:
    """The content of a state, every bit of it as it was written.

    Raises:
        DamagedState: when it cannot be opened, is not whole, or there is more in it than tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    altered = altered_entry(archive)
            except Exception as error:  # zipfile has no one word for what a wrong bit leads it to
                raise DamagedState("is cut short, damaged, or not the state of a run") from error
    except OSError as error:
        raise DamagedState(f"cannot be opened: {error.strerror}") from error
    if altered is not None:
        raise DamagedState("is damaged: its content does not match its checksums")
    try:
        return load_tensors(path)
    except UserError as error:  # anybody can make an archive with right checksums
        raise DamagedState(f"is {str(error).removeprefix(f'{path}: ')}") from error


def first_readable(paths: Sequence[Path]) -> tuple[Path, Any]:
    """The first of some states that can be read, and its content; a damaged one is named in one line of the log.

    Raises:
        UserError: when none can be read.
    """
    damages: list[str] = []
    for path in paths:
        try:
            state = read_state(path)
        except DamagedState as damage:
            damages.append(f"{path.name} {damage}")
            continue
        if damages:
            logger.warning("%s: %s; going on from %s instead.", path.parent, damages[0], path.name)
        return path, state
    raise UserError(
        f"{paths[0].parent}: no state to go on from ({'; '.join(damages)}). Start anew with resume: never, or give the "
        "path of another state."
    )


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

    def there(self) -> list[Path]:
        """Those that there are, the newest first; a link to a disk that is gone is one of them."""
        return [path for path in (self.newest, self.previous) if os.path.lexists(path)]

    def read(self) -> tuple[Path, Any]:
        """The newest that can be read; see `first_readable`."""
        path, state = first_readable(self.there())
        self._good.add(path)
        return path, state

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
        left = "The state before it is intact." if self.newest.is_file() else "No state was saved before."
        remedy = f"{left} Make room there and start the same command again."
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
    if resume == "never" or (resume == "auto" and not states.there()):
        return None
    path, state = states.read() if resume == "auto" else first_readable([Path(resume)])
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
