"""The label curve's analysis: figures that a reader can work out by hand, and effects that were planted."""

import math

import numpy as np
import pytest
from curve_runs import level, record

from desd_components.base.statistics import Bootstrap
from desd_tools.studies.curve import analysis, tables
from desd_tools.studies.curve.analysis import Curves, probe_differences, reach
from desd_tools.studies.curve.cells import cells, volume_scores
from desd_tools.studies.curve.study import study_from
from desd_tools.studies.curve.summary import chosen_settings, summarize

STUDY = {"labels": [4], "arms": {"scratch": {}, "ours": {"pretraining": "p"}}, "pretraining": {"p": {"seeds": [0, 1]}}}


def _study(tmp_path, **changes):
    return study_from({**STUDY, **changes}, "study.yaml", tmp_path)


def _curves(*records):
    return Curves(cells(records), "scratch")


def test_a_case_counts_with_the_mean_of_the_classes_that_have_a_score():
    [cell] = cells([record("a", 4, 0, {"x": (0.5, 0.7), "y": (0.4, None), "z": (None, None)})])
    np.testing.assert_allclose(cell.dice, [[0.6, 0.4, math.nan]])
    np.testing.assert_allclose(cell.values["hd95", "front"], [[5.0, 6.0, math.nan]])


def test_one_seed_has_no_spread_and_no_verdict():
    curves = _curves(level("scratch", 4, 0, 0.5), level("ours", 4, 0, 0.6))
    [row] = curves.against("ours", "scratch")
    assert math.isnan(analysis.seed_sd(curves.of("ours")[0].dice))
    assert row["verdict"] == "one seed: no verdict" and row["difference"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("target", "place", "bound"),
    [(0.7, 8 * math.sqrt(2), ""), (0.6, 8, ""), (0.5, 4, ""), (0.4, 4, "at most"), (0.9, 16, "at least")],
)
def test_a_curve_is_linear_in_the_log2_of_the_labels_and_capped_at_its_ends(target, place, bound):
    found, words = reach([4, 8, 16], [0.5, 0.6, 0.8], target)
    assert found == pytest.approx(place) and words == bound


def test_runs_are_paired_by_seed_and_case_whatever_their_order():
    first = [record("ours", 4, s, {"x": (0.6, 0.6), "y": (0.9, 0.9)}) for s in (1, 0, 2)]
    second = [record("scratch", 4, s, {"y": (0.8, 0.8), "x": (0.6, 0.6)}) for s in (0, 1)]
    [row] = _curves(*first, *second).against("ours", "scratch")
    assert row["seeds"] == [0, 1] and row["cases"] == 2
    assert row["of_seeds"] == pytest.approx([5, 5]) and row["difference"] == pytest.approx(5)


def test_the_interval_over_two_seeds_spans_both_of_them():
    runs = [level("ours", 4, 0, 0.4), level("ours", 4, 1, 0.6)]
    runs += [level("scratch", 4, s, 0.5) for s in (0, 1)]
    [row] = _curves(*runs).against("ours", "scratch")  # a quarter of the draws take one seed twice
    assert row["interval_95"] == pytest.approx([-10, 10]) and row["verdict"] == "not told apart"


def test_the_interval_over_cases_is_that_of_one_seed_drawn_twice():
    runs = [record("ours", 4, 0, {"x": (0.5, 0.5), "y": (0.7, 0.7)}), level("scratch", 4, 0, 0.5, 0)]
    runs[1] = record("scratch", 4, 0, {"x": (0.5, 0.5), "y": (0.5, 0.5)})
    [row] = _curves(*runs).against("ours", "scratch")
    assert row["interval_95"] == pytest.approx([0, 20])


def _planted(gain: float, rng: np.random.Generator, noise: float = 0.02) -> Curves:
    """Both arms on 5 seeds and 20 cases; the second seed effect and the cases' difficulty are shared."""
    hard, records = rng.normal(0.6, 0.1, 20), []
    for seed in range(5):
        shared = rng.normal(0, noise)
        for arm, plus in (("scratch", 0.0), ("ours", gain)):
            values = (hard + shared + plus + rng.normal(0, noise / 2) + rng.normal(0, noise, 20)).tolist()
            records.append(record(arm, 8, seed, {f"c{n:02d}": (v, v) for n, v in enumerate(values)}))
    return Curves(cells(records), "scratch", Bootstrap(500))


def test_a_planted_gain_is_found_and_none_is_not():
    [row] = _planted(0.08, np.random.default_rng(1)).against("ours", "scratch")
    assert row["verdict"] == "ahead" and row["interval_95"][0] < 8 < row["interval_95"][1]
    [row] = _planted(-0.08, np.random.default_rng(1)).against("ours", "scratch")
    assert row["verdict"] == "behind"
    [row] = _planted(0.0, np.random.default_rng(2)).against("ours", "scratch")
    assert row["verdict"] == "not told apart"


def test_the_interval_contains_the_planted_gain_in_most_of_many_studies():
    hits = 0
    for number in range(100):
        [row] = _planted(0.03, np.random.default_rng(number)).against("ours", "scratch")
        hits += row["interval_95"][0] <= 3 <= row["interval_95"][1]
    assert 78 <= hits <= 100, "five seeds: somewhat fewer than 95, as the page says"


def test_a_sure_gain_below_the_spread_of_seeds_is_called_none():
    runs = [level("scratch", 4, s, 0.4 + 0.2 * s) for s in (0, 1)] + [
        level("ours", 4, s, 0.41 + 0.2 * s) for s in (0, 1)
    ]
    [row] = _curves(*runs).against("ours", "scratch")
    assert row["interval_95"] == pytest.approx([1, 1]) and row["verdict"] == "below the seeds' spread: no gain"


def _ladder():
    runs = [level("scratch", n, s, d) for n, d in ((4, 0.5), (8, 0.6), (16, 0.7)) for s in (0, 1)]
    runs += [level("scratch", 120, s, 0.9, all_labels=True) for s in (0, 1)]
    return runs + [level("ours", n, s, d) for n, d in ((4, 0.6), (8, 0.5), (16, 0.95)) for s in (0, 1)]


def test_labels_saved_are_those_the_reference_needs_for_the_same_dice():
    rows = {row["labels"]: row for row in _curves(*_ladder()).label_saving("ours")}
    assert (rows[4]["needed"], rows[4]["factor"]) == pytest.approx((8, 2))
    assert (rows[8]["needed"], rows[8]["factor"]) == pytest.approx((4, 0.5))
    assert (rows[16]["needed"], rows[16]["bound"]) == (120, "at least")
    assert rows[4]["interval_95"] == pytest.approx([2, 2])


def test_the_gap_to_all_labels_is_closed_by_the_share_of_the_way():
    rows = {row["labels"]: row for row in _curves(*_ladder()).gap_closed("ours")}
    assert rows[4]["share"] == pytest.approx(0.25) and rows[8]["share"] == pytest.approx(-1 / 3)


def test_an_arm_of_fewer_seeds_gets_no_merit_from_their_easier_labels():
    seeds = {0: 0.7, 1: 0.5}  # seed 0 draws labels that are worth more, in every arm
    runs = [level("scratch", 4, seed, dice) for seed, dice in seeds.items()]
    runs += [level("scratch", 120, seed, 0.8, all_labels=True) for seed in seeds] + [level("ours", 4, 0, 0.7)]
    curves = _curves(*runs)
    [row] = curves.gap_closed("ours")
    assert row["share"] == pytest.approx(0)
    assert curves.label_saving("ours")[0]["factor"] == pytest.approx(1)


def test_steps_saved_are_read_off_the_shorter_runs():
    shorter = [level(a, 8, 0, d, kind="speed", epochs=e, steps=10 * e) for a, e, d in SHORT]
    curves = _curves(level("scratch", 8, 0, 0.7), level("ours", 8, 0, 0.8))
    rows = {row["arm"]: row for row in analysis.speed(curves, cells(shorter, "speed"), 8)}
    assert (rows["ours"]["steps"], rows["ours"]["factor"]) == pytest.approx((20, 3))
    assert (rows["scratch"]["steps"], rows["scratch"]["factor"]) == pytest.approx((60, 1))


SHORT = [("scratch", 1, 0.4), ("scratch", 2, 0.5), ("ours", 1, 0.5), ("ours", 2, 0.7)]


def _tuned(arm: str, rate: float, epochs: int, dice: float) -> dict:
    settings = {"finetuning": {"learning_rate": rate, "max_epochs": epochs}}
    return level(arm, 8, 0, dice, kind="tuning", settings=settings)


def test_gains_after_fewer_steps_are_paired_length_by_length():
    shorter = [level(a, 8, 0, d, kind="speed", epochs=e, steps=10 * e) for a, e, d in SHORT]
    curves = analysis.Curves(cells([level("scratch", 8, 0, 0.85)]), "scratch")
    rows = analysis.gains_when_stopped_early(curves, cells(shorter, "speed"))
    gains = [(row["arm"], row["steps"], row["difference"]) for row in rows]
    assert gains == [("ours", 10, pytest.approx(10.0)), ("ours", 20, pytest.approx(20.0))]


def test_the_tuning_takes_the_best_of_each_arm_and_of_equals_the_shorter(tmp_path):
    study = _study(tmp_path, tuning={"labels": 4, "learning_rate": [0.001, 0.004], "max_epochs": [2, 4]})
    grid = [(0.001, 2, 0.5), (0.004, 2, 0.7), (0.001, 4, 0.7), (0.004, 4, 0.6)]
    runs = [_tuned("ours", *point) for point in grid] + [_tuned("scratch", *point) for point in grid[:3]]
    assert chosen_settings(runs, study) == {"ours": {"learning_rate": 0.004, "max_epochs": 2}}, "scratch: not complete"


def test_the_words_say_which_variation_an_interval_covers(tmp_path):
    words = " ".join(summarize(_ladder(), _study(tmp_path))["interval_covers"])
    assert "test cases and over seeds" in words and "fine-tuning seed s starts from number s % 2" in words
    words = " ".join(summarize(_ladder(), _study(tmp_path, pretraining={"p": {}}))["interval_covers"])
    assert "how pre-trainings vary is not in its intervals" in words


def test_ours_is_compared_with_every_other_arm_up_to_16_labels(tmp_path):
    rows = summarize(_ladder(), _study(tmp_path, ours="ours"))["ours_against_others"]
    assert [(row["against"], row["labels"]) for row in rows] == [("scratch", 4), ("scratch", 8), ("scratch", 16)]


def test_the_first_table_is_the_spread_over_seeds_and_missing_cells_are_dashes(tmp_path):
    summary = summarize(_ladder(), _study(tmp_path))
    text = tables.markdown(tables.main_tables(summary), ["What the intervals cover."])
    assert text.startswith("**Standard deviation of Dice over seeds.**")
    assert "| arm | 4 labels | 8 labels | 16 labels | all 120 labels |" in text
    assert "| ours | 0.600 (0.600 to 0.600) | 0.500 (0.500 to 0.500) | 0.950 (0.950 to 0.950) | – |" in text
    assert text.endswith("- What the intervals cover.\n")
    details = tables.markdown(tables.detail_tables(summary), [])
    assert "| ours | back | 0.600 (0.600 to 0.600) |" in details and "**HD95 (mm) by class.**" in details


def test_costs_are_core_hours_by_kind_of_run(tmp_path):
    [row] = summarize(_ladder(), _study(tmp_path))["costs"]
    assert row["runs"] == 14 and row["core_hours"] == pytest.approx(14 * 90 / 3600)


# frozen encoders, volume by volume and stage by stage


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


def figures_of(trained, difference):
    interval = [difference - 0.01, difference + 0.01]
    return {"trained": trained, "untrained": trained - difference, "difference": difference, "interval_95": interval}


def probed():
    stages = {"stage_2": figures_of(0.5, 0.2), "stage_1": figures_of(0.3, 0.1)}
    probe = {"pretraining": "ours", "seed": 1, "scores": {"dense_dice": stages}, "covers": "volumes."}
    row = {"pretraining": "ours", "against": "deep", "stage": "stage_1", "difference": 2.04, "seeds": [2, 1]}
    return {"probes": [probe], "probe_differences": [row | {"interval_95": [1.0, 3.0]}]}


def test_an_encoder_stands_under_the_untrained_with_what_it_gained_at_each_stage():
    table = tables.probe_tables(probed())[1]
    assert table.head == ["encoder", "seed", "stage 1", "stage 2"]
    assert table.rows[0] == ["untrained", "", "0.200", "0.300"]
    assert table.rows[1] == ["ours", "1", "0.300 (+0.100: +0.090 to +0.110)", "0.500 (+0.200: +0.190 to +0.210)"]


def test_two_pre_trainings_are_compared_in_one_row():
    table = tables.probe_tables(probed())[0]
    assert table.rows == [["ours − deep", "2 and 1", "+2.0 (+1.0 to +3.0)"]]


def test_a_stage_that_was_not_probed_is_a_dash_and_no_probe_no_table():
    found = probed()
    found["probes"].append({**found["probes"][0], "scores": {"dense_dice": {"stage_3": figures_of(0.4, 0.1)}}})
    assert tables.probe_tables(found)[1].rows[2] == ["ours", "1", "–", "–", "0.400 (+0.100: +0.090 to +0.110)"]
    assert tables.probe_tables({"probes": [], "probe_differences": []}) == []
