"""The authors' checkpoint format, as METHOD describes it, against their network written out in (z, y, x)."""

import argparse
import json

import pytest
import torch
from torch.nn import functional as F

from desd_components import UserError, load_encoder, pooled_stages, read_manifest
from desd_tools.pack.import_official import import_official

BLOCKS, WIDTH = (3, 4, 6, 3), 8


def backbone():
    """Their tensors, kernels (O, I, z, y, x), of a narrow ResNet-50."""
    tensors = {"conv1.weight": torch.randn(WIDTH, 1, 7, 7, 7) / 20}

    def norm(name, channels):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels) / 10

    def convolution(name, source, target, kernel):
        tensors[f"{name}.weight"] = torch.randn(target, source, *[kernel] * 3) / (source * kernel**3) ** 0.5

    norm("norm1", WIDTH)
    source = WIDTH
    for stage, count in enumerate(BLOCKS, start=1):
        planes = WIDTH * 2 ** (stage - 1)
        for block in range(count):
            name = f"layer{stage}.{block}"
            for number, (into, out, kernel) in enumerate(
                [(source, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)], start=1
            ):
                convolution(f"{name}.conv{number}", into, out, kernel)
                norm(f"{name}.norm{number}", out)
            if block == 0:
                convolution(f"{name}.downsample.0", source, 4 * planes, 1)
                norm(f"{name}.downsample.1", 4 * planes)
            source = 4 * planes
    return tensors


def their_stages(tensors, volume):
    """Their encoder with plain functions, (B, 1, z, y, x) -> four maps in (z, y, x)."""

    def normed(name, x):
        return F.instance_norm(x, weight=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"])

    def act(x):
        return F.leaky_relu(x, 0.01)

    x = act(normed("norm1", F.conv3d(volume, tensors["conv1.weight"], stride=(1, 2, 2), padding=3)))
    x = F.max_pool3d(x, 3, stride=2, padding=1)
    maps = []
    for stage, count in enumerate(BLOCKS, start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = act(normed(f"{name}.norm1", F.conv3d(x, tensors[f"{name}.conv1.weight"])))
            y = act(normed(f"{name}.norm2", F.conv3d(y, tensors[f"{name}.conv2.weight"], stride=stride, padding=1)))
            y = normed(f"{name}.norm3", F.conv3d(y, tensors[f"{name}.conv3.weight"]))
            if block == 0:
                x = normed(f"{name}.downsample.1", F.conv3d(x, tensors[f"{name}.downsample.0.weight"], stride=stride))
            x = act(x + y)
        maps.append(x)
    return maps


def head(name, parametrised):
    tensors = {f"{name}.mlp.{place}.weight": torch.randn(4, 4) for place in (0, 3, 6)}
    tensors |= {f"{name}.mlp.1.running_mean": torch.zeros(4), f"{name}.mlp.1.num_batches_tracked": torch.tensor(7)}
    kinds = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    return tensors | {
        f"{name}.last_layer.{kind}": torch.ones(4) for kind in (kinds if parametrised else ("weight_g", "weight_v"))
    }


def checkpoint(tensors, prefix="module.", parametrised=False):
    """Everything that such a file holds."""

    def named(parts, names):
        found = {f"{prefix}backbone.{key}": value for key, value in parts.items()}
        return found | {f"{prefix}{key}": v for name in names for key, v in head(name, parametrised).items()}

    return {
        "student": named(backbone(), ("head", "head_1", "head_2", "head_3")),
        "teacher": named(tensors, ("head",)),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "epoch": 300,
        "args": argparse.Namespace(arch="resnet50", out_dim=60000, use_bn=False),
        "desd_loss": {"center": torch.zeros(1, 4), "loss_center": torch.zeros(1, 4)},
    }


@pytest.mark.parametrize(("prefix", "parametrised"), [("module.", False), ("", True)])
def test_the_features_are_those_of_their_network_at_every_stage(tmp_path, prefix, parametrised):
    tensors = backbone()
    torch.save(checkpoint(tensors, prefix, parametrised), tmp_path / "theirs.pth")
    import_official(str(tmp_path / "theirs.pth"), str(tmp_path / "encoder.pt"))
    encoder = load_encoder(tmp_path / "encoder.pt").eval().double()  # 50 layers of rounding would hide small errors
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    volume = torch.randn(2, 1, 16, 40, 48, dtype=torch.float64)  # z, y, x
    with torch.no_grad():
        theirs, ours = their_stages(tensors, volume), encoder.stages(volume.permute(0, 1, 4, 3, 2))
    for wanted, found in zip(theirs, ours, strict=True):
        torch.testing.assert_close(found.permute(0, 1, 4, 3, 2), wanted, rtol=1e-5, atol=1e-5)
    assert len(pooled_stages(ours)) == 4


def test_manifest_and_log_state_the_licence_and_what_was_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    torch.save(checkpoint(backbone()), tmp_path / "theirs.pth")
    import_official(str(tmp_path / "theirs.pth"), str(tmp_path / "encoder.pt"))
    manifest = read_manifest(tmp_path / "encoder.pt")
    assert "non-commercial use only" in manifest["licence"]
    assert (manifest["half"], manifest["epoch"], manifest["axis_order"]) == ("teacher", 300, "x, y, z")
    assert manifest["preprocessing"]["hu_window"] == [-1024.0, 1024.0]
    assert "non-commercial use only" in caplog.text
    for kind in (
        "student's encoder (159)",
        "student's projection heads (28)",
        "teacher's projection heads (7)",
        "args (1)",
    ):
        assert f"left out: {kind}" in caplog.text


def spoil_teacher(content, key, value):
    content["teacher"][key] = value


SPOILT = {
    "an entry": (lambda c: c.update(scheduler={}), "the entry 'scheduler'"),
    "a tensor of the teacher": (lambda c: spoil_teacher(c, "module.backbone.fc.weight", torch.ones(1)), "fc.weight"),
    "a head": (lambda c: spoil_teacher(c, "module.head_4.mlp.0.weight", torch.ones(1)), "head_4"),
    "no teacher": (
        lambda c: c.pop("teacher"),
        r"not the authors' checkpoint, .*, but 5 entries \(student, optimizer, epoch, ...\)",
    ),
    "an absent tensor": (
        lambda c: c["teacher"].pop("module.backbone.layer4.2.conv3.weight"),
        "1 of 159 tensors are absent",
    ),
    "NaN": (
        lambda c: spoil_teacher(c, "module.backbone.layer1.0.norm2.bias", torch.full((8,), torch.nan)),
        "holds NaN or infinite values",
    ),
    "another kernel": (
        lambda c: spoil_teacher(c, "module.backbone.layer1.0.conv2.weight", torch.ones(8, 8, 1, 1, 1)),
        "another shape",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_the_format_does_not_know_is_refused(tmp_path, kind):
    content = checkpoint(backbone())
    spoil, words = SPOILT[kind]
    spoil(content)
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=words) as error:
        import_official(str(tmp_path / "theirs.pth"), str(tmp_path / "encoder.pt"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "encoder.pt").exists()


@pytest.mark.parametrize("output", ["encoder.safetensors", "encoder", "theirs.pt"])
def test_an_output_that_no_one_could_read_or_that_is_the_file_itself_is_refused(tmp_path, output):
    torch.save(checkpoint(backbone()), tmp_path / "theirs.pt")
    size = (tmp_path / "theirs.pt").stat().st_size
    with pytest.raises(UserError, match=r"give another file, ending in .pt"):
        import_official(str(tmp_path / "theirs.pt"), str(tmp_path / output))
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [size]


class Other:
    """A class that no such file may name."""


def test_no_class_but_the_namespace_is_read(tmp_path):
    torch.save({**checkpoint(backbone()), "args": Other()}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match="not a readable file of tensors"):
        import_official(str(tmp_path / "theirs.pth"), str(tmp_path / "encoder.pt"))


def test_the_namespace_is_read_by_this_command_alone(tmp_path):
    torch.save(checkpoint(backbone()), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").write_text(json.dumps({"kind": "encoder", "architecture": {}}))
    with pytest.raises(UserError, match="not a readable file of tensors"):
        load_encoder(tmp_path / "theirs.pt")
