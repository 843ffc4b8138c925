"""The evaluation compares with untrained encoders on the same volumes, and says what its interval covers."""

import json

import numpy as np
import pytest
import torch
from labelled_volumes import PROBED, labelled_volume
from random_weights import ARCHITECTURE, write_model
from scan_files import write_json, write_pairs, write_scan

from desd_components import DenseProbe, EncoderEvaluation, ResNet3DEncoder, UserError, evaluated_manifest, probe_data
from desd_components.health.evaluation import compare, mean_over, rank_over
from desd_components.health.measures import effective_rank


@pytest.mark.parametrize("width", [5, 30])
def test_rank_over_some_volumes_is_that_of_their_features(width):
    features = torch.randn(12, width).double() + 3
    gram = (features @ features.T).numpy()
    chosen = np.array([1, 5, 5, 7, 8])
    assert rank_over(gram, chosen) == pytest.approx(effective_rank(features[chosen]))
    assert rank_over(np.ones((4, 4)), np.arange(4)) == 1.0
    assert mean_over(np.array([1.0, np.nan, 3.0]), np.arange(3)) == 2.0  # without a score, a volume is left out


def test_the_interval_covers_the_difference_and_shrinks_with_more_volumes():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 320):
        trained, untrained = rng.normal(0.5, 0.1, count), [rng.normal(0.3, 0.1, count) for _ in range(5)]
        found = compare(trained, untrained, mean_over, replicates=200, seed=0)
        low, high = found["interval_95"]
        assert low < found["difference"] < high and low > 0
        assert found["difference"] == pytest.approx(trained.mean() - np.mean(untrained))
        widths.append(high - low)
        assert compare(trained, [trained] * 2, mean_over, 50, 0)["interval_95"] == [0.0, 0.0]
    assert widths[1] < 0.5 * widths[0]


def test_the_interval_of_a_difference_of_ranks_contains_it_though_resampled_volumes_repeat():
    rng = np.random.default_rng(0)
    many, few = (rng.normal(size=(60, width)) for width in (40, 10))
    found = compare(many @ many.T, [few @ few.T], rank_over, replicates=200, seed=0)
    low, high = found["interval_95"]
    assert 0 < low < found["difference"] < high


@pytest.fixture
def evaluation(tmp_path):
    torch.manual_seed(1)
    views = [torch.randn(6, 1, 16, 16, 16) for _ in range(2)]
    volumes = [labelled_volume(seed, (16, 16, 16)) for seed in range(5)]
    return EncoderEvaluation(
        ResNet3DEncoder(**ARCHITECTURE, norm="group"), [{}], lambda batch, device: (views, None), tmp_path,
        probe=DenseProbe(PROBED, 20, 100), neighbors=volumes[:3], judged=volumes[3:], draws=2, replicates=20,
        about={"encoder": "here"},
    )  # fmt: skip


def test_batch_norms_of_untrained_encoders_get_the_statistics_of_all_views(evaluation):
    encoder = ResNet3DEncoder(**ARCHITECTURE, norm="batch")
    evaluation._scores(encoder, [[torch.randn(2, 1, 16, 16, 16)] * 2] * 3)
    assert encoder.stem[1].num_batches_tracked == 6 and encoder.stem[1].running_mean.any() and not encoder.training


def test_the_report_has_every_score_at_every_stage_and_says_what_is_covered(evaluation, tmp_path, capsys):
    report = evaluation.run()
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    for name in ("retrieval", "rank", "dense_dice"):
        assert list(report[name]) == ["stage_1", "stage_2", "stage_3", "stage_4"]
        assert len(report[name]["stage_3"]["untrained_draws"]) == 2
    for name, volumes in (("retrieval", 6), ("dense_dice", 2)):
        each = report[name]["stage_2"]["per_volume"]
        assert len(each) == volumes and np.mean(each) == pytest.approx(report[name]["stage_2"]["trained"], abs=1e-6)
    assert "neither the seed of the pre-training" in report["interval_covers"]
    assert (report["encoder"], report["volumes"]) == ("here", 6)
    said = capsys.readouterr().out
    assert "dense Dice, stage 4" in said and "The interval covers volumes" in said


def test_untrained_encoders_are_reproducible_and_differ(evaluation):
    weights = [evaluation._untrained(draw).stem[0].weight for draw in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_without_labels_the_dense_probe_is_left_out(evaluation):
    evaluation.neighbors = None
    assert "dense_dice" not in evaluation.run()


def test_neighbours_come_from_training_and_validation_is_judged(tmp_path):
    write_pairs(tmp_path, [f"case_{n}" for n in range(6)])
    split = {"train": ["case_0", "case_1", "case_2"], "validation": ["case_3"], "test": ["case_4", "case_5"]}
    write_json(tmp_path / "splits.json", split)
    data = probe_data(tmp_path, ["a", "b"], tmp_path / "splits.json", num_volumes=2)
    assert len(data.training) == 2
    assert all(r["image"].split("case_")[1][0] in "012" for r in data.training)
    assert [r["image"].split("case_")[1][0] for r in data.validation] == ["3"]


def test_a_folder_without_labels_gives_no_probe_and_says_why(tmp_path, caplog):
    write_scan(tmp_path / "scan.nii.gz")
    data = probe_data(tmp_path)
    assert not data.training and not data.validation
    assert "No dense probe" in caplog.text


REFUSED = {
    "--encoder_checkpoint": lambda folder: evaluated_manifest(None),
    "kind is 'segmentation'": lambda folder: evaluated_manifest(folder / "model.pt"),
    "untrained_draws=0": lambda folder: EncoderEvaluation(None, [], lambda *_: ([], None), folder, draws=0),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_evaluated_is_refused(tmp_path, words):
    write_model(tmp_path / "model.pt", ResNet3DEncoder(**ARCHITECTURE))
    with pytest.raises(UserError, match=words):
        REFUSED[words](tmp_path)
