"""The fine-tuning bundle, through the command line, on tiny oblique volumes, and on a few real ones where they are."""

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from bundle_runs import error_line, history, run_bundle, succeed
from forked_runs import run_forked
from labelled_volumes import CLASSES, SHAPES, write_cases, write_pair
from random_weights import write_encoder
from scan_files import write_json, write_nifti

from desd_components import load_weights, network_from_manifest, read_manifest

NAME = "desd_seg_finetune"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("data") / "labelled")


@pytest.fixture(scope="module")
def split(folder):
    sections = {"train": ["case_0", "case_1", "case_2"], "validation": ["case_3"], "test": ["case_4"]}
    return write_json(folder.parent / "split.json", sections)


def finetune(folder: Path, place: Path, configs: str = "train small smoke", **settings: Any) -> CompletedProcess:
    places = {"dataset_dir": folder, "output_dir": place / "run", "cache_dir": place / "cache"}
    return run_bundle(NAME, configs, "training", **{**places, "class_names": CLASSES, **settings})


def said(done: CompletedProcess) -> str:
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def scratch(folder, split, tmp_path_factory):
    place = tmp_path_factory.mktemp("scratch")
    settings = {"data_split": split, "max_epochs": 6, "learning_rate": 0.01, "samples_per_epoch": 12}
    return place / "run", succeed(finetune(folder, place, val_interval=3, **settings))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """As public weights leave it: another shape than the smoke overlay's own, seen at any spacing, with a licence."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.pt"
    write_encoder(path, norm="group")
    manifest = json.loads(path.with_suffix(".json").read_text()) | {"licence": "MIT, theirs"}
    del manifest["preprocessing"]["spacing"]
    write_json(path.with_suffix(".json"), manifest)
    return path


def test_validation_scores_every_class(scratch):
    scores = [record for record in history(scratch[0]) if "val_mean_dice" in record]
    assert len(scores) == 2
    names = {"val_dice_organ", "val_dice_tumour", "val_hd95_organ", "val_hd95_tumour"}
    assert names <= set(scores[-1])
    assert scores[-1]["val_dice_organ"] > 0.3


def test_the_best_model_is_kept_and_described(scratch):
    manifest = read_manifest(scratch[0] / "model.pt")
    best = max(r["val_mean_dice"] for r in history(scratch[0]) if "val_mean_dice" in r)
    assert manifest["mean_dice"] == pytest.approx(best)
    assert (manifest["class_names"], manifest["activation"]) == (["background", "organ", "tumour"], "softmax")
    assert (manifest["window"], manifest["preprocessing"]["intensity"]) == ([16, 16, 16], "zscore")
    load_weights(network_from_manifest(manifest), scratch[0] / "model.pt")


def test_training_from_an_encoder_starts_with_its_weights_and_hands_its_licence_on(folder, encoder, tmp_path):
    settings = {"max_epochs": 1, "learning_rate": 0.0, "final_learning_rate": 0.0, "preset": "layerwise_decay"}
    settings["spacing"] = [1.2, 1.2, 2.5]
    done = succeed(finetune(folder, tmp_path, encoder_checkpoint=encoder, val_fraction=0, **settings))
    assert "all 36 tensors loaded" in said(done)
    kept = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    for name, tensor in torch.load(encoder, weights_only=True).items():
        torch.testing.assert_close(kept[f"encoder.{name}"], tensor, msg=name)
    manifest = read_manifest(tmp_path / "run" / "model.pt")
    told = manifest["architecture"]["norm"], manifest["encoder"], manifest["licence"]
    assert told == ("group", "encoder.pt", "MIT, theirs")


REFUSED = [
    (
        {"encoder_checkpoint": "ENCODER", "network_def#encoder#architecture": "{'depth': 18}"},
        "depth is 10 there, 18 asked",
    ),
    ({"encoder_checkpoint": "MODEL"}, "does not fit the ResNet3DEncoder"),
    ({"encoder_checkpoint": "ENCODER", "intensity": "hu"}, "was pre-trained on other volumes"),
    ({"class_names": "['organ']", "num_labels": 1}, "holds the label values [2]"),
    ({"roi_size": "[8,8,8]"}, "stage 4"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(folder, encoder, scratch, tmp_path, settings, words):
    files = {"ENCODER": encoder, "MODEL": scratch[0] / "model.pt"}
    settings = {name: files.get(value, value) if isinstance(value, str) else value for name, value in settings.items()}
    assert words in error_line(finetune(folder, tmp_path, **settings))


def test_two_channels_and_softmax_run_from_the_command_line(tmp_path):
    for number, shape in enumerate(SHAPES[:3]):
        write_pair(tmp_path / "data", f"case_{number}", shape, seed=number, channels=2)
    settings = {"in_channels": 2, "preset": "encoder_warmup", "handlers#early_stop#patience": 10}
    succeed(finetune(tmp_path / "data", tmp_path, spacing=1.5, **settings))
    manifest = read_manifest(tmp_path / "run" / "model.pt")
    assert (manifest["architecture"]["in_channels"], manifest["activation"]) == (2, "softmax")
    assert manifest["preprocessing"]["spacing"] == [1.5, 1.5, 1.5]
    scans = tmp_path / "data" / "imagesTr"
    settings = {"checkpoint": tmp_path / "run" / "model.pt", "output_dir": tmp_path / "out"}
    succeed(run_bundle(NAME, "inference", dataset_dir=scans, **settings))
    label = nibabel.load(tmp_path / "out" / "case_0.nii.gz")
    assert label.shape == SHAPES[0]


def test_two_processes_train_and_validate_together(folder, split, tmp_path):
    write_json(tmp_path / "two.json", {"train": ["case_0", "case_1"], "validation": ["case_2", "case_3", "case_4"]})
    settings = {"dataset_dir": folder, "cache_dir": tmp_path / "cache", "class_names": ["organ", "tumour"]}
    settings |= {"data_split": tmp_path / "two.json", "max_epochs": 1, "processes": 2}
    assert run_forked(NAME, "train small smoke multi_gpu_train", tmp_path / "run", **settings) == [0, 0]
    records = history(tmp_path / "run")
    assert [record["step"] for record in records if "loss" in record][-1] == 1  # 4 crops, 2 on each process
    assert sum("val_mean_dice" in record for record in records) == 1


@pytest.fixture(scope="module")
def evaluated(folder, scratch):
    settings = {"dataset_dir": folder, "output_dir": scratch[0], "section": "test", "page": False}
    succeed(run_bundle(NAME, "train small evaluate", "training", **settings))  # the word changes nothing
    return json.loads((scratch[0] / "metrics.json").read_text())


@pytest.fixture(scope="module")
def inferred(folder, scratch, tmp_path_factory):
    place = tmp_path_factory.mktemp("inference")
    scans, out = place / "scans", place / "out"
    (scans / "sub").mkdir(parents=True)
    shutil.copy(folder / "imagesTr" / "case_4.nii.gz", scans / "case_4.nii.gz")
    image = nibabel.load(folder / "imagesTr" / "case_3.nii.gz")
    # another order and direction of the axes: the same anatomy
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt("PSL"))
    nibabel.save(turned, scans / "sub" / "turned.nii")
    write_nifti(scans / "small.nii.gz", np.random.default_rng(0).normal(size=(7, 12, 5)).astype(np.float32))
    settings = {"checkpoint": scratch[0] / "model.pt", "save_probabilities": True}
    succeed(run_bundle(NAME, "inference", dataset_dir=scans, output_dir=out, flip_axes="[0]", **settings))
    return scans, out


@pytest.mark.parametrize("name", ["case_4.nii.gz", "sub/turned.nii", "small.nii.gz"])
def test_labels_lie_on_the_grid_of_the_scan_under_its_name(inferred, name):
    scan, label = nibabel.load(inferred[0] / name), nibabel.load(inferred[1] / name)
    assert label.shape == scan.shape
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
    values = np.asarray(label.dataobj)
    assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 1, 2}


def test_probabilities_decide_the_labels(inferred):
    label = np.asarray(nibabel.load(inferred[1] / "case_4.nii.gz").dataobj)
    probabilities = np.asarray(nibabel.load(inferred[1] / "case_4_prob.nii.gz").dataobj)
    assert probabilities.shape == (*label.shape, 3)
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    assert np.mean(probabilities.argmax(-1) == label) > 0.999  # ties of saturated sigmoids aside


def test_a_run_that_would_overwrite_a_result_is_refused_before_it_says_anything_of_the_folder(
    scratch, inferred, tmp_path
):
    names = ["a.nii.gz", "a_prob.nii.gz"]
    for name in names:
        shutil.copy(inferred[0] / "case_4.nii.gz", tmp_path / name)
    write_json(tmp_path / "list.json", {"testing": [{"image": name} for name in names]})
    settings = {"checkpoint": scratch[0] / "model.pt", "save_probabilities": True, "output_dir": tmp_path / "out"}
    refused = error_line(run_bundle(NAME, "inference", dataset_dir=tmp_path / "list.json", **settings))
    assert "a_prob.nii.gz: its result would overwrite that of" in refused
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inference.log"]


def dice_of_inference(folder: Path, checkpoint: Path, place: Path, *values: tuple[int, ...]) -> list[float]:
    """Segment the test case with a model: the Dice of each class, given by its label values."""
    used = {"dataset_dir": folder / "imagesTr" / "case_4.nii.gz", "output_dir": place / "out"}
    succeed(run_bundle(NAME, "inference", checkpoint=checkpoint, **used))
    maps = [nibabel.load(path / "case_4.nii.gz").get_fdata() for path in (place / "out", folder / "labelsTr")]
    marked = [[np.isin(each, class_values) for each in maps] for class_values in values]
    return [2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in marked]


def test_evaluation_agrees_with_the_labels_that_inference_writes(folder, scratch, evaluated, tmp_path):
    [case] = evaluated["cases"]  # of the section that was asked for
    assert case["image"] == "case_4.nii.gz"
    scores = case["dice"]
    found = dice_of_inference(folder, scratch[0] / "model.pt", tmp_path, (1,), (2,))
    assert [scores["organ"], scores["tumour"]] == pytest.approx(found, abs=1e-6)


def test_a_model_of_overlapping_regions_is_evaluated_and_used_by_them(folder, split, tmp_path):
    """As the commands for liver, pancreas and kidney do: the organ with the tumour in it."""
    regions = {"regions": "[[1,2],[2]]", "activation": "sigmoid", "data_split": split}
    succeed(finetune(folder, tmp_path, **regions))
    run = tmp_path / "run"
    succeed(run_bundle(NAME, "train small evaluate", dataset_dir=folder, output_dir=run, section="test", page=False))
    scores = json.loads((run / "metrics.json").read_text())["cases"][0]["dice"]
    found = dice_of_inference(folder, run / "model.pt", tmp_path, (1, 2), (2,))
    assert [scores["organ"], scores["tumour"]] == pytest.approx(found, abs=1e-6)


def test_anisotropic_spines_run_with_no_config_edited(real_data, tmp_path):
    spine = real_data / "sct_spine"
    pairs = [("t2/t2", "t2/t2_seg-manual"), ("t2s/t2s", "t2s/t2s_seg")]
    records = [{"image": str(spine / f"{i}.nii.gz"), "label": str(spine / f"{name}.nii.gz")} for i, name in pairs]
    data = write_json(tmp_path / "spine.json", {"training": records, "labels": {"0": "background", "1": "cord"}})
    settings = {"spacing": "median", "max_epochs": 1, "class_names": "null"}
    succeed(finetune(data, tmp_path, val_fraction=0.5, **settings))
    checkpoint = tmp_path / "run" / "model.pt"
    out = {"checkpoint": checkpoint, "output_dir": tmp_path / "out"}
    succeed(run_bundle(NAME, "inference", dataset_dir=spine / "t2s" / "t2s.nii.gz", overlap=0.1, **out))
    label, scan = nibabel.load(tmp_path / "out" / "t2s.nii.gz"), nibabel.load(spine / "t2s" / "t2s.nii.gz")
    assert label.shape == scan.shape[:3] and np.allclose(label.affine, scan.affine, atol=1e-3)
