import math

import numpy as np
import pytest
import torch

from desd_components.distillation.views.augment import (
    add_noise,
    along_axes,
    blur,
    change_contrast,
    change_gamma,
    gaussian_matrix,
    hat_matrix,
)


def per_sample(*strengths: float) -> torch.Tensor:
    return torch.tensor(strengths).view(-1, 1, 1, 1, 1)


def random_volumes(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_products_along_axes_equal_the_written_out_sum():
    volume = random_volumes(2, 2, 3, 4, 2)
    matrices = [random_volumes(2, 2, 3), random_volumes(2, 3, 4), random_volumes(2, 5, 2)]
    expected = np.zeros((2, 2, 2, 3, 5))
    for b, c, i, j, k in np.ndindex(expected.shape):
        for x, y, z in np.ndindex(3, 4, 2):
            weight = matrices[0][b, i, x] * matrices[1][b, j, y] * matrices[2][b, k, z]
            expected[b, c, i, j, k] += weight * volume[b, c, x, y, z]
    np.testing.assert_allclose(along_axes(volume, matrices), expected, atol=1e-5)


def test_hat_weights_interpolate_as_numpy_does():
    positions, values = (
        torch.tensor([[0.0, 0.25, 1.5, 4.0], [3.0, 2.9, 0.1, 0.0]]),
        np.array([3.0, -1.0, 2.0, 8.0, 5.0]),
    )
    weights = hat_matrix(positions, length=5)
    np.testing.assert_allclose(
        weights @ torch.tensor(values).float(), np.interp(positions, range(5), values), atol=1e-6
    )


def test_blur_equals_the_written_out_sum_of_renormalised_weights():
    volume, sigma = random_volumes(2, 1, 5, 4, 3), (0.6, 1.7)
    blurred = blur(volume, per_sample(*sigma))
    for b, x, y, z in np.ndindex(2, 5, 4, 3):
        total = norm = 0.0
        for i, j, k in np.ndindex(5, 4, 3):
            weight = math.exp(-((x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2) / (2 * sigma[b] ** 2))
            total, norm = total + weight * volume[b, 0, i, j, k].item(), norm + weight
        assert blurred[b, 0, x, y, z].item() == pytest.approx(total / norm, abs=1e-5)


def test_blur_leaves_a_constant_alone_up_to_the_border():
    torch.testing.assert_close(
        blur(torch.full((1, 1, 6, 5, 4), 3.0), per_sample(2.0)), torch.full((1, 1, 6, 5, 4), 3.0)
    )


def test_blur_of_a_tenth_of_a_voxel_changes_nothing():
    torch.testing.assert_close(gaussian_matrix(torch.tensor([0.1]), 7)[0], torch.eye(7))


def test_noise_has_the_deviation_asked_for():
    noise = add_noise(torch.zeros(2, 1, 40, 40, 40), per_sample(0.1, 0.5), np.array([1, 2]))
    np.testing.assert_allclose(noise.flatten(1).std(dim=1), [0.1, 0.5], rtol=0.02)
    np.testing.assert_allclose(noise.flatten(1).mean(dim=1), [0.0, 0.0], atol=0.01)


def test_noise_depends_on_the_sample_s_own_seed_alone():
    volumes, seeds = torch.zeros(3, 1, 8, 8, 4), np.array([7, 8, 9])
    together = add_noise(volumes, per_sample(1.0, 1.0, 1.0), seeds)
    alone = add_noise(volumes[:1], per_sample(1.0), seeds[1:2])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_noise_is_independent_between_channels():
    first, second = add_noise(torch.zeros(1, 2, 30, 30, 30), per_sample(1.0), np.array([3]))[0].flatten(1)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 0.03


def test_contrast_scales_about_the_mean_and_keeps_the_range():
    volumes, factors = random_volumes(2, 2, 4, 5, 3), (1.25, 0.75)
    changed = change_contrast(volumes, per_sample(*factors)).numpy()
    for b, c in np.ndindex(2, 2):
        channel = volumes[b, c].numpy()
        expected = (channel - channel.mean()) * factors[b] + channel.mean()
        np.testing.assert_allclose(changed[b, c], np.clip(expected, channel.min(), channel.max()), atol=1e-6)


def test_gamma_acts_on_the_normalised_range_and_restores_mean_and_deviation():
    volumes, exponents = random_volumes(2, 2, 4, 5, 3), (0.7, 1.5)
    changed = change_gamma(volumes, per_sample(*exponents)).numpy()
    for b, c in np.ndindex(2, 2):
        channel = volumes[b, c].numpy().astype(np.float64)
        low, high = channel.min(), channel.max()
        curved = ((channel - low) / (high - low)) ** exponents[b] * (high - low) + low
        expected = (curved - curved.mean()) / curved.std() * channel.std() + channel.mean()
        np.testing.assert_allclose(changed[b, c], expected, atol=1e-5)


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
