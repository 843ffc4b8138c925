"""Frozen encoders are compared volume by volume, stage by stage."""

import numpy as np
import pytest

from desd_components.base.statistics import Bootstrap
from desd_tools.studies.curve.analysis import probe_differences
from desd_tools.studies.curve.cells import volume_scores


def probe(pretraining, seed, stages):
    scores = {stage: {"per_volume": values} for stage, values in stages.items()}
    metrics = {"dense_dice": scores}
    return {"kind": "probe", "pretraining": pretraining, "pretraining_seed": seed, "metrics": metrics}


def test_scores_are_seeds_by_volumes_and_null_is_nan():
    runs = [probe("a", 1, {"stage_1": [0.3, None]}), probe("a", 0, {"stage_1": [0.1, 0.2]}), probe("b", 0, {})]
    found = volume_scores(runs, "a")["stage_1"]
    np.testing.assert_array_equal(found, [[0.1, 0.2], [0.3, np.nan]])


def test_a_planted_gain_is_found_and_its_interval_leaves_zero_out():
    rng = np.random.default_rng(0)
    hard = rng.normal(0.4, 0.1, 30)  # volumes differ far more than encoders do
    deep, shallow = hard + 0.03 + rng.normal(0, 0.005, 30), hard
    runs = [probe("deep", 0, {"stage_1": deep.tolist()}), probe("single", 0, {"stage_1": shallow.tolist()})]
    [row] = probe_differences(runs, ["deep", "single"], Bootstrap())
    assert (row["pretraining"], row["against"], row["volumes"]) == ("deep", "single", 30)
    assert row["difference"] == pytest.approx(3.0, abs=0.3)
    low, high = row["interval_95"]
    assert 2.5 < low < row["difference"] < high < 3.5, "paired by volume, so that their spread cancels"


def test_equal_encoders_differ_by_nothing_at_any_stage():
    stages = {f"stage_{n}": [0.1 * n, 0.2, 0.3] for n in (1, 2)}
    rows = probe_differences([probe("a", 0, stages), probe("b", 0, stages)], ["a", "b"], Bootstrap())
    assert [(row["stage"], row["difference"], row["interval_95"]) for row in rows] == [
        ("stage_1", 0.0, [0.0, 0.0]),
        ("stage_2", 0.0, [0.0, 0.0]),
    ]


def test_several_pretraining_seeds_widen_the_interval_by_their_spread():
    rng, one = np.random.default_rng(0), [probe("b", 0, {"stage_1": [0.5] * 20})]
    seeds = [probe("a", n, {"stage_1": rng.normal(mean, 0.01, 20).tolist()}) for n, mean in enumerate((0.5, 0.7))]
    [row] = probe_differences([*seeds, *one], ["a", "b"], Bootstrap())
    low, high = row["interval_95"]
    assert row["seeds"] == [2, 1] and low < 2 and high > 18
