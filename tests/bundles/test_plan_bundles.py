"""The small recipe on scans that no config names: one folder, no setting, both bundles one after the other."""

from __future__ import annotations

import pytest
import yaml
from bundle_runs import error_line, run_bundle, succeed
from labelled_volumes import CLASSES, SHAPES, write_cases

from desd_components import read_manifest

SHORT = {"max_epochs": 2, "val_interval": 5, "page": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("data") / "labelled")


@pytest.fixture(scope="module")
def pretrained(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("pretrained")
    few = {**SHORT, "batch_size": 2, "samples_per_epoch": len(SHAPES), "warmup_steps": 0}
    few |= {"dataset_dir": folder, "output_dir": place / "run", "cache_dir": place / "cache"}
    few |= {"train#trainer#prepare_batch#num_points": 4}
    done = succeed(run_bundle("desd_pretrain", "train small", "training", **few))
    return place, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finetuned(folder, pretrained):
    place, _ = pretrained
    own = {"samples_per_epoch": 8, "class_names": CLASSES, "encoder_checkpoint": place / "run" / "encoder.pt"}
    own |= {"dataset_dir": folder, "output_dir": place / "fine", "cache_dir": place / "cache"}
    done = succeed(run_bundle("desd_seg_finetune", "train small", "training", **SHORT, **own))
    return place / "fine", done.stdout + done.stderr


def test_the_log_gives_every_number_a_reason(pretrained, finetuned):
    for _, said in (pretrained, finetuned):
        assert "plan: intensity zscore: " in said and "plan: max_epochs 2: given" in said
    assert "plan: spacing" in finetuned[1] and "as the encoder saw" in finetuned[1]


def test_the_record_of_a_run_holds_numbers_not_questions(pretrained, finetuned):
    for folder in (pretrained[0] / "run", finetuned[0]):
        text = (folder / "config.yaml").read_text()
        assert "@planned.get" not in text
    config = yaml.safe_load((finetuned[0] / "config.yaml").read_text())
    assert len(config["roi_size"]) == 3 and isinstance(config["amp"], bool)


def test_the_encoder_decides_what_fine_tuning_sees(pretrained, finetuned):
    encoder, model = (read_manifest(path) for path in (pretrained[0] / "run" / "encoder.pt", finetuned[0] / "model.pt"))
    assert encoder["preprocessing"] == model["preprocessing"]
    assert encoder["architecture"] == model["architecture"]


def test_a_run_whose_last_epoch_no_interval_hits_leaves_a_model_all_the_same(finetuned):
    assert "mean_dice" in read_manifest(finetuned[0] / "model.pt")


def test_the_model_is_evaluated_as_it_was_planned(folder, finetuned, pretrained):
    settings = {"dataset_dir": folder, "output_dir": finetuned[0], "cache_dir": pretrained[0] / "cache"}
    succeed(run_bundle("desd_seg_finetune", "train small evaluate", page=False, **settings))
    assert (finetuned[0] / "metrics.json").is_file()


def test_a_plan_for_a_config_that_gives_every_number_is_refused(folder, tmp_path):
    settings = {"dataset_dir": folder, "class_names": CLASSES, "output_dir": tmp_path, "plan": "auto"}
    done = run_bundle("desd_seg_finetune", "train smoke", "training", cache_dir=tmp_path / "cache", **settings)
    assert done.returncode == 1 and "put small.yaml on top" in error_line(done)
