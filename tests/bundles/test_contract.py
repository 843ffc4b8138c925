"""What MONAI's own tools ask of a bundle, and both bundles of each other."""

import pytest
import torch
import yaml
from bundle_runs import ROOT, config_files
from monai.bundle import ConfigWorkflow, ckpt_export
from random_weights import write_encoder, write_model
from scan_files import write_pairs

from desd_components import encoder_from, load_weights, model_manifest, network_from_manifest

PRETRAIN, FINETUNE = "desd_pretrain", "desd_seg_finetune"
CLASSES = {"class_names": ["one", "two"]}
CASES = [
    (PRETRAIN, "train", {"batch_size": 2, "spacing": None}),
    (PRETRAIN, "train small", {}),
    (PRETRAIN, "train smoke", {}),
    (PRETRAIN, "train small evaluate", {**CLASSES, "encoder_checkpoint": "encoder.pt"}),
    (PRETRAIN, "inference", {"checkpoint": "encoder.pt"}),
    (FINETUNE, "train", CLASSES),
    (FINETUNE, "train small", CLASSES),
    (FINETUNE, "train small smoke", CLASSES),
    (FINETUNE, "train small evaluate", {"checkpoint": "model.pt"}),
    (FINETUNE, "train small multi_gpu_train", CLASSES),
    (FINETUNE, "train small self_train", {**CLASSES, "num_labels": 2}),
    (FINETUNE, "inference", {"checkpoint": "model.pt"}),
]
WEIGHTS = {PRETRAIN: "encoder.pt", FINETUNE: "model.pt"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    write_pairs(folder / "scans", ["a", "b", "c", "d", "e"], shape=(20, 22, 24))
    write_model(folder / "model.pt", write_encoder(folder / "encoder.pt"))
    return folder


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("bundle", "configs", "own"), CASES)
def test_a_config_has_all_properties(bundle, configs, own, place, tmp_path, monkeypatch):
    if "multi_gpu" in configs:
        one = {"LOCAL_RANK": 0, "RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}
        for name, value in one.items():
            monkeypatch.setenv(name, str(value))
    settings = {"dataset_dir": str(place / "scans"), "output_dir": str(tmp_path), "num_workers": 0}
    settings |= {name: str(place / value) if "checkpoint" in name else value for name, value in own.items()}
    settings |= {} if configs == "inference" else {"cache_dir": str(tmp_path / "cache")}
    files, kind = config_files(bundle, *configs.split()), "infer" if configs == "inference" else "train"
    workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **settings)
    workflow.initialize()
    try:
        assert workflow.check_properties() == []
    finally:
        workflow.finalize()


def test_a_training_is_made_for_the_records_and_epochs_that_monai_label_puts_in(place, tmp_path):
    """Its own names for them, and no folder of data: what it trained before with fewer labels is not gone on with."""
    folders = {"image": f"{place}/scans/imagesTr", "label": f"{place}/scans/labelsTr"}
    records = [{kind: f"{folder}/{name}.nii.gz" for kind, folder in folders.items()} for name in "abc"]
    given = {"train#dataset#data": records[:2], "validate#dataset#data": records[2:], "train#trainer#max_epochs": 3}
    settings = {**CLASSES, "dataset_dir": "nowhere", "output_dir": str(tmp_path), "cache_dir": str(tmp_path), **given}
    workflow = ConfigWorkflow(config_files(FINETUNE, "train", "small"), workflow_type="train", plan=None, **settings)
    workflow.initialize()
    names = ("steps", "run_folder", "handlers#best_model", "run_scans")
    steps, folder, best, scans = map(workflow.parser.get_parsed_content, names)
    assert steps.total == 3 * 50
    assert (folder.state.resume, best.metric, best.interval) == ("never", "mean_dice", 3)
    assert scans.record()["train"] == ["a", "b"] and scans.record()["validation"] == ["c"]


@pytest.mark.parametrize("bundle", [PRETRAIN, FINETUNE])
def test_the_network_exports_to_torchscript(bundle, place, tmp_path):
    weights, files = place / WEIGHTS[bundle], config_files(bundle, "train", "smoke")
    given = {"filepath": str(tmp_path / "network.ts"), "ckpt_file": str(weights)}
    given["meta_file"] = f"bundles/{bundle}/configs/metadata.json"
    if bundle == FINETUNE:
        files, given["checkpoint"] = config_files(bundle, "inference"), str(weights)
        network = network_from_manifest(model_manifest(weights))
        load_weights(network, weights)
    else:
        network = encoder_from(weights)
    ckpt_export("network_def", config_file=files, **given)
    volume = torch.randn(1, 1, 24, 17, 20)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "network.ts")(volume), network.eval()(volume))


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ("train", {"roi_size": "view_size", "spacing": "spacing", "hu_window": "hu_window"}),
        ("small", {"spacing": "spacing", "intensity": "intensity", "hu_window": "hu_window"}),
    ],
)
def test_both_bundles_have_the_same_encoder_sizes_and_preprocessing(config, same):
    ours, theirs = (yaml.safe_load((ROOT / config_files(name, config)[0]).read_text()) for name in (FINETUNE, PRETRAIN))
    encoder = _found(ours, "network_def", "encoder", "scratch_architecture")
    assert encoder == _found(theirs, "network_def", "scratch_architecture")
    assert {name: ours[name] for name in same} == {name: theirs[other] for name, other in same.items()}


def _found(config, *keys):
    """An item of a config by its place, spelt out or as one id."""
    if "#".join(keys) in config:
        return config["#".join(keys)]
    for key in keys:
        config = config[key]
    return config
