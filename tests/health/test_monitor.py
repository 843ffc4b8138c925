"""The monitor tells learning from both sides of a collapse."""

import logging
import math
import re

import pytest
import torch
from monai.utils.enums import CommonKeys

from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    DistillationMonitor,
    DistillationOutput,
)


class Step:
    """What the monitor sees of an engine."""

    def __init__(self):
        self.iteration, self.epoch, self.epoch_length, self.max_epochs, self.output = 0, 1, 1000, 1, {}

    @property
    def state(self):
        return self


@pytest.fixture
def monitor(tiny_encoder):
    network = DeepSelfDistillationNetwork(tiny_encoder, 16, head_hidden=8, head_bottleneck=8)
    for parameter in network.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    return DistillationMonitor(network, DeepSelfDistillationLoss(16), interval=1, patience=3)


def look(monitor, step, teacher, student, features):
    output = DistillationOutput(student, teacher, pooled=features)
    step.iteration += 1
    monitor._look_at_gradients(step)
    step.output = {CommonKeys.PRED: output, CommonKeys.LOSS: monitor.loss(output)}
    monitor._look(step)


def varied():
    return tuple(torch.randn(1, 16, 32) + 0.1 * torch.randn(2, 16, 32) for _ in range(4))


SURE = torch.eye(16)[0] * 9
CASES = {
    "healthy": (lambda: (torch.rand(2, 16, 16) * 0.3, torch.rand(4, 2, 16, 16) * 0.1), None),
    "uniform": (lambda: (torch.zeros(2, 16, 16), torch.zeros(4, 2, 16, 16)), r"ln K = 2\.773.*Lower teacher_temp"),
    "one_sided": (lambda: (SURE.expand(2, 16, 16), SURE.expand(4, 2, 16, 16)), "names the same prototypes"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_alarm_sounds_once_after_its_patience_and_only_where_there_is_harm(monitor, caplog, case):
    logits, words = CASES[case]
    monitor.loss.center_momentum = 1.0  # the centre stays, so that the case stays what it is
    step, patience = Step(), 6 if case == "one_sided" else 3
    with caplog.at_level(logging.WARNING):
        for _ in range(patience - 1):
            look(monitor, step, *logits(), varied())
        assert not caplog.records
        for _ in range(3):
            look(monitor, step, *logits(), varied())
    assert len(caplog.records) == (words is not None)
    assert words is None or re.search(words, caplog.text)


def test_the_rank_is_taken_over_a_buffer_of_volumes(monitor):
    monitor.buffer, step = 48, Step()
    for _ in range(5):
        look(monitor, step, torch.rand(2, 16, 16), torch.rand(4, 2, 16, 16), varied())
    assert monitor.scalars()["feature_rank_bound"] == min(47, 32)


def test_a_center_that_does_not_follow_is_told_from_one_that_does_and_one_that_is_not_used(monitor):
    step = Step()

    def movement():
        for _ in range(2):
            look(monitor, step, torch.rand(2, 16, 16), torch.rand(4, 2, 16, 16), varied())
        return monitor.scalars()["center_movement"]

    assert movement() > 0
    monitor.loss.to(torch.float64).to(torch.float32)  # other tensors, as when a run moves to its device
    assert movement() > 0
    monitor.loss.center_momentum = 1.0
    assert movement() == 0
    monitor.loss.centering = "sinkhorn"
    assert math.isnan(movement())


def test_the_stride_is_how_far_a_step_moves_the_student(monitor):
    step = Step()

    def stride_after(iterations):
        with torch.no_grad():
            for parameter in monitor.network.student.parameters():
                parameter.mul_(1.25)  # a fifth of what it becomes
        step.iteration += iterations - 1
        look(monitor, step, torch.rand(2, 16, 16), torch.rand(4, 2, 16, 16), varied())
        return monitor.scalars()["student_stride"]

    stride_after(1)
    assert stride_after(1) == pytest.approx(0.2, rel=1e-3)
    assert stride_after(5) == pytest.approx(0.04, rel=1e-3)
