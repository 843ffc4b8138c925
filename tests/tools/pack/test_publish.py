"""Publishing: weights, manifest and label-free scores go into a bundle, and only those that belong together."""

import json
import shutil
from pathlib import Path

import pytest
from bundle_runs import ROOT
from random_weights import write_encoder

from desd_components import UserError, load_encoder, read_manifest
from desd_tools.pack.publish import publish

FIGURES = {"trained": 0.4, "untrained": 0.1, "difference": 0.3, "interval_95": [0.2, 0.4], "per_volume": [0.0, 1.0]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "run" / "encoder.pt", norm="group")
    return tmp_path / "run"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for part in ("configs", "models"):
        shutil.copytree(ROOT / "bundles" / "desd_pretrain" / part, tmp_path / "bundle" / part)
    return tmp_path / "bundle"


def evaluation(run: str | Path, **changes) -> Path:
    stages = {f"stage_{stage}": FIGURES for stage in (1, 2, 3, 4)}
    report = {"manifest": read_manifest(Path(run, "encoder.pt")), "volumes": 2, "interval_covers": "volumes"}
    path = Path(run, "metrics.json")
    path.write_text(json.dumps({**report, "retrieval": stages, "rank": stages, "dense_dice": stages, **changes}))
    return path


def test_the_weights_of_a_run_become_those_of_the_bundle_and_its_metadata_follow(run, bundle):
    publish(str(run), str(bundle))
    assert load_encoder(bundle / "models" / "model.pt").architecture["width"] == 8
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 64


def test_the_scores_of_an_evaluation_stand_in_the_manifest_without_those_that_need_labels(run, bundle):
    publish(str(run), str(bundle), evaluation(run))
    scores = read_manifest(bundle / "models" / "model.pt")["label_free_scores"]
    assert scores["retrieval"]["stage_4"] == {"trained": 0.4, "untrained": 0.1, "interval_95": [0.2, 0.4]}
    assert scores["volumes"] == 2 and "dense_dice" not in scores
    assert load_encoder(bundle / "models" / "model.pt")


REFUSED = {  # what is published from where to where, and what is said
    "scores other weights": lambda run, bundle: publish(
        run, bundle, str(evaluation(run, manifest={"kind": "encoder"}))
    ),
    "no metrics.json of": lambda run, bundle: publish(run, bundle, str(evaluation(run, rank=None))),
    "neither a weights file nor a run's folder": lambda run, bundle: publish(bundle, bundle),
    "not a bundle": lambda run, bundle: publish(run, run),
    "holds weights of kind": lambda run, bundle: publish(run, str(ROOT / "bundles" / "desd_seg_finetune")),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_belong_together_is_refused_and_nothing_is_written(run, bundle, words):
    models = [bundle / "models", ROOT / "bundles" / "desd_seg_finetune" / "models"]
    before = [(folder / "model.json").read_bytes() for folder in models]
    with pytest.raises(UserError, match=words):
        REFUSED[words](str(run), str(bundle))
    assert [(folder / "model.json").read_bytes() for folder in models] == before
