"""Files in the formats of public weights give the features of their networks.

Those are MONAI's and dynamic_network_architectures', anatomix's U-Net as its repository lays it out, and that of DeSD's
authors, as METHOD describes it, written out in (z, y, x).
"""

import argparse
import json

import pytest
import torch
from monai.networks import nets
from torch import nn
from torch.nn import functional as F

from desd_components import (
    NetworkEncoder,
    SegmentationNetwork,
    UserError,
    agree_with_encoder,
    encoder_from,
    encoder_manifest,
    load_encoder,
    pooled_stages,
    preprocessing_settings,
    read_manifest,
    segmentation_manifest,
)
from desd_tools.pack.import_weights import import_weights

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
    import_weights(str(tmp_path / "theirs.pth"), "desd", str(tmp_path))
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
    import_weights(str(tmp_path / "theirs.pth"), "desd", str(tmp_path))
    manifest = read_manifest(tmp_path / "encoder.pt")
    assert "non-commercial use only" in manifest["licence"]
    assert (manifest["view_size"], manifest["axis_order"]) == ([96, 96, 16], "x, y, z")
    assert manifest["preprocessing"] == preprocessing_settings([1.0, 1.0, 1.0], "hu", [-1024, 1024])
    assert "non-commercial use only" in caplog.text
    for kind in (
        "student's encoder (159)",
        "student's heads and decoder (28)",
        "teacher's heads and decoder (7)",
        "args (1)",
    ):
        assert f"left out: {kind}" in caplog.text


class Other:
    """A class that no such file may name."""


def spoil_teacher(content, key, value):
    content["teacher"][key] = value


SPOILT = {
    "a tensor of the teacher": (lambda c: spoil_teacher(c, "module.backbone.fc.weight", torch.ones(1)), "fc.weight"),
    "a head": (lambda c: spoil_teacher(c, "module.head_4.mlp.0.weight", torch.ones(1)), "head_4"),
    "no teacher": (
        lambda c: c.pop("teacher"),
        r"not the authors' checkpoint, .*, but 5 entries \(student, optimizer, epoch, ...\)",
    ),
    "another class": (lambda c: c.update(args=Other()), "not a readable file of tensors"),
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


@pytest.mark.parametrize("output", ["weights.pt", "encoder.pt", "."])
def test_an_output_that_is_no_folder_or_holds_the_file_itself_is_refused(tmp_path, output):
    torch.save(checkpoint(backbone()), tmp_path / "encoder.pt")
    size = (tmp_path / "encoder.pt").stat().st_size
    with pytest.raises(UserError, match="give another folder"):
        import_weights(str(tmp_path / "encoder.pt"), "desd", str(tmp_path / output))
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [size]


def test_the_namespace_is_read_by_this_command_alone(tmp_path):
    torch.save(checkpoint(backbone()), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").write_text(json.dumps({"kind": "encoder", "architecture": {}}))
    with pytest.raises(UserError, match="not a readable file of tensors"):
        load_encoder(tmp_path / "theirs.pt")


def resnet(name="resnet10"):
    """A network of MONAI's with statistics of its own, and the file that MedicalNet makes of such tensors."""
    network = nets.ResNetFeatures(name, pretrained=False)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm3d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    tensors = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    return network.eval(), {"ecpoch": 3, "state_dict": tensors, "optimeizer": {}}


def medicalnet(name="resnet10"):
    network, content = resnet(name)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "num_batches" not in k}
    content["state_dict"]["module.conv_seg.0.weight"] = torch.ones(2)
    network.double()  # here and below: many layers of rounding would hide small errors
    volume = torch.randn(1, 1, 24, 32, 40, dtype=torch.float64)  # z, y, x
    with torch.no_grad():  # written out, with gaps in layers 3 and 4 in place of MONAI's strides
        x = network.act(network.bn1(network.conv1(volume)))
        maps = [x]
        x = network.maxpool(x)
        for layer, (stride, gap) in enumerate([(1, 1), (2, 1), (1, 2), (1, 4)], start=1):
            for number, block in enumerate(getattr(network, f"layer{layer}")):
                x = dilated_block(block, x, stride if number == 0 else 1, gap)
            maps.append(x)
    return content, volume, maps


def dilated_block(block, x, stride, gap):
    convolutions = [n for n in ("1", "2", "3") if hasattr(block, f"conv{n}")]
    strided = "2" if "3" in convolutions else "1"
    y = x
    for n in convolutions:
        weight = getattr(block, f"conv{n}").weight
        reach = gap if weight.shape[-1] == 3 else 0
        y = F.conv3d(y, weight, stride=stride if n == strided else 1, padding=reach, dilation=reach or 1)
        y = getattr(block, f"bn{n}")(y)
        y = y if n == convolutions[-1] else y.relu()
    if isinstance(block.downsample, nn.Module):
        x = block.downsample[1](F.conv3d(x, block.downsample[0].weight, stride=stride))
    elif block.downsample is not None:  # type A: every second voxel, and channels of zeros
        x = x[..., ::stride, ::stride, ::stride]
        x = F.pad(x, (0,) * 6 + (0, y.shape[1] - x.shape[1]))
    return (x + y).relu()


def openmind():
    unets = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    network = unets.ResidualEncoderUNet(
        *(1, 6, [32, 64, 128, 256, 320, 320], nn.Conv3d, 3, [1, 2, 2, 2, 2, 2], [1, 3, 4, 6, 6, 6], 1, [1] * 5, True),
        **{"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}},
        **{"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}},
    ).eval()
    plan = {"architecture_plans": {"arch_class_name": "ResEncL"}, "key_to_encoder": "encoder.stages"}
    content = {"network_weights": network.state_dict(), "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAETrainer"}
    volume = torch.randn(1, 1, 32, 32, 64, dtype=torch.float64)  # z, y, x
    with torch.no_grad():
        return content, volume, network.double().encoder(volume)


def anatomix():
    """Their U-Net as one row of layers, of which a decoder follows the 37th."""

    def block(source, target):
        return [
            nn.Conv3d(source, target, 3, padding="same", padding_mode="reflect", bias=False),
            nn.BatchNorm3d(target, momentum=1.0),
        ]

    layers, ends, width = [*block(1, 16), nn.ReLU()], [], 16
    for stage in range(5):
        target = width * 2 if stage else width
        layers += [*block(width, target), nn.ReLU(), *block(target, target), nn.ReLU()]
        ends.append(len(layers))
        layers += [nn.MaxPool3d(2)] if stage < 4 else []
        width = target
    network = nn.Sequential(*layers, nn.Upsample(scale_factor=2), *block(384, 128), nn.ReLU())
    volume, maps = torch.rand(1, 1, 32, 48, 64, dtype=torch.float64), []
    with torch.no_grad():
        network[:37](volume.float())  # statistics of its own
        content = {f"model.{key}": tensor for key, tensor in network.state_dict().items()}
        network.eval().double()
        x = volume
        for place, layer in enumerate(network[:37], start=1):
            x = layer(x)
            maps += [x] if place in ends else []
    return content, volume, maps


PUBLIC = {
    "medicalnet": (lambda: medicalnet("resnet10"), "MIT", {"intensity": "zscore"}),
    "medicalnet 18": (lambda: medicalnet("resnet18"), "MIT", {"intensity": "zscore"}),
    "medicalnet 34": (lambda: medicalnet("resnet34"), "MIT", {"intensity": "zscore"}),
    "medicalnet 50": (lambda: medicalnet("resnet50"), "MIT", {"intensity": "zscore"}),
    "anatomix": (anatomix, "MIT", {"intensity": "minmax"}),
    "openmind": (openmind, "CC-BY-4.0", {"intensity": "zscore", "spacing": [1.0, 1.0, 1.0]}),
}


LARGE = ("medicalnet 34", "medicalnet 50", "openmind")  # a quarter of a minute and more


@pytest.mark.parametrize("whose", [pytest.param(w, marks=[pytest.mark.soak] * (w in LARGE)) for w in PUBLIC])
def test_public_weights_give_the_features_of_their_network_and_a_fine_tuning_starts_from_them(tmp_path, whose, caplog):
    caplog.set_level("INFO")
    make, licence, seen = PUBLIC[whose]
    content, volume, maps = make()
    torch.save(content, tmp_path / "theirs.pth")
    import_weights(str(tmp_path / "theirs.pth"), whose.split()[0], str(tmp_path / "ours"))
    path = tmp_path / "ours" / "encoder.pt"
    encoder, turned = load_encoder(path).eval().double(), whose != "anatomix"
    with torch.no_grad():
        found = encoder.stages(volume.permute(0, 1, 4, 3, 2) if turned else volume)
    for wanted, ours in zip(maps, found, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(ours.permute(0, 1, 4, 3, 2) if turned else ours, wanted, rtol=1e-5, atol=1e-5)
    manifest = read_manifest(path)
    assert manifest["licence"].startswith(licence) and f"licence: {licence}" in caplog.text
    assert "left out: " in caplog.text and "heads and decoder (" in caplog.text
    assert manifest["preprocessing"] == {"orientation": "RAS", "hu_window": None, **seen}
    agree_with_encoder(path, preprocessing_settings(seen.get("spacing", [2.0, 2.0, 3.0]), seen["intensity"], None))

    network = SegmentationNetwork(encoder_from(path), 2, decoder_width=4).train()
    before = {name: tensor.clone() for name, tensor in network.encoder.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(2, 1, 64, 32, 32)).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(before[name], tensor) for name, tensor in network.encoder.named_parameters())
    told = segmentation_manifest(network, ["background", "a"], "sigmoid", False, {}, [64, 32, 32], str(path))
    further = encoder_manifest(network.encoder, {}, [64, 32, 32], 1, "hash", init_checkpoint=str(path))
    assert told["licence"] == further["licence"] == manifest["licence"]


def test_without_gaps_the_resnet_is_monai_s():
    network, content = resnet("resnet18")
    encoder = NetworkEncoder("ResNetFeatures", model_name="resnet18").eval()
    encoder.load_state_dict({key.replace("module.", "network."): t for key, t in content["state_dict"].items()})
    volume = torch.randn(1, 1, 33, 32, 40)
    with torch.no_grad():
        for ours, theirs in zip(encoder.stages(volume), network(volume), strict=True):
            torch.testing.assert_close(ours, theirs)


def without(content, name):
    content["state_dict"].pop(name)


WRONG = {
    "another depth": (lambda c: without(c, "module.layer2.0.conv1.weight"), "are left over|are absent"),
    "an absent norm": (lambda c: without(c, "module.layer4.0.bn2.running_var"), "1 of .* absent .*layer4.0.bn2"),
    "a classifier": (lambda c: c["state_dict"].update({"module.fc.weight": torch.ones(1)}), "has 'module.fc.weight'"),
    "another shape": (
        lambda c: c["state_dict"].update({"module.conv1.weight": torch.ones(64, 3, 7, 7, 7)}),
        r"conv1.weight is \(64, 3, 7, 7, 7\), not \(64, 1, 7, 7, 7\)",
    ),
    "no tensors": (lambda c: c.pop("state_dict"), "not MedicalNet's checkpoint, a dict with state_dict, but 2 entries"),
}


MISFITS = {
    **{f"desd, {kind}": (lambda: checkpoint(backbone()), *case) for kind, case in SPOILT.items()},
    **{f"medicalnet, {kind}": (lambda: resnet()[1], *case) for kind, case in WRONG.items()},
}


@pytest.mark.parametrize("kind", MISFITS)
def test_what_the_format_does_not_know_is_refused_in_one_line(tmp_path, kind):
    make, spoil, words = MISFITS[kind]
    content = make()
    spoil(content)
    torch.save(content, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=words) as refusal:
        import_weights(str(tmp_path / "theirs.pth"), kind.partition(",")[0], str(tmp_path / "ours"))
    assert "\n" not in str(refusal.value) and not (tmp_path / "ours").exists()


@pytest.mark.parametrize("format", ["anatomix", "openmind"])  # desd: with all weights of others, in test_weights
def test_weights_of_another_origin_are_refused_in_one_line_that_says_what_was_wanted(tmp_path, format):
    if format == "openmind":
        pytest.importorskip("dynamic_network_architectures")
    for content in (resnet()[1], {"network_weights": {"eva.blocks.0.weight": torch.ones(2)}}, {}, torch.ones(2, 3)):
        torch.save(content, tmp_path / "theirs.pth")
        with pytest.raises(UserError, match=r"theirs\.pth: not .*Give the file as published") as refusal:
            import_weights(str(tmp_path / "theirs.pth"), format, str(tmp_path / "ours"))
        assert "\n" not in str(refusal.value)


def test_an_unknown_format_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(UserError, match=r"format='medicalnets': choose one of \['medicalnet', 'anatomix'"):
        import_weights("theirs.pth", "medicalnets", str(tmp_path))
