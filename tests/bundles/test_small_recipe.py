"""The small-data recipe and the evaluation, through the command line, on tiny oblique volumes."""

import json

import pytest
from bundle_runs import error_line, history, run_bundle, succeed
from scan_files import write_json, write_label, write_scan

from desd_components import read_manifest

NAME = "desd_pretrain"
SHAPES = [(30, 32, 28), (28, 36, 31), (33, 30, 29), (29, 31, 34)]
FEW = {
    "max_epochs": 1,
    "batch_size": 2,
    "samples_per_epoch": len(SHAPES),
    "train#trainer#prepare_batch#num_points": 4,
    "warmup_steps": 0,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number, shape in enumerate(SHAPES):
        write_scan(folder / "imagesTr" / f"case_{number}.nii.gz", shape, seed=number)
        write_label(folder / "labelsTr" / f"case_{number}.nii.gz", shape)
    write_json(folder / "splits.json", {"train": ["case_0", "case_1"], "validation": ["case_2"], "test": ["case_3"]})
    return folder


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    settings = {"dataset_dir": dataset, "cache_dir": folder / "cache", "output_dir": folder / "run"}
    succeed(run_bundle(NAME, "train small", "training", **settings, **FEW))
    return folder


def test_the_record_shows_both_terms_beside_the_stage_losses(trained):
    last = [record for record in history(trained / "run") if "loss" in record][-1]
    assert {"stage_4_loss", "dense_stage_4_loss", "dense_teacher_entropy", "coding_rate"} <= last.keys()


def test_the_encoder_is_saved_without_heads_and_within_its_size(trained):
    assert (trained / "run" / "encoder.pt").stat().st_size < 20e6
    assert read_manifest(trained / "run" / "encoder.pt")["architecture"]["norm"] == "group"


@pytest.mark.parametrize("words", [(), ("training",)])
def test_the_evaluation_compares_every_stage_with_untrained_encoders(trained, dataset, tmp_path, words):
    settings = {"encoder_checkpoint": trained / "run" / "encoder.pt", "cache_dir": trained / "cache"}
    settings |= {"dataset_dir": dataset, "data_split": dataset / "splits.json", "class_names": "['one','two']"}
    settings |= {"untrained_draws": 2, "replicates": 20, "probe_judged_voxels": 50, "output_dir": tmp_path}
    done = succeed(run_bundle(NAME, "train small evaluate", *words, **settings))
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["volumes"] == 3  # train and validation, never test
    for score in ("retrieval", "rank", "dense_dice"):
        assert all(len(report[score][f"stage_{s}"]["interval_95"]) == 2 for s in (1, 2, 3, 4))
    assert "dense Dice, stage 4" in done.stdout


def test_an_evaluation_of_nothing_is_refused(dataset, tmp_path):
    done = run_bundle(NAME, "train small evaluate", dataset_dir=dataset, output_dir=tmp_path)
    assert "--encoder_checkpoint" in error_line(done)
    done = run_bundle(NAME, "train small evaluate", dataset_dir=dataset, encoder_checkpoint="no.pt")
    assert "no.pt: no such weights file" in error_line(done)


def test_an_evaluation_on_other_intensities_is_refused(trained, dataset, tmp_path):
    settings = {"encoder_checkpoint": trained / "run" / "encoder.pt", "intensity": "hu", "output_dir": tmp_path}
    done = run_bundle(NAME, "train small evaluate", dataset_dir=dataset, **settings)
    assert "intensity" in error_line(done)
