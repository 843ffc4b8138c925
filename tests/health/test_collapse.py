"""An alarm stops a run where it can be resumed, if the run's settings ask for it."""

import pytest
from forked_runs import overlay, run_forked
from interruptions import SoundAlarm
from scan_files import write_pairs
from tiny_pretraining import pretraining

from desd_components import DistillationMonitor, UserError
from desd_components.runs.state import read_state


def train(folder, iteration, on_collapse, **settings):
    """Twelve iterations, looked at every second; the alarm, and no other, sounds at `iteration`."""
    alarmed = {"alarmed": lambda monitor: [SoundAlarm(iteration, 0, monitor)]}
    return pretraining(folder, epochs=3, keyed=True, on_collapse=on_collapse, **alarmed, **settings)


@pytest.mark.parametrize(("iteration", "accumulation_steps", "stopped"), [(2, 1, 2), (3, 1, 4), (4, 1, 4), (5, 2, 6)])
def test_stop_saves_the_state_at_the_next_look_and_ends_the_run(tmp_path, iteration, accumulation_steps, stopped):
    with pytest.raises(UserError, match=r"on_collapse: stop\. The teacher says the same\. The state is saved"):
        train(tmp_path, iteration, "stop", accumulation_steps=accumulation_steps)
    assert read_state(tmp_path / "state.pt")["iteration"] == stopped


def test_a_stopped_run_goes_on_when_a_warning_is_enough(tmp_path):
    with pytest.raises(UserError):
        train(tmp_path, 2, "stop")
    assert train(tmp_path, 4, "warn").trainer.state.iteration == 12


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match="on_collapse='wait': choose one of"):
        DistillationMonitor(None, None, on_collapse="wait")


def test_stop_ends_both_processes_with_the_line_of_the_one_that_saw_the_alarm(tmp_path):
    write_pairs(tmp_path / "scans", [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    sound = {"_target_": "interruptions.SoundAlarm", "iteration": 2, "rank": 1, "monitor": "@handlers#monitor"}
    more, run = overlay(tmp_path / "sound.yaml", sound), tmp_path / "run"
    settings = {"dataset_dir": tmp_path / "scans", "cache_dir": tmp_path / "cache", "max_epochs": 3}
    configs = "train smoke multi_gpu_train"
    codes = run_forked("desd_pretrain", configs, run, more, processes=2, on_collapse="stop", **settings)
    said = [(tmp_path / f"run_{rank}.txt").read_text() for rank in (0, 1)]
    assert codes == [1, 1], said
    line = "Stopped after 2 iterations by on_collapse: stop. The teacher says the same. The state is saved"
    assert all(line in words for words in said)
    assert read_state(run / "state.pt")["iteration"] == 2
