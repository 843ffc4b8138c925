"""Encoders of other packages, through the command line: pre-trained, described, judged, fine-tuned, segmented with."""

import numpy as np
import pytest
from bundle_runs import history, run_bundle, succeed
from scan_files import write_pairs

from desd_components import read_manifest

ENCODER = {"network": "SegResNet", "init_filters": 8, "blocks_down": [1, 1, 1]}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Scans, cache and output of a pre-training of three stages by the small recipe."""
    folder = tmp_path_factory.mktemp("encoders")
    write_pairs(folder / "scans", [f"case_{number}" for number in range(4)], shape=(20, 22, 24))
    where = {"dataset_dir": folder / "scans", "cache_dir": folder / "cache"}
    given = {"encoder": ENCODER, "output_dir": folder / "pre", **where}
    succeed(run_bundle("desd_pretrain", "train small smoke", "training", **given))
    return folder, where


def test_its_stages_are_taught_watched_and_written_down(places):
    folder, _ = places
    assert read_manifest(folder / "pre" / "encoder.pt")["architecture"] == {**ENCODER, "in_channels": 1}
    records = {key for row in history(folder / "pre") for key in row}
    for key in ("stage_{}_loss", "dense_stage_{}_loss", "gradient_norm_{}", "feature_rank_{}", "val_retrieval_{}"):
        assert {key.format(3)} <= records and key.format(4) not in records


def test_it_is_fine_tuned_and_segments(places):
    folder, where = places
    encoder = folder / "pre" / "encoder.pt"
    settings = {"encoder_checkpoint": encoder, "output_dir": folder / "fine", "class_names": ["one", "two"], **where}
    done = succeed(run_bundle("desd_seg_finetune", "train smoke", "training", max_epochs=1, **settings))
    assert "tensors loaded" in done.stdout + done.stderr
    assert read_manifest(folder / "fine" / "model.pt")["architecture"]["network"] == "SegResNet"
    scans = {"dataset_dir": folder / "scans" / "imagesTr", "output_dir": folder / "maps"}
    succeed(run_bundle("desd_seg_finetune", "inference", checkpoint=folder / "fine" / "model.pt", **scans))
    assert len(list((folder / "maps").rglob("*.nii.gz"))) == 4


def test_its_features_are_written_and_judged_stage_by_stage(places):
    folder, where = places
    encoder = folder / "pre" / "encoder.pt"
    scans = {"dataset_dir": folder / "scans" / "imagesTr", "output_dir": folder / "features"}
    succeed(run_bundle("desd_pretrain", "inference", checkpoint=encoder, **scans))
    [first, *_] = sorted((folder / "features").glob("*.npz"))
    assert [len(np.load(first)[f"stage_{stage}"]) for stage in (1, 2, 3)] == [8, 16, 32]
    settings = {"encoder_checkpoint": encoder, "output_dir": folder / "judged", "untrained_draws": 1, **where}
    done = succeed(run_bundle("desd_pretrain", "train smoke evaluate", class_names=["one", "two"], **settings))
    assert "retrieval, stage 3" in done.stdout and "dense Dice, stage 3" in done.stdout
