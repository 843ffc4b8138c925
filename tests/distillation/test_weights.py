"""Weights travel with a manifest and are loaded whole or not at all."""

import pytest
import torch
from monai.networks.nets import resnet10
from random_weights import ARCHITECTURE, write_encoder
from torch import nn

from desd_components import (
    ResNet3DEncoder,
    UserError,
    encoder_from,
    load_encoder,
    load_weights,
    none_if_null,
    read_manifest,
    save_weights,
)
from desd_components.health.evaluation import evaluated_manifest
from desd_components.segmentation.model import model_manifest
from desd_tools.pack.export import export
from desd_tools.pack.import_weights import import_weights


@pytest.fixture
def checkpoint(tmp_path):
    write_encoder(tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def test_an_encoder_comes_back_from_two_files_flat_tensors_and_a_manifest_that_names_the_axes(checkpoint):
    encoder = encoder_from(checkpoint, scratch_architecture={"depth": 50})
    assert encoder.architecture["depth"] == 10
    torch.testing.assert_close(dict(encoder.state_dict()), torch.load(checkpoint, weights_only=True))
    assert read_manifest(checkpoint)["axis_order"] == "x, y, z"
    assert sorted(p.name for p in checkpoint.parent.iterdir()) == ["encoder.json", "encoder.pt"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (ResNet3DEncoder(depth=50, width=8), r"absent \(first: .*another shape.*null to start from scratch"),
        (torch.nn.Linear(2, 2), r"are left over \(first: stem.0.weight\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_what_differs(checkpoint, module, words):
    with pytest.raises(UserError, match=words):
        load_weights(module, checkpoint)


def test_a_setting_that_contradicts_the_manifest_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="depth is 10 there, 50 asked for"):
        encoder_from(checkpoint, architecture={"depth": 50, "width": 8})
    write_encoder(tmp_path / "of_four.pt", in_channels=4)
    with pytest.raises(UserError, match="has 4 input channels, the volumes have 2"):
        encoder_from(tmp_path / "of_four.pt", in_channels=2)


def test_without_a_checkpoint_the_scratch_architecture_is_built():
    encoder = encoder_from(None, scratch_architecture=ARCHITECTURE, architecture={"width": 16}, in_channels=2)
    assert (encoder.architecture["width"], encoder.in_channels) == (16, 2)


def test_more_channels_are_inflated_and_said(checkpoint, caplog):
    one, three = encoder_from(checkpoint), encoder_from(checkpoint, in_channels=3)
    assert "inflated from 1 to 3 input channels" in caplog.text
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(three.eval()(x.repeat(1, 3, 1, 1, 1)), one.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("{", r"encoder\.json: cannot be read as JSON \(.*mend the file or give another"),
        ("[1]", r"encoder\.json: not a manifest but a list"),
        ('{"axis_order": "z, y, x"}', "axes are 'z, y, x', not 'x, y, z'"),
        (None, r"the manifest of .* is missing"),
    ],
)
def test_a_manifest_that_is_none_is_refused(checkpoint, manifest, words):
    checkpoint.with_suffix(".json").write_text(manifest or "")
    if manifest is None:
        checkpoint.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=words):
        encoder_from(checkpoint)
    with pytest.raises(UserError, match="no such weights file"):
        encoder_from(checkpoint.with_name("nothing.pt"))


def test_what_stands_where_weights_were_meant_is_named_without_bad_advice(checkpoint):
    checkpoint.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(UserError, match=r"encoder.pt: is a git-LFS pointer.* `git lfs pull`"):
        encoder_from(checkpoint)
    checkpoint.write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"\(it is no file of PyTorch's\)") as refusal:
        encoder_from(checkpoint)
    assert "weights_only" not in str(refusal.value)


@pytest.mark.parametrize(
    "architecture", [{}, {"depth": 50, "stem_stride": (2, 2, 1)}, {"norm": "batch", "in_channels": 2}]
)
def test_weights_that_were_changed_are_noticed_by_their_canary(tmp_path, architecture):
    write_encoder(tmp_path / "encoder.pt", **architecture)
    encoder_from(tmp_path / "encoder.pt")
    tensors = torch.load(tmp_path / "encoder.pt", weights_only=True)
    tensors["stem.0.weight"] = tensors["stem.0.weight"].transpose(2, 4).contiguous()  # x and z exchanged
    torch.save(tensors, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="differ from those in its manifest"):
        encoder_from(tmp_path / "encoder.pt")


def test_the_canary_leaves_the_encoder_as_it_was(tmp_path):
    encoder = ResNet3DEncoder(**{**ARCHITECTURE, "norm": "batch"}).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    save_weights(encoder, tmp_path / "encoder.pt", {"architecture": encoder.architecture})
    assert encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(("setting", "meant"), [("null", None), ("None", None), (None, None), ("a.pt", "a.pt")])
def test_null_on_a_command_line_means_nothing(setting, meant):
    assert none_if_null(setting) == meant


class _Odd:
    """An object that is no tensor."""


def foreign_weights() -> dict[str, tuple[object, str]]:
    """Weights files of other projects, as people hand them over by mistake: content, and what a refusal must say."""
    tensors = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).state_dict()
    lightning = {"epoch": 3, "pytorch-lightning_version": "2.6.6", "state_dict": tensors, "optimizer_states": []}
    return {
        "another network": (tensors, r"0\.weight"),
        "MONAI's ResNet": (resnet10(n_input_channels=1, widen_factor=0.125).state_dict(), r"conv1\.weight"),
        "Lightning": (lightning, r"a Lightning checkpoint \(epoch, pytorch-lightning_version, state_dict, \.\.\.\)"),
        "nnU-Net": (
            {"network_weights": tensors, "optimizer_state": {}, "current_epoch": 3},
            r"an nnU-Net checkpoint \(network_weights, optimizer_state, current_epoch\)",
        ),
        "a tensor": (torch.ones(2, 3), r"a single tensor of shape \(2, 3\)"),
        "nothing": ({}, "an empty dict"),
        "a list": ([torch.ones(2)], "a list"),
        "an object": ({"model": _Odd()}, r"holds a test_weights\._Odd"),
    }


FOREIGN = foreign_weights()
ENTRIES = {
    "load_encoder": load_encoder,
    "fine-tuning": encoder_from,
    "evaluation": evaluated_manifest,
    "inference": model_manifest,
    "export": lambda path: export(str(path), "safetensors", str(path.with_name("out.safetensors"))),
    "import-weights": lambda path: import_weights(str(path), "desd", str(path.with_name("out"))),
}


@pytest.mark.parametrize("whose", FOREIGN)
@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_of_other_projects_are_refused_with_what_they_are(tmp_path, entry, whose):
    content, words = FOREIGN[whose]
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=words) as refusal:
        ENTRIES[entry](tmp_path / "theirs.pt")
    assert "theirs." in str(refusal.value) and "\n" not in str(refusal.value) and "Give " in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pt"]


@pytest.mark.parametrize("whose", FOREIGN)
def test_a_manifest_of_ours_does_not_make_weights_of_other_projects_ours(checkpoint, whose):
    content, words = FOREIGN[whose]
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=rf"encoder\.pt.*{words}.*[Gg]ive ") as refusal:
        encoder_from(checkpoint)
    assert "\n" not in str(refusal.value)
