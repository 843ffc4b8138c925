"""Networks of MONAI and nnU-Net serve as encoders, of as many stages as they have."""

import sys

import pytest
import torch

from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    NetworkEncoder,
    ResNet3DEncoder,
    SegmentationNetwork,
    UserError,
    build_encoder,
    encoder_from,
    load_encoder,
    parameter_groups,
    read_manifest,
    refuse_small_maps,
    save_weights,
)
from desd_components.health.alarms import all_alarms

TINY = {
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1]},
    "DynUNet": {"strides": [1, [2, 2, 1], 2], "filters": [4, 8, 8], "res_block": True},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
    "ResNetFeatures": {"model_name": "resnet18", "dilated": True},
    "Anatomix": {"channels": [4, 6, 8]},
    "PlainConvEncoder": {"n_stages": 5, "features_per_stage": [4, 4, 6, 8, 8], "n_conv_per_stage": 1},
    "ResidualEncoder": {"n_stages": 3, "features_per_stage": [4, 6, 8], "strides": [1, [1, 2, 2], 2]},
}
PACKAGES = dict.fromkeys(("PlainConvEncoder", "ResidualEncoder"), "dynamic_network_architectures")
STAGES = {
    **{"SegResNet": 2, "DynUNet": 3, "SwinUNETR": 5, "ResNetFeatures": 5, "Anatomix": 3},
    **{"PlainConvEncoder": 5, "ResidualEncoder": 3},
}


@pytest.fixture(params=TINY)
def encoder(request):
    pytest.importorskip({**PACKAGES, "SwinUNETR": "einops"}.get(request.param, "monai"))
    return NetworkEncoder(request.param, **TINY[request.param])


def test_maps_have_the_channels_and_sizes_that_are_told_of_volumes_of_any_size(encoder):
    for size in ((32, 32, 32), (33, 20, 17)):
        maps = encoder.stages(torch.randn(2, 1, *size))
        assert [tuple(m.shape[2:]) for m in maps] == encoder.stage_shapes(size)
        assert tuple(m.shape[1] for m in maps) == encoder.stage_channels
    assert len(maps) == len(encoder.stage_modules) == STAGES[encoder.architecture["network"]]


def test_a_step_teaches_every_stage_and_the_teacher_follows(encoder):
    network = DeepSelfDistillationNetwork(encoder, 8, head_hidden=8, head_bottleneck=4)
    loss = DeepSelfDistillationLoss(8, student_stages=network.student_stages)
    size = 64 if encoder.architecture["network"] == "SwinUNETR" else 32
    loss(network([torch.randn(2, 1, size, size, size) for _ in range(2)])).backward()
    assert [name for name, p in network.student.named_parameters() if p.grad is None] == []
    assert loss.stage_weights.tolist() == pytest.approx([1 / len(encoder.stage_channels)] * len(encoder.stage_channels))
    torch.optim.SGD(network.student.parameters(), lr=0.1).step()
    before = [p.clone() for p in network.teacher.parameters()]
    network.update_teacher(0.5)
    assert any(not torch.equal(p, old) for p, old in zip(network.teacher.parameters(), before, strict=True))
    watched = {alarm.name for alarm in all_alarms(network, loss)}
    assert f"without_gradient_{len(encoder.stage_channels)}" in watched


def test_it_comes_back_from_its_file_and_takes_more_channels(encoder, tmp_path):
    path = tmp_path / "encoder.pt"
    save_weights(encoder, path, {"kind": "encoder", "architecture": encoder.architecture})
    assert read_manifest(path)["architecture"]["network"] == encoder.architecture["network"]
    found, wider = load_encoder(path).eval(), load_encoder(path, in_channels=3).eval()
    x = torch.randn(1, 1, 32, 32, 32)
    for ours, theirs, of_three in zip(
        encoder.eval().stages(x), found.stages(x), wider.stages(x.expand(-1, 3, -1, -1, -1)), strict=True
    ):
        torch.testing.assert_close(theirs, ours)
        torch.testing.assert_close(of_three, ours, rtol=1e-3, atol=1e-3)


def test_a_decoder_fits_on_it_and_each_tensor_learns_at_one_rate(encoder):
    network = SegmentationNetwork(encoder, 3, decoder_width=4, window=(64, 64, 64))
    assert network(torch.randn(1, 1, 33, 32, 32)).shape == (1, 3, 33, 32, 32)
    groups = parameter_groups(network, "layerwise_decay")
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in network.parameters())


def test_they_start_as_nnunet_starts_them():
    pytest.importorskip("dynamic_network_architectures")
    block = NetworkEncoder("ResidualEncoder", **TINY["ResidualEncoder"]).network.stages[0].blocks[0]
    assert block.conv2.norm.weight.abs().max() == 0 and block.conv1.conv.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("SegResnet", "encoder='SegResnet' does not exist: did you mean SegResNet"),
        ("UNETR", "encoder='UNETR': has no stages that could be taught: choose one of resnet, SegResNet"),
        ({"network": "SegResNet", "filters": 8}, "cannot be built so .*unexpected keyword argument 'filters'"),
        ({"network": "SegResNet", "blocks_down": [1]}, "has 1 stages: give it 2 to 8"),
        ({"network": "SegResNet", "init_filters": 1, "blocks_down": [1] * 9, "norm": "batch"}, "has 9 stages"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(asked, words):
    with pytest.raises(UserError, match=words) as refusal:
        encoder_from(None, encoder=asked)
    assert "\n" not in str(refusal.value)


def test_a_missing_package_is_named(monkeypatch):
    for name, package in {**PACKAGES, "SwinUNETR": "einops"}.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"{package} is not installed: pip install {package}, or choose "):
            NetworkEncoder(name)


def test_a_layer_that_torch_does_not_have_is_not_imported():
    pytest.importorskip("dynamic_network_architectures")
    with pytest.raises(UserError, match=r"'os\.system' is no layer of torch\.nn"):
        NetworkEncoder("PlainConvEncoder", nonlin="os.system")


SMALL_VIEWS = {  # of an encoder: the smallest map that is left, and where
    r"\(1, 1, 1\) at stage 4": (lambda: ResNet3DEncoder(depth=10, width=8), (32, 32, 16)),
    r"\(1, 1, 1\) at stage 2": (lambda: NetworkEncoder("SegResNet", **TINY["SegResNet"]), (2, 2, 2)),
    r"\(8, 8, 1\) at stage 3": (lambda: NetworkEncoder("Anatomix", **TINY["Anatomix"]), (32, 32, 4)),
}


@pytest.mark.parametrize("words", SMALL_VIEWS)
def test_views_that_are_too_small_are_refused_by_the_deepest_stage(words):
    encoder, size = SMALL_VIEWS[words]
    with pytest.raises(UserError, match=rf"leave a map of {words}\. Use larger views"):
        refuse_small_maps(encoder(), size)


def test_a_few_voxels_at_stage_four_are_warned_of(tiny_encoder, caplog):
    refuse_small_maps(tiny_encoder, (24, 24, 24))
    assert not caplog.records
    refuse_small_maps(tiny_encoder, (16, 16, 8))
    assert "(2, 2, 1) (4 voxels) at stage 4" in caplog.text


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    encoder = build_encoder(depth=10, width=8, stem_kernel=3)
    save_weights(encoder, tmp_path / "encoder.pt", {"kind": "encoder", "architecture": encoder.architecture})
    with pytest.raises(UserError, match="network is None there, 'SegResNet' asked for"):
        encoder_from(tmp_path / "encoder.pt", encoder="SegResNet")
