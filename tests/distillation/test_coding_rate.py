"""The coding rate is the written-out determinant, and grows as features spread."""

import math

import pytest
import torch

from desd_components import CodingRateTerm, DistillationOutput, UserError
from desd_components.distillation.terms.coding_rate import coding_rate


def determinant(matrix):
    """By expansion along the first row."""
    if len(matrix) == 1:
        return matrix[0][0]
    minors = [[row[:k] + row[k + 1 :] for row in matrix[1:]] for k in range(len(matrix))]
    return sum((-1) ** k * matrix[0][k] * determinant(minor) for k, minor in enumerate(minors))


def written_out(features, precision):
    count, channels = features.shape
    rows = [[float(v) for v in row] for row in features]
    means = [sum(row[c] for row in rows) / count for c in range(channels)]
    rows = [[v - m for v, m in zip(row, means, strict=True)] for row in rows]
    rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
    factor = channels / (count * precision**2)
    matrix = [
        [float(a == b) + factor * sum(row[a] * row[b] for row in rows) for b in range(channels)]
        for a in range(channels)
    ]
    return 0.5 * math.log(determinant(matrix))


@pytest.mark.parametrize("count", [3, 9])
def test_the_rate_equals_the_written_out_determinant(count):
    features = torch.randn(count, 5)
    assert coding_rate(features, 0.7).item() == pytest.approx(written_out(features, 0.7), rel=1e-4)


def test_features_along_one_direction_have_a_lower_rate():
    line = torch.randn(16, 1) * torch.ones(1, 8)
    assert coding_rate(line) < coding_rate(torch.randn(16, 8))


def test_the_term_is_the_weighted_mean_over_stages_and_views_and_reaches_the_features():
    pooled = tuple(torch.randn(2, 6, channels, requires_grad=True) for channels in (4, 8))
    output = DistillationOutput(torch.zeros(2, 2, 6, 3), torch.zeros(2, 6, 3), pooled=pooled)
    term = CodingRateTerm(weight=0.5, stages=(1, 2))
    loss = term(output)
    expected = sum(coding_rate(view.detach()).item() for stage in pooled for view in stage) / 4
    assert loss.item() == pytest.approx(-0.5 * expected, rel=1e-5)
    assert term.scalars()["coding_rate"] == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(stage.grad.abs().sum() > 0 for stage in pooled)


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"weight": 1.0, "precision": 0.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="coding rate"):
        CodingRateTerm(**settings)
