"""Publishing: weights, manifest and label-free scores go into a bundle, and only those that belong together."""

import json
import shutil
from pathlib import Path

import pytest

from desd_components import ResNet3DEncoder, UserError, load_encoder, read_manifest, save_weights
from desd_tools.pack.publish import publish

ROOT = Path(__file__).resolve().parents[3]
FIGURES = {"trained": 0.4, "untrained": 0.1, "difference": 0.3, "interval_95": [0.2, 0.4], "per_volume": [0.0, 1.0]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    encoder = ResNet3DEncoder(depth=10, width=8, norm="group", stem_kernel=3, stem_stride=1, stem_pool=False)
    manifest = {"kind": "encoder", "architecture": encoder.architecture}
    save_weights(encoder, tmp_path / "run" / "encoder.pt", manifest)
    return tmp_path / "run"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for part in ("configs", "models"):
        shutil.copytree(ROOT / "bundles" / "desd_pretrain" / part, tmp_path / "bundle" / part)
    return tmp_path / "bundle"


def evaluation(run: Path, **changes) -> Path:
    stages = {f"stage_{stage}": FIGURES for stage in (1, 2, 3, 4)}
    report = {"manifest": read_manifest(run / "encoder.pt"), "volumes": 2, "interval_covers": "volumes"}
    path = run / "metrics.json"
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"manifest": {"kind": "encoder"}}, "scores other weights"), ({"rank": None}, "no metrics.json of")],
)
def test_scores_of_other_weights_or_of_something_else_are_refused_and_nothing_is_written(run, bundle, changes, words):
    before = (bundle / "models" / "model.json").read_bytes()
    with pytest.raises(UserError, match=words):
        publish(str(run), str(bundle), str(evaluation(run, **changes)))
    assert (bundle / "models" / "model.json").read_bytes() == before
