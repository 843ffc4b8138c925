"""Maps with z slowest: the same numbers as in the order x, y, z, for any kernel and stride."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from desd_components.base.arithmetic import with_z_first, z_first, z_last

STRIDES = [1, 2, (2, 2, 1), (1, 2, 3)]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_gives_the_same_values_and_gradients(kernel, stride):
    torch.manual_seed(0)
    plain = nn.Conv3d(2, 3, kernel, stride=stride, padding=kernel // 2).double()
    x = torch.randn(2, 2, 9, 8, 5, dtype=torch.float64)
    expected = plain(x)
    expected.square().sum().backward()
    gradient = plain.weight.grad.clone()
    plain.zero_grad()
    found = z_last(with_z_first(plain)(z_first(x)))
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain.weight.grad, gradient)


def test_a_kernel_and_its_gradient_lie_in_memory_as_maps_do_also_once_loaded():
    layer = with_z_first(nn.Conv3d(2, 3, 3, padding=1))
    layer.load_state_dict(nn.Conv3d(2, 3, 3).state_dict())
    layer(z_first(torch.randn(1, 2, 4, 4, 4))).sum().backward()
    for kernel in (layer.weight, layer.weight.grad):
        assert kernel.shape == (3, 2, 3, 3, 3) and kernel.permute(0, 1, 4, 2, 3).is_contiguous()


def test_there_and_back_is_the_same_volume():
    x = torch.arange(120.0).reshape(1, 1, 4, 5, 6)
    assert z_first(x).shape == (1, 1, 6, 4, 5)
    assert torch.equal(z_last(z_first(x)), x)
