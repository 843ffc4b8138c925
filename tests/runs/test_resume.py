"""A run that stopped goes on as if it had not."""

import hashlib
import json
import signal

import pytest
import torch
from interruptions import At, SignalAt
from states import differing, ends_like
from tiny_pretraining import pretraining

from desd_components import CosineSchedule, UserError
from desd_components.base.files import write_tensors
from desd_components.runs.state import read_state


class Fail(At):
    def __call__(self):
        raise KeyError("broken batch")


def stop_at(iteration):
    return SignalAt(iteration, "SIGTERM")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run of three epochs: its folder, and what happened in it."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, pretraining(folder, epochs=3, keyed=True).log.lines


@pytest.mark.parametrize(("stopped", "workers"), [(1, 0), (4, 0), (6, 0), (8, 0), (6, 2)])
def test_a_stopped_run_ends_bit_for_bit_like_the_unbroken_one(tmp_path, received, whole, workers, stopped):
    broken = pretraining(tmp_path, epochs=3, keyed=True, workers=workers, more=[stop_at(stopped)])
    assert broken.trainer.state.iteration == stopped
    resumed = pretraining(tmp_path, epochs=3, keyed=True, workers=workers)
    assert ends_like(whole[0], tmp_path)
    seam = [line for line in resumed.log.lines[:1] if stopped % 4]  # an epoch that goes on is announced once more
    assert broken.log.lines + resumed.log.lines[len(seam) :] == whole[1]
    assert all(line in whole[1] or line[0] == "EPOCH_STARTED" for line in seam)


def test_a_stop_waits_for_the_optimiser_step_that_gradients_wait_for(tmp_path, received):
    common = {"epochs": 2, "keyed": True, "accumulation_steps": 2}
    pretraining(tmp_path / "whole", **common)
    broken = pretraining(tmp_path / "broken", more=[stop_at(5)], **common)
    assert broken.trainer.state.iteration == 6
    pretraining(tmp_path / "broken", **common)
    assert differing(tmp_path / "whole", tmp_path / "broken") == []


def test_a_loader_that_cannot_skip_is_stopped_at_the_end_of_its_epoch_and_goes_on_from_there(tmp_path, received):
    pretraining(tmp_path / "whole", epochs=2)
    assert pretraining(tmp_path / "broken", epochs=2, more=[stop_at(2)]).trainer.state.iteration == 4
    pretraining(tmp_path / "broken", epochs=2)
    assert ends_like(tmp_path / "whole", tmp_path / "broken")


def test_the_program_gets_the_signal_back_once_the_state_is_saved(tmp_path, received, caplog):
    pretraining(tmp_path, epochs=2, keyed=True, more=[stop_at(2)])
    assert received == [signal.SIGTERM]
    assert read_state(tmp_path / "state.pt")["iteration"] == 2
    [line] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    words = "stopped by SIGTERM in epoch 1 after 2 of its 4 batches (2 iterations); the same command goes on there."
    assert line == f"{tmp_path}/state.pt: {words}"


def test_signals_are_the_program_s_again_after_a_run_and_after_one_that_failed(tmp_path, received):
    ours = signal.getsignal(signal.SIGTERM)
    pretraining(tmp_path, epochs=1)
    assert signal.getsignal(signal.SIGTERM) is ours
    with pytest.raises(KeyError, match="broken batch"):
        pretraining(tmp_path, epochs=1, resume="never", more=[Fail(2)])
    assert signal.getsignal(signal.SIGTERM) is ours


def test_a_long_epoch_is_saved_in_between(tmp_path):
    pretraining(tmp_path, epochs=1, keyed=True, minutes=0)
    assert [read_state(tmp_path / name)["iteration"] for name in ("state_previous.pt", "state.pt")] == [3, 4]
    pretraining(tmp_path / "none", epochs=1, keyed=True, minutes=60)
    assert not (tmp_path / "none" / "state_previous.pt").exists()


def rates(run):
    return [line["learning_rate"] for line in map(json.loads, run.read_text().splitlines())]


MANY = {f"s{n:02d}": n for n in range(30)}
#: a run of two epochs, with its settings, and another one in its folder; what is said of that
OTHER = {
    r"max_epochs was 2, now 3.*extend: keep, or extend: stretch": ({}, {"epochs": 3}),
    "max_epochs=1 is fewer than the planned 2": ({}, {"epochs": 1, "extend": "keep"}),
    "max_epochs was 2, now 1": ({}, {"epochs": 1, "extend": "stretch"}),
    "extend='more': choose one of": ({}, {"epochs": 3, "extend": "more"}),
    "batch_size was 4, now 8; max_epochs was 2, now 3": ({"batch_size": 4}, {"epochs": 3, "batch_size": 8}),
    r"s09 was None, now 9; .*s19 was None, now 19; 10 more\. Set them back": ({}, {"epochs": 2, **MANY}),
}


@pytest.mark.parametrize("words", OTHER)
def test_another_run_in_the_folder_is_refused_with_what_differs(tmp_path, words):
    before, now = OTHER[words]
    pretraining(tmp_path, epochs=2, stop_after=1, **before)
    with pytest.raises(UserError, match=words):
        pretraining(tmp_path, **now)


def test_keep_leaves_the_schedules_as_planned_and_then_at_their_ends(tmp_path):
    pretraining(tmp_path, epochs=2)
    assert pretraining(tmp_path, epochs=3, extend="keep").trainer.state.iteration == 12
    planned = CosineSchedule(0.1, 0.01, total_steps=8, warmup_steps=2)
    expected = [planned(step) for step in (0, 1, 3, 5, 7)] + 2 * [planned(7)]
    assert rates(tmp_path / "history.jsonl") == pytest.approx(expected)
    again = pretraining(tmp_path, epochs=3, extend="keep")  # the same command, after the end
    assert again.log.lines == []


def test_stretch_takes_up_the_schedules_of_the_longer_run_at_the_seam(tmp_path):
    pretraining(tmp_path, epochs=2)
    assert pretraining(tmp_path, epochs=4, extend="stretch").trainer.state.iteration == 16
    short, long = (CosineSchedule(0.1, 0.01, total_steps=total, warmup_steps=2) for total in (8, 16))
    expected = [short(step) for step in (0, 1, 3, 5, 7)] + [long(step) for step in (9, 11, 13, 15)]
    assert rates(tmp_path / "history.jsonl") == pytest.approx(expected)
    assert long(8) > short(7) + 0.02
    assert pretraining(tmp_path, epochs=4, extend="stretch").log.lines == []


def test_extend_means_a_plain_run_where_there_is_nothing_to_extend_and_keep_before_the_planned_end(tmp_path):
    for extend in (None, "keep", "stretch"):
        pretraining(tmp_path / str(extend), epochs=2, extend=extend)
    pretraining(tmp_path / "kept", epochs=2, stop_after=1)
    pretraining(tmp_path / "kept", epochs=2, extend="keep")
    for other in ("keep", "stretch", "kept"):
        assert differing(tmp_path / "None", tmp_path / other) == []


def test_a_network_of_other_shapes_is_refused_by_its_name(tmp_path):
    pretraining(tmp_path, epochs=1)
    state = read_state(tmp_path / "state.pt")
    state["objects"]["network"]["student.encoder.stem.weight"] = torch.ones(1)
    write_tensors(tmp_path / "state.pt", state)
    with pytest.raises(UserError, match=r"its network does not fit this run .*stem\.weight"):
        pretraining(tmp_path, epochs=1)


def test_never_starts_anew(tmp_path):
    pretraining(tmp_path, epochs=2, stop_after=1)
    pretraining(tmp_path, epochs=2, resume="never")
    pretraining(tmp_path / "other", epochs=2)
    assert differing(tmp_path, tmp_path / "other") == []


def test_a_file_that_is_no_state_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="not the state of a run"):
        pretraining(tmp_path, epochs=1, resume=str(tmp_path / "encoder.pt"))
    with pytest.raises(UserError, match=r"nothing\.pt cannot be opened: No such file"):
        pretraining(tmp_path, epochs=1, resume=str(tmp_path / "nothing.pt"))


OLD = r"saved by another version.*Let that version finish the run, or start anew"
ODD = [{part: value} for part, value in {"settings": None, "objects": [], "epoch": None, "iteration": "four"}.items()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(({"format": earlier}, OLD) for earlier in (None, 1, 2)),
        *((odd, r"state\.pt: not .*resume: never") for odd in ODD),
    ],
)
def test_a_state_of_an_earlier_version_or_that_no_run_writes_is_refused_with_what_to_do(tmp_path, change, words):
    pretraining(tmp_path, epochs=2, stop_after=1)
    path = tmp_path / "state.pt"
    write_tensors(path, {**read_state(path), **change})
    if change == {"format": 2}:
        path.write_bytes(path.read_bytes() + b"\nsha256 " + hashlib.sha256(path.read_bytes()).hexdigest().encode())
    with pytest.raises(UserError, match=words):
        pretraining(tmp_path, epochs=2)
