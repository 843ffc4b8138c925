"""The bootstraps: what they draw is what the formula says, written out slowly, and intervals cover what they should."""

import math

import numpy as np
import pytest

from desd_components.base.statistics import Bootstrap, mean_without_nan, percentiles, resampled_differences, seed_sd


def test_a_replicate_is_the_plain_mean_over_the_seeds_and_cases_that_were_drawn():
    values = np.random.default_rng(0).normal(size=(3, 5))
    values[1, 2] = math.nan
    draws = Bootstrap(20, seed=4)
    seeds, cases = draws.weights(3, stream=1 + 7), draws.weights(5, stream=0)
    for replicate, mean in enumerate(draws.means(values, group=7)):
        rows, columns = (np.repeat(range(len(w)), w.astype(int)) for w in (seeds[replicate], cases[replicate]))
        assert len(rows) == 3 and len(columns) == 5
        drawn = [values[row, column] for row in rows for column in columns if not math.isnan(values[row, column])]
        assert mean == pytest.approx(sum(drawn) / len(drawn))


def test_arms_share_cases_in_all_groups_and_seeds_within_one():
    draws = Bootstrap(50)
    one_seed, one_case = np.arange(6.0)[None], np.arange(4.0)[:, None]
    np.testing.assert_array_equal(draws.means(one_seed, 1), draws.means(one_seed, 2))
    np.testing.assert_array_equal(draws.means(one_case, 1), Bootstrap(50).means(one_case, 1))
    assert (draws.means(one_case, 1) != draws.means(one_case, 2)).any()


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = []
    for study in range(200):
        low, high = Bootstrap(300, seed=study).interval(rng.normal(0.3, 1.0, (1, 40)))
        hits.append(low < 0.3 < high)
    assert 0.90 <= np.mean(hits) <= 0.98


def test_differences_are_those_of_loops_over_the_same_draws():
    rng = np.random.default_rng(2)
    one, others = rng.normal(size=6), [rng.normal(size=6) for _ in range(3)]
    found = resampled_differences(one, others, lambda values, cases: float(np.median(values[cases])), 10, seed=5)
    again = np.random.default_rng(5)
    for difference in found:
        cases, drawn = again.integers(6, size=6), again.integers(3, size=3)
        medians = [np.median([others[which][case] for case in cases]) for which in drawn]
        assert difference == pytest.approx(np.median([one[case] for case in cases]) - sum(medians) / 3)


def test_what_is_missing_is_left_out_and_nothing_at_all_is_nan():
    table = np.array([[1.0, math.nan, 3.0], [math.nan] * 3])
    np.testing.assert_array_equal(mean_without_nan(table), [2.0, math.nan])
    assert percentiles(np.array([math.nan, 2.0])) == [2.0, 2.0]
    assert all(map(math.isnan, percentiles(np.array([math.nan]))))


def test_the_spread_over_seeds_is_the_standard_deviation_of_their_means():
    assert seed_sd(np.array([[0.4, 0.6], [0.6, 0.8]])) == pytest.approx(0.2 / math.sqrt(2))
    assert math.isnan(seed_sd(np.array([[0.4, 0.6]])))
