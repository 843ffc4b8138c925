"""Handlers act at the right moment, counted in optimiser steps."""

import pytest
import torch
from ignite.engine import Engine, Events
from tiny_pretraining import Run

from desd_components import CosineSchedule, FreezePrototypesHandler, LearningRateHandler, TeacherEMAHandler
from desd_components.runs.progress import spoken_time


@pytest.mark.parametrize(("accumulation_steps", "steps"), [(1, 8), (2, 4), (3, 4)])
def test_the_teacher_moves_once_per_optimiser_step(tiny_encoder, monkeypatch, accumulation_steps, steps):
    run = Run(tiny_encoder, accumulation_steps=accumulation_steps)
    momenta = []
    monkeypatch.setattr(run.network, "update_teacher", momenta.append)
    schedule = CosineSchedule(peak=0.9, end=1.0, total_steps=8)
    run.train(TeacherEMAHandler(run.network, schedule))
    assert momenta == [schedule(step) for step in range(steps)]


def test_the_learning_rate_of_every_step_is_the_schedule_s(tiny_encoder):
    run = Run(tiny_encoder, accumulation_steps=2)
    used = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    schedule = CosineSchedule(peak=0.5, end=0.1, total_steps=4, warmup_steps=2)
    run.train(LearningRateHandler(run.optimizer, schedule))
    assert used == [schedule(step) for step in range(4)]
    assert used[0] == 0.0


@pytest.mark.parametrize("stop_after", [2, 5])
def test_rates_of_groups_are_the_schedule_s_to_the_last_bit_in_a_resumed_run_too(stop_after):
    schedule = CosineSchedule(peak=0.3, end=0.07, total_steps=8, warmup_steps=3)
    parts = [{}, {"lr_scale": 0.3}, {"lr_scale": 0.7, "frozen_steps": 4}]
    used, state, saved = [], {"step": 0}, None
    for steps in (stop_after, 8 - stop_after):
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], **part} for part in parts]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        optimizer.register_step_pre_hook(lambda its, *_: used.append([group["lr"] for group in its.param_groups]))
        if saved:
            optimizer.load_state_dict(saved)
        handler, engine = LearningRateHandler(optimizer, schedule), Engine(lambda *_: optimizer.step())  # noqa: B023
        handler.load_state_dict(state)
        handler.attach(engine)
        engine.run(range(steps), max_epochs=1)
        state, saved = handler.state_dict(), optimizer.state_dict()
    assert used == [[schedule(n), schedule(n) * 0.3, schedule(n) * 0.7 if n >= 4 else 0.0] for n in range(8)]


def test_prototypes_rest_in_the_first_epoch_and_move_in_the_second(tiny_encoder):
    run = Run(tiny_encoder)
    history = []

    class Watch:
        def attach(self, engine):
            snapshot = lambda: history.append([p.detach().clone() for p in run.network.prototypes()])  # noqa: E731
            engine.add_event_handler(Events.STARTED, snapshot)
            engine.add_event_handler(Events.EPOCH_COMPLETED, snapshot)

    run.train(FreezePrototypesHandler(run.network), Watch())
    start, first, second = history
    assert len(start) == 4
    assert all(torch.equal(a, b) for a, b in zip(start, first, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.44 s"), (15.2, "15 s"), (600, "10 min"), (7200, "2 h 0 min"), (200000, "2 days 7 h")],
)
def test_durations_are_told_in_words(seconds, words):
    assert spoken_time(seconds) == words
