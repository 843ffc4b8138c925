"""Publishing fills a bundle with weights; packing makes one that stands alone."""

import json
import shutil

import pytest
import torch
from bundle_runs import ROOT
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_net_in_out
from scan_files import write_json, write_label, write_scan

from desd_components import (
    ResNet3DEncoder,
    SegmentationNetwork,
    UserError,
    encoder_manifest,
    preprocessing_settings,
    save_weights,
    segmentation_manifest,
)
from desd_components.tools.pack import pack
from desd_components.tools.publish import publish

SETTINGS = preprocessing_settings(None, "zscore", [-1024.0, 1024.0])


def small(bundle):
    """The overlay for small data, as it stands in the file."""
    return ConfigParser.load_config_file(str(ROOT / "bundles" / bundle / "configs" / "small.yaml"))


def architecture(bundle):
    return small(bundle)["encoder" if bundle == "desd_pretrain" else "scratch_architecture"]


def make_run(bundle, folder):
    """Weights of random numbers, as a run of the small recipe would leave them."""
    encoder = ResNet3DEncoder(**architecture(bundle))
    if bundle == "desd_pretrain":
        save_weights(encoder, folder / "encoder.pt", encoder_manifest(encoder, SETTINGS, [24, 24, 24], 3, "hash"))
        return encoder
    classes, window = ["background", "left", "right"], small(bundle)["roi_size"]
    network = SegmentationNetwork(encoder, len(classes), decoder_width=small(bundle)["decoder_width"])
    manifest = segmentation_manifest(network, classes, "sigmoid", False, SETTINGS, window)
    save_weights(network, folder / "model.pt", manifest)
    return network


@pytest.fixture(scope="module", params=["desd_pretrain", "desd_seg_finetune"])
def packed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    shutil.copytree(ROOT / "bundles" / request.param, folder / request.param)
    network = make_run(request.param, folder / "run")
    publish(str(folder / "run"), str(folder / request.param))
    pack(str(folder / request.param), str(folder / "zoo"))
    return folder / "zoo" / request.param, network


def test_bundle_load_with_default_arguments_really_loads_the_weights(packed, monkeypatch):
    bundle, network = packed
    monkeypatch.chdir(bundle)
    loaded = load(bundle.name, bundle_dir=str(bundle.parent), source="monaihosting").eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network.eval()(x))


def test_a_packed_bundle_has_the_zoo_s_files(packed):
    bundle, _ = packed
    wanted = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.json"}
    wanted |= {f"configs/{name}.json" for name in ("metadata", "train", "inference", "evaluate", "multi_gpu_train")}
    wanted |= {"configs/logging.conf", "desd_components/__init__.py"}
    assert wanted <= {str(path.relative_to(bundle)) for path in bundle.rglob("*")}
    assert not (bundle / "desd_components" / "tools").exists()


def test_train_json_is_the_small_recipe_and_the_published_one_lies_beside_it(packed):
    bundle, _ = packed
    key = "encoder" if bundle.name == "desd_pretrain" else "scratch_architecture"
    small = json.loads((bundle / "configs" / "train.json").read_text())
    published = json.loads((bundle / "configs" / "train_published.json").read_text())
    assert small[key] == architecture(bundle.name)
    assert published[key]["depth"] == 50


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A Decathlon folder of tiny volumes."""
    folder = tmp_path_factory.mktemp("data")
    pairs = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in range(4)]
    for number, pair in enumerate(pairs):
        write_scan(folder / pair["image"], (34, 33, 32), seed=number)
        write_label(folder / pair["label"], (34, 33, 32))
    write_json(folder / "dataset.json", {"labels": {"0": "background", "1": "left", "2": "right"}, "training": pairs})
    return folder


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer")])
def test_packed_configs_have_all_properties_and_fit_the_metadata(packed, labelled, monkeypatch, config, kind):
    bundle, _ = packed
    monkeypatch.chdir(bundle)
    file = f"configs/{config}.json"
    settings = {"dataset_dir": str(labelled)}
    if kind == "train":
        settings |= {"batch_size": 2, "cache_dir": str(labelled.parent / "cache")}
    workflow = ConfigWorkflow(file, workflow_type=kind, **settings)
    workflow.initialize()
    assert workflow.check_properties() == []
    verify_net_in_out("network_def", meta_file="configs/metadata.json", config_file=file, device="cpu")


def test_weights_of_the_other_kind_are_not_published(packed, tmp_path):
    bundle, _ = packed
    other = {"desd_pretrain": "desd_seg_finetune", "desd_seg_finetune": "desd_pretrain"}[bundle.name]
    make_run(other, tmp_path / "run")
    with pytest.raises(UserError, match="holds weights of kind"):
        publish(str(tmp_path / "run"), str(bundle))


def test_a_folder_without_weights_or_without_configs_is_refused(packed, tmp_path):
    bundle, _ = packed
    with pytest.raises(UserError, match="neither a weights file nor a run's folder"):
        publish(str(tmp_path), str(bundle))
    make_run(bundle.name, tmp_path / "run")
    with pytest.raises(UserError, match="not a bundle"):
        publish(str(tmp_path / "run"), str(tmp_path))


def test_a_bundle_without_weights_is_not_packed(packed, tmp_path):
    bundle, _ = packed
    shutil.copytree(ROOT / "bundles" / bundle.name, tmp_path / bundle.name, ignore=shutil.ignore_patterns("model.pt"))
    with pytest.raises(UserError, match=r"cannot be packed without .*models/model\.pt"):
        pack(str(tmp_path / bundle.name), str(tmp_path / "zoo"))
