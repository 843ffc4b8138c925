"""A budget: a training ends when its minutes are over, its schedules with it, however fast the machine turns out."""

import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from desd_components import BudgetHandler, CosineSchedule, LearningRateHandler, SelfTrainingSchedule, ValidationHandler
from desd_components.runs import budget as module

STEPS = 4  # of an epoch


class Clock:
    """Seconds that pass only as told."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


class Scans(list):
    """A loader that is its own dataset, of volumes of one scan each."""

    @property
    def dataset(self) -> list:
        return [{"image": each["image"][0]} for each in self]


def validator(clock: Clock, seconds: float, count: int = 12) -> tuple[SupervisedEvaluator, list[int]]:
    """An evaluator that takes so many seconds for each scan, and how many scans each of its runs has seen."""
    seen: list[int] = []

    def infer(inputs, network):
        clock.now += seconds
        return network(inputs)

    evaluator = SupervisedEvaluator(
        device="cpu", network=torch.nn.Linear(2, 1), inferer=infer, decollate=False,
        val_data_loader=Scans({"image": torch.ones(1, 2), "label": torch.ones(1, 1)} for _ in range(count)),
    )  # fmt: skip
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: seen.append(engine.state.iteration))
    return evaluator, seen


def trained(
    clock: Clock,
    minutes: float | None,
    seconds: list[float],
    state: dict | None = None,
    evaluator=None,
    interval=None,
    others=(),
):
    """A trainer of which each epoch takes the next of so many seconds, the last of them from then on."""
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), 0.1)
    rate = LearningRateHandler(optimizer, CosineSchedule(1.0, 0.0, 8 * STEPS, warmup_steps=2))
    handler = BudgetHandler(minutes, [rate, *others], STEPS, evaluator)
    if state is not None:
        handler.load_state_dict(state)
    validating = [] if evaluator is None else [ValidationHandler(evaluator, interval)]
    network = torch.nn.Linear(2, 1)
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=8, train_data_loader=[{"image": torch.ones(1, 2), "label": torch.ones(1, 1)}] * STEPS,
        network=network, optimizer=torch.optim.SGD(network.parameters(), 0.1), loss_function=torch.nn.MSELoss(),
        train_handlers=[handler, rate, *validating], decollate=False,
    )  # fmt: skip

    @trainer.on(Events.ITERATION_STARTED)
    def _pass() -> None:
        clock.now += seconds[min(trainer.state.epoch, len(seconds)) - 1] / STEPS

    trainer.run()
    return trainer, handler, rate


@pytest.mark.parametrize(("seconds", "epochs"), [([10.0], 6), ([2.0], 29), ([30.0], 2), ([55.0], 1)])
def test_as_many_epochs_as_fit_are_trained_and_the_schedule_ends_with_them(clock, seconds, epochs):
    trainer, handler, rate = trained(clock, 1, seconds)
    assert trainer.state.epoch == epochs
    assert handler.seconds <= 66
    assert rate.schedule.total_steps == epochs * STEPS and rate.schedule(epochs * STEPS - 1) <= 0.5


@pytest.mark.parametrize(("seconds", "steps"), [([100.0], 2), ([20.0, 50.0], 7)])
def test_an_epoch_of_which_too_little_fits_is_cut_and_the_schedule_ends_there(clock, caplog, seconds, steps):
    caplog.set_level("INFO")
    evaluator, seen = validator(clock, seconds=0.1)
    trainer, handler, rate = trained(clock, 1, seconds, evaluator=evaluator)
    assert trainer.state.iteration == steps and handler.seconds <= 66
    assert rate.schedule.total_steps == max(steps, 3)  # two of them warm up
    assert trainer.state.epoch == len(seconds) and seen == [12]
    assert f"ends after {steps} steps, within epoch {len(seconds)}: on a machine in use, give more." in caplog.text


def test_the_first_few_steps_tell_how_many_epochs_fit(clock, monkeypatch):
    monkeypatch.setattr(module, "WATCHED", 2)
    told: list[tuple[float, int]] = []

    class Follower:
        schedule = CosineSchedule(1.0, 0.0, 8 * STEPS)

        def __setattr__(self, name, schedule):
            told.append((clock.now, schedule.total_steps))

    trained(clock, 1, [30.0], others=[Follower()])
    assert [total for _, total in told] == [2 * STEPS] * len(told) and told[0][0] == 1015.0


def test_what_is_a_share_of_the_steps_stays_that_share(clock):
    other = SimpleNamespace(schedule=SelfTrainingSchedule(8 * STEPS, supervised=0.5))
    trained(clock, 1, [30.0], others=[other])
    assert other.schedule.total_steps == 2 * STEPS and other.schedule.supervised_steps == STEPS


def test_a_machine_that_slows_down_still_ends_in_time(clock):
    _, handler, _ = trained(clock, 2, [5.0] * 8 + [12.0])
    assert 0.9 * 120 <= handler.seconds <= 1.1 * 120


@pytest.mark.parametrize("interval", [None, 4])
def test_the_validation_after_the_last_epoch_has_its_time(clock, interval):
    evaluator, seen = validator(clock, seconds=1.0)
    trainer, handler, _ = trained(clock, 2, [5.0], evaluator=evaluator, interval=interval)
    assert seen == [12] * math.ceil(trainer.state.epoch / (interval or trainer.state.epoch))
    assert trainer.state.epoch > 8 and 0.92 * 120 <= handler.seconds <= 1.03 * 120


def test_a_validation_takes_a_tenth_of_the_minutes_at_most(clock, caplog):
    caplog.set_level("INFO")
    evaluator, seen = validator(clock, seconds=4.0)
    _, handler, _ = trained(clock, 2, [5.0], evaluator=evaluator)
    assert seen == [3] and handler.seconds <= 1.03 * 120
    assert "validation: 3 of 12 scans" in caplog.text


def test_without_minutes_the_run_is_as_long_as_planned_and_all_scans_are_validated(clock):
    evaluator, seen = validator(clock, seconds=400.0)
    trainer, _, rate = trained(clock, None, [1000.0], evaluator=evaluator)
    assert trainer.state.epoch == 8 and rate.schedule.total_steps == 8 * STEPS and seen == [12]


def test_a_run_that_goes_on_counts_what_it_has_taken(clock):
    trainer, handler, rate = trained(clock, 1, [10.0], {"seconds": 40.0, "epochs": 5})
    assert trainer.state.epoch == 2 and handler.seconds == pytest.approx(60, abs=1)
    assert rate.schedule.total_steps == 2 * STEPS


def test_a_run_that_goes_on_within_an_epoch_knows_how_long_a_whole_one_takes(clock):
    handler = BudgetHandler(1, [], STEPS)
    state = SimpleNamespace(epoch=3, iteration=3 * STEPS - 1, epoch_length=STEPS, max_epochs=8)
    handler._begin(SimpleNamespace(state=state))
    clock.now += 2.5  # the last step of the third epoch
    state.iteration += 1
    handler._foresee(SimpleNamespace(state=state, should_terminate_single_epoch=False))
    assert state.max_epochs == 3 + round((58.2 - 2.5) / 10)


def test_the_age_of_this_process_is_known():
    assert 0 < module.process_age() < 24 * 3600
