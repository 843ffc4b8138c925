"""Figures of health mean what they say."""

import copy
import math

import pytest
import torch
from torch import nn

from desd_components.health.measures import (
    ROWS,
    Movement,
    effective_rank,
    finite_rows,
    gradient_norm,
    relative_distance,
    singular_values,
    small_parameters,
    spread,
    view_distance,
    view_match,
)


@pytest.mark.parametrize("directions", [1, 3, 10])
def test_effective_rank_counts_equally_strong_directions(directions):
    noise = torch.randn(64, directions)
    orthogonal, _ = torch.linalg.qr(noise - noise.mean(dim=0))
    features = 5 * orthogonal @ torch.eye(directions, 20) + 100  # whatever the scale and a common offset
    assert effective_rank(features) == pytest.approx(directions, rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 20), (20, 64), (30, 30), (1, 8)])
def test_singular_values_are_those_of_a_decomposition(shape):
    sizes = torch.logspace(0, -9, shape[1], dtype=torch.float64)
    matrix = torch.randn(shape, dtype=torch.float64) * sizes
    matrix -= matrix.mean(dim=0)
    smaller, wanted = matrix if shape[0] <= shape[1] else matrix.T, torch.linalg.svdvals(matrix).flip(0)
    torch.testing.assert_close(singular_values(smaller @ smaller.T), wanted, rtol=0, atol=1e-6 * float(wanted[-1]))


def test_effective_rank_of_features_that_do_not_vary_is_one_and_of_nan_is_nan():
    assert effective_rank(torch.ones(16, 8)) == 1.0
    assert math.isnan(effective_rank(torch.full((16, 8), math.nan)))
    rows = torch.tensor([[1.0, math.inf], [2.0, 3.0]])
    assert torch.equal(finite_rows(rows), rows[1:])


def test_spread_is_zero_for_one_direction_and_one_for_opposite_ones():
    assert spread(torch.rand(9, 1) * torch.ones(9, 4)) == pytest.approx(0, abs=1e-6)
    assert spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(1)
    assert spread(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.sqrt(0.5))


def test_a_match_by_luck_scores_nothing_and_a_perfect_one_much():
    first = torch.randn(40, 8, 16)
    share, score = view_match((batch, batch + 0.01 * torch.randn(8, 16)) for batch in first)
    assert share == 1
    assert score == pytest.approx((320 - 40) / math.sqrt(40 * 7 / 8))  # hits - expected, over the spread of guessing
    share, score = view_match((batch, torch.randn(8, 16)) for batch in first)
    assert abs(share - 1 / 8) < 0.06
    assert abs(score) < 3
    assert all(map(math.isnan, view_match([(torch.randn(1, 4), torch.randn(1, 4))])))  # of single volumes


def test_the_distance_of_a_large_parameter_is_that_of_all_its_rows():
    module, other = (nn.ParameterList([torch.randn(2 * ROWS + 1, 3), torch.randn(())]) for _ in range(2))
    wanted = math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in zip(module, other, strict=True)))
    size = math.sqrt(sum(float(b.detach().square().sum()) for b in other))
    assert relative_distance(module, other) == pytest.approx(wanted / size)


def test_distance_and_movement_are_relative_and_zero_only_for_the_same_bits():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other, movement = copy.deepcopy(module), Movement(lambda: small_parameters(module))
    assert relative_distance(module, other) == 0
    assert math.isnan(movement.since_last())
    again = Movement(lambda: small_parameters(module))
    again.load_state_dict(movement.state_dict())
    assert movement.since_last() == again.since_last() == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert relative_distance(module, other) == pytest.approx(0.5)
    assert movement.since_last() == pytest.approx(0.5 / 1.5)
    with torch.no_grad():
        module[1].bias[0] += 1e-6
    assert movement.since_last() > 0
    zeros = Movement(lambda: [torch.zeros(3)])
    assert math.isnan(zeros.since_last()) and zeros.since_last() == 0


def test_the_gradient_norm_is_that_of_all_parameters_together():
    module = nn.Linear(3, 2)
    assert gradient_norm(module.parameters()) == 0
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 2)
    assert gradient_norm(module.parameters()) == pytest.approx(2 * math.sqrt(8))


def test_views_are_as_far_apart_as_volumes_are_from_their_mean():
    volumes = torch.randn(500, 8)
    assert view_distance(volumes, volumes) == 0
    assert view_distance(volumes, 0.1 * torch.randn(500, 8) + volumes) == pytest.approx(0.1, rel=0.1)
    assert math.isnan(view_distance(torch.ones(3, 8), torch.zeros(3, 8)))
