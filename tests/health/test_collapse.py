"""An alarm stops a run where it can be resumed, or lets it be rescued, if the run's settings ask for it."""

import logging
import re

import pytest
import torch
from forked_runs import overlay, run_forked
from ignite.engine import Events
from scan_files import write_pairs
from states import differing, figures
from tiny_pretraining import pretraining

from desd_components import CollapseHandler, UserError
from desd_components.health.rescue import copied
from desd_components.runs.state import read_state


class SoundAt:
    """Let an alarm sound in the look after some iterations, as the monitor does."""

    def __init__(self, monitor, iterations, name):
        self.monitor, self.iterations, self.name = monitor, iterations, name

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        if engine.state.iteration in self.iterations:
            self.monitor.sounding = {self.name: "The teacher says the same."}


class Watch:
    """The network's state after each iteration."""

    def __init__(self):
        self.after = {}

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        self.after[engine.state.iteration] = copied(engine.network.state_dict())


def train(folder, iteration, on_collapse, name="uniform_collapse", max_rescues=3, again=(), **settings):
    """Twelve iterations, looked at every second; the alarm sounds at `iteration`, and `again`."""

    def collapse(monitor, rate, teacher):
        monitor.patience = 1
        monitor.alarms = []  # so that none but the given one sounds
        handler = CollapseHandler(monitor, rate, teacher, on_collapse, max_rescues)
        return [SoundAt(monitor, {iteration, *again}, name), handler], {"collapse": handler}

    return pretraining(folder, epochs=3, keyed=True, monitored=collapse, **settings)


@pytest.mark.parametrize(("iteration", "accumulation_steps", "stopped"), [(2, 1, 2), (3, 1, 4), (4, 1, 4), (5, 2, 6)])
def test_stop_saves_the_state_at_the_next_look_and_ends_the_run(tmp_path, iteration, accumulation_steps, stopped):
    with pytest.raises(UserError, match=r"on_collapse: stop\. The teacher says the same\. The state is saved"):
        train(tmp_path, iteration, "stop", accumulation_steps=accumulation_steps)
    assert read_state(tmp_path / "state.pt")["iteration"] == stopped


def test_a_stopped_run_goes_on_when_a_warning_is_enough(tmp_path):
    with pytest.raises(UserError):
        train(tmp_path, 2, "stop")
    assert train(tmp_path, 99, "warn").trainer.state.iteration == 12


def test_warn_lets_the_run_go_on(tmp_path):
    assert train(tmp_path, 2, "warn").trainer.state.iteration == 12


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match="on_collapse='wait': choose one of"):
        CollapseHandler(None, None, None, "wait")


def test_a_rescue_goes_back_to_the_last_healthy_state_and_says_what_it_changed(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run = train(tmp_path, 6, "rescue", "divergence")
    assert run.trainer.state.iteration == 12
    assert "Iteration 6: rescue 1 of 3 from divergence." in caplog.text
    assert "those of iteration 2 again; learning rate x 0.1 of its schedule from here on" in caplog.text


def test_what_is_put_back_is_what_was_there(tmp_path):
    watch = Watch()
    train(tmp_path, 6, "rescue", "divergence", more=[watch])

    def same(one, other):
        return all(torch.equal(value, watch.after[other][name]) for name, value in watch.after[one].items())

    assert same(2, 6)
    assert not same(2, 5)
    assert not same(2, 7)


def test_a_rescued_run_that_is_resumed_ends_bit_for_bit_like_the_unbroken_one(tmp_path):
    train(tmp_path / "whole", 3, "rescue", again=[7])
    train(tmp_path / "broken", 3, "rescue", again=[7], stop_after=2)
    train(tmp_path / "broken", 3, "rescue", again=[7])
    assert differing(tmp_path / "whole", tmp_path / "broken") == []
    assert figures(tmp_path / "whole") == figures(tmp_path / "broken")
    assert read_state(tmp_path / "whole" / "state.pt")["objects"]["collapse"]["rescues"] == 2


def test_a_rescued_run_keeps_its_settings_when_a_warning_is_enough(tmp_path):
    train(tmp_path, 3, "rescue", "divergence", stop_after=1)
    run = train(tmp_path, 99, "warn")
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * run.rate.schedule(12))


@pytest.mark.parametrize(
    ("name", "again", "words"),
    [("teacher_gradient", [], "No setting"), ("divergence", [4, 6], "rescued 2 times already")],
)
def test_a_rescue_stops_where_no_setting_is_to_blame_or_too_many_have_failed(tmp_path, name, again, words):
    with pytest.raises(UserError, match=f"on_collapse: rescue.*{words}"):
        train(tmp_path, 2, "rescue", name, max_rescues=2, again=again)


@pytest.fixture
def in_two_processes(tmp_path):
    """Run a bundle whose second process alone hears an alarm; exit codes, and what each process said."""
    write_pairs(tmp_path / "scans", [f"case_{number}" for number in range(8)], shape=(16, 17, 16))

    def train(on_collapse, iteration=2):
        sound = {"_target_": "interruptions.SoundAlarm", "iteration": iteration, "rank": 1, "name": "divergence"}
        more = overlay(tmp_path / "sound.yaml", {**sound, "monitor": "@monitor"})
        settings = {"dataset_dir": tmp_path / "scans", "cache_dir": tmp_path / "cache", "val_volumes": 2}
        settings |= {"on_collapse": on_collapse, "max_epochs": 3}
        run = tmp_path / "run"
        codes = run_forked("desd_pretrain", "train smoke multi_gpu_train", run, more, processes=2, **settings)
        return codes, [(tmp_path / f"run_{rank}.txt").read_text() for rank in (0, 1)]

    return train


def networks(said):
    """The network after each iteration, as a digest."""
    return [digest for _, digest in re.findall(r"after iteration (\d+): (\w+)", said)]


def test_stop_ends_both_processes_with_the_line_of_the_one_that_saw_the_alarm(in_two_processes, tmp_path):
    codes, said = in_two_processes("stop")
    assert codes == [1, 1], said
    line = "Stopped after 2 iterations by on_collapse: stop. The teacher says the same. The state is saved"
    assert all(line in words for words in said)
    assert read_state(tmp_path / "run" / "state.pt")["iteration"] == 2


def test_a_rescue_takes_both_processes_back_alike(in_two_processes):
    codes, said = in_two_processes("rescue")
    assert codes == [0, 0], said
    first, second = map(networks, said)
    assert len(first) == 6
    assert first == second
    assert len(set(first)) == 6
    assert "Iteration 2: rescue 1 of 3 from divergence" in said[0]
