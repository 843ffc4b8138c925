"""Sinkhorn-Knopp centring is the written-out alternation, and fills all prototypes alike."""

import math

import pytest
import torch

from desd_components.distillation.centering import sinkhorn


def written_out(logits, temperature, iterations):
    rows = [[math.exp(float(value) / temperature) for value in row] for row in logits]
    rows = [[value / sum(row) for value in row] for row in rows]
    for _ in range(iterations):
        for k in range(len(rows[0])):
            total = sum(row[k] for row in rows)
            for row in rows:
                row[k] /= total
        for row in rows:
            total = sum(row)
            row[:] = [value / total for value in row]
    return torch.tensor(rows)


@pytest.mark.parametrize("iterations", [1, 3])
def test_targets_equal_the_written_out_alternation(iterations):
    logits = torch.rand(7, 4)
    torch.testing.assert_close(sinkhorn(logits, 0.3, iterations), written_out(logits, 0.3, iterations))


def test_rows_sum_to_one_and_columns_become_equally_full():
    targets = sinkhorn(torch.rand(64, 8), 0.1, iterations=50)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(targets.sum(dim=0), torch.full((8,), 8.0), rtol=1e-2, atol=0)


def test_a_preference_that_all_rows_share_says_nothing():
    logits = torch.rand(32, 6)
    shifted = logits + torch.tensor([5.0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(sinkhorn(shifted, 0.5, 30), sinkhorn(logits, 0.5, 30), rtol=1e-3, atol=1e-4)


def test_large_logits_stay_finite():
    assert torch.isfinite(sinkhorn(1000 * torch.rand(5, 3), 0.01)).all()
