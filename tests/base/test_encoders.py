"""Before an encoder runs, it is told where its maps become too small."""

import logging

import pytest

from desd_components import ResNet3DEncoder, UserError, refuse_small_maps


def test_one_voxel_at_stage_four_is_refused():
    with pytest.raises(UserError, match=r"a map of \(1, 1, 1\) at stage 4"):
        refuse_small_maps(ResNet3DEncoder(depth=10, width=8), (32, 32, 16))


def test_a_few_voxels_at_stage_four_are_warned_of(tiny_encoder, caplog):
    refuse_small_maps(tiny_encoder, (24, 24, 24))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        refuse_small_maps(tiny_encoder, (16, 16, 8))
    assert "(2, 2, 1) (4 voxels) at stage 4" in caplog.text
