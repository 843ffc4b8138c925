import pytest
import torch

from desd_components.distillation.views.augment import (
    along_axes,
    change_contrast,
    change_gamma,
    gaussian_matrix,
)


def per_sample(*strengths: float) -> torch.Tensor:
    return torch.tensor(strengths).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("change", [change_contrast, change_gamma])
@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_a_constant_volume_stays_what_it_is(change, value):
    torch.testing.assert_close(
        change(torch.full((1, 1, 9, 7, 3), value), per_sample(1.2)), torch.full((1, 1, 9, 7, 3), value)
    )


def test_weights_of_a_blur_hold_no_number_that_is_slow_to_multiply_by():
    weights = gaussian_matrix(torch.tensor([0.1, 0.5, 2.0]), 96)
    assert not ((weights > 0) & (weights < torch.finfo(torch.float32).tiny)).any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 96))


def test_two_matrices_change_slices_in_plane_and_turn_them_in_double():
    rng = torch.Generator().manual_seed(0)
    slices = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64, generator=rng)  # z, x, y
    x, y = (torch.rand(2, 7, length, dtype=torch.float64, generator=rng) for length in (5, 6))
    expected = torch.einsum("bczxy,bix,bjy->bcijz", slices, x, y)
    torch.testing.assert_close(along_axes(slices, [x, y]), expected)
