"""States are written whole or not at all, checked when read, and never alone once there were two."""

from __future__ import annotations

import errno
import os
import random
import re
import struct
import threading
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tiny_pretraining import Run

from desd_components import ResumeHandler
from desd_components.base.errors import UserError
from desd_components.base.files import write_tensors
from desd_components.runs import state as statefile
from desd_components.runs.state import DamagedState, StatePair, read_state, state_to_resume


def content(number: int) -> dict:
    return {"number": number, "weights": torch.full((64, 64), float(number))}


@pytest.fixture
def pair(tmp_path):
    pair = StatePair(tmp_path)
    for number in (1, 2, 3):
        pair.write(content(number))
    return pair


def numbers(folder: Path) -> dict[str, int]:
    return {path.name: torch.load(path, weights_only=True)["number"] for path in folder.iterdir()}


def flip(path: Path, place: int, bit: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def test_the_last_two_are_kept_and_the_newest_is_read(pair, tmp_path):
    assert numbers(tmp_path) == {"state.pt": 3, "state_previous.pt": 2}
    path, state = StatePair(tmp_path).read()
    assert (path.name, state["number"]) == ("state.pt", 3)
    assert torch.equal(state["weights"], content(3)["weights"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9999])
def test_a_newest_state_that_was_cut_short_gives_way_to_the_previous(pair, tmp_path, caplog, share):
    data = pair.newest.read_bytes()
    pair.newest.write_bytes(data[: int(share * len(data))])
    path, state = StatePair(tmp_path).read()
    assert (path.name, state["number"]) == ("state_previous.pt", 2)
    [line] = [record.getMessage() for record in caplog.records]
    assert "state.pt is cut short" in line and "going on from state_previous.pt" in line


@pytest.mark.parametrize("place", [0, 700, 9000, -70, -1])
def test_a_single_changed_bit_is_noticed_wherever_it_is(pair, tmp_path, place):
    flip(pair.newest, place)
    assert StatePair(tmp_path).read()[1]["number"] == 2


def refused(path: Path) -> bool:
    """Whether a file is refused as a damaged state, in one line."""
    try:
        read_state(path)
    except DamagedState as damage:
        return "\n" not in str(damage)
    return False


def parts_of(path: Path) -> dict[str, range]:
    """The places of each kind of byte in a state: what lies before a record, the records, the directory and its end."""
    with zipfile.ZipFile(path) as archive:
        [entry] = [entry for entry in archive.infolist() if entry.filename.endswith("/data/0")]
        start = archive.start_dir
    data = path.read_bytes()
    first = entry.header_offset + 30 + sum(struct.unpack_from("<2H", data, entry.header_offset + 26))
    end = data.index(b"PK\6\6")
    return {
        "a local header with its padding": range(entry.header_offset, first),
        "the data": range(first, first + entry.file_size),
        "what repeats the directory behind them": range(first + entry.file_size, first + entry.file_size + 16),
        "the directory": range(start, end),
        "the end of the archive": range(end, len(data)),
    }


@pytest.mark.parametrize("part", range(5))
def test_a_flipped_bit_is_refused_in_every_part_of_the_archive(tmp_path, part):
    path, draw = tmp_path / "state.pt", random.Random(part)
    write_tensors(path, {"number": 1, "weights": torch.arange(64.0)})
    data, places = path.read_bytes(), list(parts_of(path).values())[part]
    flips = [(place, draw.randrange(8)) for place in draw.sample(places, min(120, len(places)))]
    silent = []
    for place, bit in flips:
        path.write_bytes(data)
        flip(path, place, bit)
        silent += [] if refused(path) else [(place, bit)]
    assert silent == []
    path.write_bytes(data)
    assert read_state(path)["number"] == 1


def test_a_state_that_was_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    write_tensors(path, {"number": 1, "weights": torch.arange(64.0)})
    data = path.read_bytes()
    for length in random.Random(0).sample(range(len(data)), 200):
        path.write_bytes(data[:length])
        assert refused(path), length


def test_bytes_behind_a_state_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    write_tensors(path, {"number": 1})
    path.write_bytes(path.read_bytes() + b"more")
    assert refused(path)


def test_two_unreadable_states_end_in_one_line(pair, tmp_path):
    flip(pair.newest, 9000)
    pair.previous.write_bytes(b"")
    with pytest.raises(UserError) as refusal:
        StatePair(tmp_path).read()
    words = str(refusal.value)
    assert "\n" not in words and "resume: never" in words
    assert re.search(r"state\.pt is damaged.*state_previous\.pt is cut short", words)


def test_a_damaged_state_never_takes_the_place_of_the_good_one_before_it(pair, tmp_path):
    flip(pair.newest, 9000)
    later = StatePair(tmp_path)
    later.read()
    later.write(content(4))
    assert numbers(tmp_path) == {"state.pt": 4, "state_previous.pt": 2}


def test_a_run_that_starts_anew_leaves_no_state_of_the_old_one_behind(pair, tmp_path):
    StatePair(tmp_path).write(content(9))
    assert numbers(tmp_path) == {"state.pt": 9}


def test_a_full_disk_ends_in_one_line_with_the_older_states_intact(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError) as refusal:
        pair.write(content(4))
    assert str(refusal.value) == (
        f"{tmp_path}/state.pt: cannot be written (No space left on device). The state before it is intact. Make room "
        "there and start the same command again."
    )
    assert numbers(tmp_path) == {"state.pt": 3, "state_previous.pt": 2}


def test_another_error_while_saving_passes_as_it_is(pair, monkeypatch):
    """Such as torch's for a lost loader process, which a signal raises wherever the program is."""
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    monkeypatch.setattr(torch, "save", Mock(side_effect=lost))
    with pytest.raises(RuntimeError, match="DataLoader worker") as error:
        pair.write(content(4))
    assert error.value is lost and lost.__cause__ is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_that_is_really_full_is_reported_as_such(tmp_path):
    (tmp_path / "state.pt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device"):
        StatePair(tmp_path).write(content(1))
    assert not StatePair(tmp_path).exists()


def test_a_process_that_dies_between_the_two_names_leaves_the_state_before(pair, tmp_path, monkeypatch):
    class Died(BaseException):
        pass

    def die(source, target):
        if Path(target).name == "state.pt":
            raise Died
        os.rename(source, target)

    monkeypatch.setattr(statefile.os, "replace", die)
    with pytest.raises(Died):
        pair.write(content(4))
    assert StatePair(tmp_path).read()[1]["number"] == 3


def test_a_file_that_is_no_state_is_told_from_one(tmp_path):
    torch.save({"weight": torch.ones(100)}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="not the state of a run"):
        state_to_resume(StatePair(tmp_path), "auto")


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))


def test_a_checksum_makes_no_state_of_a_malicious_pickle(pair, tmp_path, caplog):
    """Anybody can write a right one below any file."""
    write_tensors(pair.newest, {"number": Payload(tmp_path / "executed")})
    path, state = StatePair(tmp_path).read()
    assert (path.name, state["number"]) == ("state_previous.pt", 2)
    assert "state.pt is not a readable file of tensors (it holds a io.open)" in caplog.text
    assert not (tmp_path / "executed").exists()


ODD_PLACES = {
    "a folder": Path.mkdir,
    "a link to a disk that is gone": lambda path: path.symlink_to("/nowhere/state.pt"),
}


@pytest.mark.parametrize("make", ODD_PLACES.values(), ids=ODD_PLACES)
def test_what_cannot_be_opened_in_the_place_of_a_state_never_means_a_fresh_start(tmp_path, make):
    make(tmp_path / "state.pt")
    assert StatePair(tmp_path).exists()
    with pytest.raises(UserError, match=r"state\.pt cannot be opened: .*resume: never"):
        StatePair(tmp_path).read()


def test_a_state_that_a_thread_writes_is_of_the_moment_it_was_begun(pair, tmp_path, monkeypatch):
    may_write = threading.Event()
    monkeypatch.setattr(statefile, "write_tensors", lambda *given: may_write.wait(9) and write_tensors(*given))
    later = content(4)
    pair.begin(later)
    later["weights"].fill_(5)
    pair.finish(wait=False)
    assert numbers(tmp_path)["state.pt"] == 3
    may_write.set()
    pair.begin(later | {"number": 5})  # waits for the one before
    pair.finish()
    assert numbers(tmp_path) == {"state.pt": 5, "state_previous.pt": 4}
    assert torch.load(tmp_path / "state_previous.pt")["weights"].unique().item() == 4


def test_what_the_thread_could_not_write_ends_the_run_at_its_next_step(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, epochs=2)
    (tmp_path / "state.pt.part").symlink_to("/dev/full")
    states = ResumeHandler(tmp_path, {"network": run.network}, {"max_epochs": 2})
    with pytest.raises(UserError, match=r"state.pt: cannot be written \(No space left on device\)"):
        run.train(states)
    assert run.trainer.state.epoch <= 2 and not states.states.exists()
