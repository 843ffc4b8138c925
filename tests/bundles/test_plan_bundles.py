"""The small recipe on scans that no config names: one folder, no setting, both bundles one after the other."""

import json

import pytest
import yaml
from bundle_runs import error_line, history, run_bundle, succeed
from labelled_volumes import CLASSES, SHAPES, write_cases
from scan_files import write_json

from desd_components import read_manifest

SHORT = {"max_epochs": 2, "val_interval": 5, "page": False}
PRETRAIN, FINETUNE = "desd_pretrain", "desd_seg_finetune"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_cases(tmp_path_factory.mktemp("data") / "labelled")
    sections = {"train": ["case_0", "case_1"], "validation": ["case_2"], "test": ["case_3", "case_4"]}
    write_json(folder.parent / "split.json", sections)
    return folder


@pytest.fixture(scope="module")
def pretrained(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("pretrained")
    few = {**SHORT, "batch_size": 2, "samples_per_epoch": len(SHAPES), "warmup_steps": 0}
    few |= {"dataset_dir": folder, "output_dir": place / "run", "cache_dir": place / "cache"}
    few |= {"train#trainer#prepare_batch#num_points": 4}
    done = succeed(run_bundle(PRETRAIN, "train small", "training", **few))
    return place, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finetuned(folder, pretrained):
    place, _ = pretrained
    own = {"samples_per_epoch": 8, "class_names": CLASSES, "encoder_checkpoint": place / "run" / "encoder.pt"}
    own |= {"dataset_dir": folder, "output_dir": place / "fine", "cache_dir": place / "cache"}
    done = succeed(run_bundle(FINETUNE, "train small", "training", **SHORT, **own))
    return place / "fine", done.stdout + done.stderr


def test_the_log_gives_every_number_a_reason(pretrained, finetuned):
    for _, said in (pretrained, finetuned):
        assert "plan: intensity zscore: " in said and "plan: max_epochs 2: given" in said
    assert "plan: spacing" in finetuned[1] and "as the encoder saw" in finetuned[1]


def test_the_record_of_a_run_holds_numbers_not_questions(pretrained, finetuned):
    for folder in (pretrained[0] / "run", finetuned[0]):
        assert "@planned.get" not in (folder / "config.yaml").read_text()
    config = yaml.safe_load((finetuned[0] / "config.yaml").read_text())
    assert len(config["roi_size"]) == 3 and isinstance(config["amp"], bool)


def test_the_history_shows_both_terms_beside_the_stage_losses(pretrained):
    last = [record for record in history(pretrained[0] / "run") if "loss" in record][-1]
    assert {"stage_4_loss", "dense_stage_4_loss", "dense_teacher_entropy", "coding_rate"} <= last.keys()


def test_the_encoder_decides_what_fine_tuning_sees_and_is_small(pretrained, finetuned):
    weights = pretrained[0] / "run" / "encoder.pt"
    encoder, model = (read_manifest(path) for path in (weights, finetuned[0] / "model.pt"))
    assert encoder["preprocessing"] == model["preprocessing"]
    assert encoder["architecture"] == model["architecture"] and encoder["architecture"]["norm"] == "group"
    assert weights.stat().st_size < 20e6  # it has no heads


def test_a_run_whose_last_epoch_no_interval_hits_leaves_a_model_that_is_evaluated_as_planned(
    folder, finetuned, pretrained
):
    assert "mean_dice" in read_manifest(finetuned[0] / "model.pt")
    settings = {"dataset_dir": folder, "output_dir": finetuned[0], "cache_dir": pretrained[0] / "cache"}
    succeed(run_bundle(FINETUNE, "train small evaluate", page=False, **settings))
    assert (finetuned[0] / "metrics.json").is_file()


def evaluate(pretrained, folder, output, *words, **settings):
    given = {"encoder_checkpoint": pretrained[0] / "run" / "encoder.pt", "cache_dir": pretrained[0] / "cache"}
    given |= {"dataset_dir": folder, "output_dir": output, **settings}
    return run_bundle(PRETRAIN, "train small evaluate", *words, **given)


def test_the_evaluation_compares_every_stage_with_untrained_encoders(pretrained, folder, tmp_path):
    few = {"data_split": folder.parent / "split.json", "class_names": CLASSES}
    few |= {"untrained_draws": 2, "replicates": 20, "probe_judged_voxels": 50}
    done = succeed(evaluate(pretrained, folder, tmp_path, "training", **few))  # the word changes nothing
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["volumes"] == 3  # train and validation, never test
    for score in ("retrieval", "rank", "dense_dice"):
        assert all(len(report[score][f"stage_{s}"]["interval_95"]) == 2 for s in (1, 2, 3, 4))
    assert "dense Dice, stage 4" in done.stdout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_checkpoint": "null"}, "--encoder_checkpoint"),
        ({"encoder_checkpoint": "no.pt"}, "no.pt: no such weights file"),
        ({"intensity": "hu"}, "intensity"),
    ],
)
def test_an_evaluation_of_nothing_or_on_other_intensities_is_refused(pretrained, folder, tmp_path, settings, words):
    assert words in error_line(evaluate(pretrained, folder, tmp_path, **settings))
