"""The encoder has the published shape."""

import pytest
import torch
from torch import nn

from desd_components import ResNet3DEncoder, UserError, pooled_stages


def test_resnet50_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in ResNet3DEncoder().parameters()) == 46_155_072


def test_resnet50_makes_the_published_maps_of_a_full_size_view():
    encoder = ResNet3DEncoder().eval()
    with torch.no_grad():
        maps = encoder.stages(torch.randn(1, 1, 96, 96, 16))
    assert [tuple(m.shape) for m in maps] == [
        (1, 256, 24, 24, 8),
        (1, 512, 12, 12, 4),
        (1, 1024, 6, 6, 2),
        (1, 2048, 3, 3, 1),
    ]


@pytest.mark.parametrize(
    ("norm", "kind"), [("instance", nn.InstanceNorm3d), ("batch", nn.BatchNorm3d), ("group", nn.GroupNorm)]
)
def test_every_norm_is_the_one_asked_for(norm, kind):
    encoder = ResNet3DEncoder(depth=18, width=8, norm=norm)
    norms = [m for m in encoder.modules() if isinstance(m, nn.InstanceNorm3d | nn.BatchNorm3d | nn.GroupNorm)]
    assert len(norms) == 20
    assert all(isinstance(m, kind) and m.weight is not None for m in norms)


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
@pytest.mark.parametrize("size", [(24, 24, 24), (33, 21, 18)])
def test_stage_shapes_are_those_of_the_maps(depth, size):
    encoder = ResNet3DEncoder(in_channels=2, depth=depth, width=8, stem_stride=(2, 1, 1), stem_pool=False)
    x = torch.randn(1, 2, *size)
    maps = encoder.stages(x)
    assert [tuple(m.shape[2:]) for m in maps] == encoder.stage_shapes(size)
    assert tuple(m.shape[1] for m in maps) == encoder.stage_channels
    torch.testing.assert_close(encoder(x), maps[3])


@pytest.mark.parametrize(
    ("kind", "pooled"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_features_are_pooled_in_float32_at_least(kind, pooled):
    stage_map = torch.randn(2, 3, 5, 6, 7).to(kind)
    [features] = pooled_stages([stage_map])
    assert features.dtype == pooled
    torch.testing.assert_close(features.double(), stage_map.double().mean((2, 3, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 20}, "comes in the depths"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"norm": "group", "width": 12}, "a width that 8 divides"),
        ({"stem_kernel": 4}, "must be odd"),
        ({"in_channels": 0}, "in_channels=0: give a whole number of at least 1"),
        ({"in_channels": "4"}, "in_channels='4': give a whole number"),
        ({"width": 0}, "width=0"),
        ({"stage_strides": (1, 2, 2)}, "four of each"),
        ({"stem_stride": (2, 2)}, "three in"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        ResNet3DEncoder(**arguments)
