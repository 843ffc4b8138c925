"""An alarm stops a run where it can be resumed, if the run's settings ask for it."""

import pytest
from ignite.engine import Events
from test_resume import pretraining

from desd_components import CollapseHandler, DistillationMonitor, UserError
from desd_components.statefile import read_state


class SoundAt:
    """Let an alarm sound in the look of an iteration, as the monitor does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)
        self.monitor = DistillationMonitor.__new__(DistillationMonitor)
        self.monitor.interval, self.monitor.sounding = 2, {}

    def __call__(self, engine):
        self.monitor.sounding = {"uniform_collapse": "The teacher says the same."}


class Collapse:
    """The handler under test, made when the monitor is there."""

    def __init__(self, sound, on_collapse):
        self.sound, self.on_collapse = sound, on_collapse

    def attach(self, engine):
        CollapseHandler(self.sound.monitor, self.on_collapse).attach(engine)


def train(folder, iteration, on_collapse, **settings):
    sound = SoundAt(iteration)
    return pretraining(folder, epochs=3, keyed=True, more=[sound, Collapse(sound, on_collapse)], **settings)


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
    with pytest.raises(UserError, match="on_collapse='rescue': choose one of"):
        CollapseHandler(None, "rescue")
