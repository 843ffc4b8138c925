"""Exported networks say what the network says, for any batch and size, and carry their manifest."""

import copy
import sys

import pytest
import torch
from random_weights import write_encoder, write_model
from scan_files import write_json
from torch import nn

from desd_components import ResNet3DEncoder, UserError, load_encoder, read_manifest
from desd_tools.pack import export as export_module
from desd_tools.pack.export import export, write_onnx
from desd_tools.pack.publish import network_of, publish

#: as the small recipe has them, and as the published one, narrower and of ten layers
SMALL = {"norm": "group", "stage_strides": [2, 2, 2, 2]}
PUBLISHED = {"stem_kernel": 7, "stem_stride": (2, 2, 1), "stem_pool": True}
SHAPES = [(1, 1, 40, 64, 33), (3, 1, 64, 35, 48)]


@pytest.fixture(scope="module", params=["encoder", "segmentation"])
def weights(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    encoder = write_encoder(path, **(PUBLISHED if request.param == "encoder" else SMALL))
    if request.param == "segmentation":
        write_model(path, encoder)
    return path


def outputs(network, say):
    """(what the network says, what `say` says) for each of the shapes."""
    for shape in SHAPES:
        x = torch.randn(*shape)
        with torch.no_grad():
            yield network(x), say(x)


def test_torchscript_says_the_same_for_any_batch_and_size(weights, tmp_path):
    export(str(weights), "torchscript", str(tmp_path / "network.ts"))
    for wanted, found in outputs(network_of(weights), torch.jit.load(tmp_path / "network.ts")):
        torch.testing.assert_close(found, wanted)
    assert read_manifest(tmp_path / "network.ts") == read_manifest(weights)


def by_onnxruntime(path):
    """What the graph in a file says, as a function of a volume."""
    pytest.importorskip("onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def test_onnx_says_the_same_for_any_batch_and_size(weights, tmp_path):
    pytest.importorskip("onnx")
    export(str(weights), "onnx", str(tmp_path / "network.onnx"))
    for wanted, found in outputs(network_of(weights), by_onnxruntime(tmp_path / "network.onnx")):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert read_manifest(tmp_path / "network.onnx") == read_manifest(weights)


def test_of_fifty_layers_onnx_is_as_near_to_exact_arithmetic_as_torch_is(tmp_path):
    """Instance norm over few voxels multiplies rounding from stage to stage: 1e-3 at the end, whoever computes it."""
    pytest.importorskip("onnx")
    encoder = ResNet3DEncoder(depth=50, width=16).eval()
    write_onnx(encoder, tmp_path / "encoder.onnx")
    exact = copy.deepcopy(encoder).double()
    with torch.no_grad():
        for ours, theirs in outputs(lambda x: (x, encoder(x)), by_onnxruntime(tmp_path / "encoder.onnx")):
            x, by_torch = ours
            wanted = exact(x.double())
            rounding = (by_torch - wanted).abs().max()
            assert (theirs - wanted).abs().max() < 2 * rounding < 1e-2 * wanted.abs().max()


class Strange(nn.Module):
    """A network that only Python can run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.stem(x).numpy()


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_what_a_format_cannot_hold_is_refused_in_one_line_and_leaves_no_file(tmp_path, monkeypatch, format):
    pytest.importorskip("onnx")
    monkeypatch.setattr(export_module, "network_of", lambda _: Strange().eval())
    monkeypatch.setattr(export_module, "read_manifest", lambda _: {})
    with pytest.raises(UserError, match=r"cannot be written as .*: .*\. Choose --format safetensors\.") as refusal:
        export("strange.pt", format, str(tmp_path / f"network{export_module.FORMATS[format][1]}"))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_safetensors_load_as_the_pt_does_and_are_published_as_one(weights, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "weights.safetensors"
    export(str(weights), "safetensors", str(path))
    stored = torch.load(weights, weights_only=True)
    found = network_of(path).state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_published_safetensors_become_a_pt(tmp_path):
    pytest.importorskip("safetensors")
    encoder = write_encoder(tmp_path / "encoder.pt", **SMALL)
    export(str(tmp_path / "encoder.pt"), "safetensors", str(tmp_path / "other" / "encoder.safetensors"))
    data = {"inputs": {"image": {}}, "outputs": {"pred": {"format": "feature map", "type": "feature"}}}
    write_json(tmp_path / "bundle" / "configs" / "metadata.json", {"network_data_format": data})
    publish(str(tmp_path / "other" / "encoder.safetensors"), str(tmp_path / "bundle"))
    again = load_encoder(tmp_path / "bundle" / "models" / "model.pt").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("format", "name", "absent", "words"),
    [
        ("tflite", "x.tflite", "", "choose one of safetensors, torchscript, onnx"),
        ("onnx", "x.pt", "", r"ends in \.onnx"),
        ("onnx", "x.onnx", "onnx", "pip install onnx"),
        ("safetensors", "x.safetensors", "safetensors.torch", "pip install safetensors"),
    ],
)
def test_other_formats_and_endings_and_missing_packages_are_one_line(
    weights, tmp_path, monkeypatch, format, name, absent, words
):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UserError, match=words):
        export(str(weights), format, str(tmp_path / name))
    assert not list(tmp_path.iterdir())
