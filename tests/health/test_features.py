"""Features of whole scans: stitched maps, and colours that mean something."""

import numpy as np
import pytest
import torch

from desd_components import StageInferer
from desd_components.health.features import principal_colors


def test_one_window_over_the_whole_scan_gives_the_encoder_s_own_maps(tiny_encoder):
    tiny_encoder.eval()
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        maps = StageInferer(roi_size=(16, 16, 16), overlap=0.0)(x, tiny_encoder)
        for found, expected in zip(maps, tiny_encoder.stages(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(24, 16, 40), (9, 30, 17)])
def test_maps_of_any_scan_have_the_resolution_of_their_stage(tiny_encoder, size):
    with torch.no_grad():
        maps = StageInferer(roi_size=(16, 16, 16), overlap=0.25, mode="gaussian")(
            torch.randn(1, 1, *size), tiny_encoder
        )
    for stage, (found, channels) in enumerate(zip(maps, tiny_encoder.stage_channels, strict=True)):
        assert found.shape[1] == channels
        assert all(abs(n - s / 2**stage) <= 1 for n, s in zip(found.shape[2:], size, strict=True))
        assert torch.isfinite(found).all()


def test_colours_follow_the_strongest_directions_of_the_features():
    x = torch.linspace(-1, 1, 8)[:, None, None].expand(8, 8, 8)
    y = torch.linspace(-1, 1, 8)[None, :, None].expand(8, 8, 8)
    colors = principal_colors(torch.stack([10 * x, 3 * y, 0.01 * torch.randn(8, 8, 8), torch.zeros(8, 8, 8)]))
    assert colors.shape == (8, 8, 8, 3) and colors.min() >= 0 and colors.max() <= 1
    assert abs(np.corrcoef(colors[..., 0].ravel(), x.numpy().ravel())[0, 1]) > 0.99
    assert abs(np.corrcoef(colors[..., 1].ravel(), y.numpy().ravel())[0, 1]) > 0.99
    assert np.isfinite(principal_colors(torch.randn(2, 3, 3, 3))).all()
    assert not principal_colors(torch.ones(5, 3, 3, 3)).any()


def test_maps_of_more_voxels_than_torch_sorts_are_coloured_too():
    assert principal_colors(torch.arange(257.0 * 256 * 256).reshape(1, 257, 256, 256)).shape == (257, 256, 256, 3)
