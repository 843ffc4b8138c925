"""States are written whole or not at all, checked when read, and never alone once there were two."""

import errno
import os
import re
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from payload import Payload
from tiny_pretraining import Run

from desd_components import ResumeHandler
from desd_components.base.errors import UserError
from desd_components.base.files import write_tensors
from desd_components.runs import state as statefile
from desd_components.runs.state import DamagedState, StatePair, read_state


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


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "state.pt is cut short"),
    "cut in the middle": (lambda path: os.truncate(path, 5000), "state.pt is cut short"),
    "cut at the end": (lambda path: os.truncate(path, path.stat().st_size - 1), "state.pt is cut short"),
    "a bit": (lambda path: flip(path, 9000), "state.pt is damaged: its content does not match its checksums"),
    # anybody can write right checksums
    "a pickle": (
        lambda path: write_tensors(path, {"number": Payload(path.with_name("executed"))}),
        "state.pt is not a readable file of tensors (it holds a io.open)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_newest_state_that_is_damaged_gives_way_to_the_previous(pair, tmp_path, caplog, damage):
    spoil, words = DAMAGES[damage]
    spoil(pair.newest)
    path, state = StatePair(tmp_path).read()
    assert (path.name, state["number"]) == ("state_previous.pt", 2)
    [line] = [record.getMessage() for record in caplog.records]
    assert words in line and "going on from state_previous.pt" in line
    assert not (tmp_path / "executed").exists()


def content_or_refusal(path: Path) -> dict | None:
    """What is read from a state; None where it is refused, in one line."""
    try:
        return read_state(path)
    except DamagedState as damage:
        assert "\n" not in str(damage)
        return None


def test_a_flipped_bit_is_refused_or_stands_where_it_says_nothing(tmp_path):
    """Tried once with all 15,176 bits of this file: 8,890 are refused, and without the others it reads the same."""
    path = tmp_path / "state.pt"
    write_tensors(path, {"number": 1, "weights": torch.arange(64.0)})
    data = path.read_bytes()
    tensor = range(start := data.index(torch.arange(64.0).numpy().tobytes()), start + 256)
    for place in sorted({*range(0, len(data), 7), *tensor}):
        path.write_bytes(data)
        flip(path, place, bit=place % 8)
        found = content_or_refusal(path)
        assert found is None or (place not in tensor and torch.equal(found["weights"], torch.arange(64.0))), place
        assert found is None or (found.keys() == {"number", "weights"} and found["number"] == 1), place


def test_a_state_that_was_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    write_tensors(path, {"number": 1, "weights": torch.arange(64.0)})
    data = path.read_bytes()
    for length in range(0, len(data), 9):
        path.write_bytes(data[:length])
        assert content_or_refusal(path) is None, length


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


ODD_PLACES = {
    "a folder": Path.mkdir,
    "a link to a disk that is gone": lambda path: path.symlink_to("/nowhere/state.pt"),
}


@pytest.mark.parametrize("make", ODD_PLACES.values(), ids=ODD_PLACES)
def test_what_cannot_be_opened_in_the_place_of_a_state_never_means_a_fresh_start(tmp_path, make):
    make(tmp_path / "state.pt")
    assert StatePair(tmp_path).there() == [tmp_path / "state.pt"]
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_the_thread_could_not_write_ends_the_run_at_its_next_step(tiny_encoder, tmp_path):
    run = Run(tiny_encoder, epochs=2)
    (tmp_path / "state.pt.part").symlink_to("/dev/full")
    states = ResumeHandler(tmp_path, {"network": run.network}, {"max_epochs": 2})
    with pytest.raises(UserError, match=r"state.pt: cannot be written \(No space left on device\)"):
        run.train(states)
    assert run.trainer.state.epoch <= 2 and states.states.there() == []
