"""The monitor tells learning from both sides of a collapse."""

import logging
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
from desd_components.monitor import effective_rank, starting_lines


@pytest.mark.parametrize("directions", [1, 3, 10])
def test_effective_rank_counts_equally_strong_directions(directions):
    noise = torch.randn(64, directions)
    orthogonal, _ = torch.linalg.qr(noise - noise.mean(dim=0))
    features = orthogonal @ torch.eye(directions, 20)
    assert effective_rank(features) == pytest.approx(directions, rel=1e-4)


def test_effective_rank_ignores_a_common_offset_and_a_scale():
    features = torch.randn(32, 8)
    assert effective_rank(5 * features + 100) == pytest.approx(effective_rank(features), rel=1e-4)


def test_effective_rank_of_features_that_do_not_vary_is_one():
    assert effective_rank(torch.ones(16, 8)) == 1.0


class Step:
    """What the monitor sees of an engine."""

    def __init__(self):
        self.iteration, self.epoch, self.epoch_length, self.output = 0, 1, 1000, {}

    @property
    def state(self):
        return self


@pytest.fixture
def monitor(tiny_encoder):
    network = DeepSelfDistillationNetwork(tiny_encoder, 16, head_hidden=8, head_bottleneck=8)
    return DistillationMonitor(network, DeepSelfDistillationLoss(16), interval=1, patience=3)


def look(monitor, step, teacher, student, features):
    output = DistillationOutput(student, teacher, features)
    step.iteration += 1
    step.output = {CommonKeys.PRED: output, CommonKeys.LOSS: monitor.loss(output)}
    monitor._look(step)


def varied():
    return tuple(torch.randn(16, 32) for _ in range(4))


CASES = {
    "healthy": (lambda: (torch.rand(2, 16, 16) * 0.3, torch.rand(4, 2, 16, 16)), varied, None),
    "uniform": (
        lambda: (torch.zeros(2, 16, 16), torch.zeros(4, 2, 16, 16)),
        varied,
        r"ln K = 2\.773.*Lower teacher_temperature",
    ),
    "one_sided": (
        lambda: (torch.eye(16)[0].expand(2, 16, 16) * 9, torch.eye(16)[0].expand(4, 2, 16, 16) * 9),
        varied,
        "agree on one prototype",
    ),
    "flat features": (
        lambda: (torch.rand(2, 16, 16), torch.rand(4, 2, 16, 16)),
        lambda: tuple(torch.ones(16, 32) for _ in range(4)),
        r"vary along 1\.0 directions",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_alarm_sounds_once_after_its_patience_and_only_where_there_is_harm(monitor, caplog, case):
    logits, features, words = CASES[case]
    monitor.loss.center_momentum = 1.0  # the centre stays, so that the case stays what it is
    step = Step()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            look(monitor, step, *logits(), features())
        assert not caplog.records
        for _ in range(4):
            look(monitor, step, *logits(), features())
    if words is None:
        assert not caplog.records
    else:
        assert len(caplog.records) == 1
        assert re.search(words, caplog.text)


def test_the_rank_is_taken_over_a_buffer_of_volumes(monitor):
    monitor.buffer, step = 48, Step()
    for _ in range(5):
        look(monitor, step, torch.rand(2, 16, 16), torch.rand(4, 2, 16, 16), varied())
    assert monitor.scalars()["feature_rank_bound"] == min(47, 32)


def test_the_starting_lines_say_half_life_and_ln_k():
    lines = starting_lines(DeepSelfDistillationLoss(1024), learning_rate=0.3, teacher_momentum=0.5, steps=10)
    assert "half-life is 1 steps" in lines
    assert "ln K = 6.9315" in lines
    assert "half-life is inf" in starting_lines(DeepSelfDistillationLoss(8), 0.3, 1.0, 10)
