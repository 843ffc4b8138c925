import pytest
import torch

from desd_components.distillation.views.augment import (
    along_axes,
    change_contrast,
    change_gamma,
    gaussian_matrix,
    resized,
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


def test_matrices_multiply_along_their_axes_in_double():
    rng = torch.Generator().manual_seed(0)
    volume = torch.rand(2, 3, 4, 5, 6, dtype=torch.float64, generator=rng)
    x, y, z = (torch.rand(2, 7, length, dtype=torch.float64, generator=rng) for length in (4, 5, 6))
    expected = torch.einsum("bcxyz,bix,bjy,bkz->bcijk", volume, x, y, z)
    torch.testing.assert_close(along_axes(volume, [x, y, z]), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_whole_slices_are_resized_as_the_volume_is(dtype):
    slowest_z = torch.rand(2, 6, 30, 21, generator=torch.Generator().manual_seed(0)).to(dtype).permute(0, 2, 3, 1)
    made = resized(slowest_z, (24, 24, 6))
    whole = torch.nn.functional.interpolate(slowest_z[None].double(), (24, 24, 6), mode="trilinear")[0]
    torch.testing.assert_close(made.double(), whole, atol=5e-6, rtol=0)
    assert made.is_contiguous()
