"""Schedules reproduce the published recipe, point by point."""

import math

import pytest

from desd_components import CosineSchedule, UserError


def test_learning_rate_follows_the_published_rule_at_every_step():
    epochs, per_epoch, warmup_epochs = 30, 7, 10
    total, warmup = epochs * per_epoch, warmup_epochs * per_epoch
    schedule = CosineSchedule(peak=0.225, end=0.048, total_steps=total, warmup_steps=warmup)

    expected = [0.225 * i / (warmup - 1) for i in range(warmup)]
    n = total - warmup
    expected += [0.048 + 0.5 * (0.225 - 0.048) * (1 + math.cos(math.pi * i / n)) for i in range(n)]

    assert [schedule(step) for step in range(total)] == pytest.approx(expected, abs=1e-12)


def test_teacher_momentum_starts_at_its_base_and_never_reaches_one():
    schedule = CosineSchedule(peak=0.996, end=1.0, total_steps=1000)
    values = [schedule(step) for step in range(1000)]
    assert values[0] == 0.996
    assert values == sorted(values)
    assert 0.99999 < values[-1] < 1.0


def test_steps_past_the_end_keep_the_last_value():
    schedule = CosineSchedule(peak=1.0, end=0.0, total_steps=10)
    assert schedule(25) == schedule(9) > 0


@pytest.mark.parametrize(
    ("total", "warmup", "words"),
    [
        (10, 10, "does not fit into a run of 10 steps"),
        (10, 11, "does not fit into a run of 10 steps"),
        (0, 0, "0 optimiser steps"),
    ],
)
def test_a_warm_up_that_does_not_fit_and_a_run_without_steps_are_refused(total, warmup, words):
    with pytest.raises(UserError, match=words):
        CosineSchedule(peak=1.0, end=0.0, total_steps=total, warmup_steps=warmup)
