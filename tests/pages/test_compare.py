"""Arms compared case by case, with the interval and the sentence that the figures deserve."""

import pytest

from desd_components.base.errors import UserError
from desd_components.pages import compare as c
from desd_components.pages.figures import dice_bars


def _metrics(**dice: float | None) -> dict:
    cases = [{"image": name, "dice": {"a": value, "b": None}} for name, value in dice.items()]
    return {"classes": ["background", "a", "b"], "cases": cases}


def test_a_constant_gain_is_known_exactly():
    result = c.compare(_metrics(p=0.5, q=0.7), _metrics(q=0.6, p=0.4))
    assert (result.difference, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1))
    assert result.cases == 2


def test_the_interval_is_that_of_resampled_cases():
    """Of two cases with gains 0 and 0.4, resampling gives 0, 0.2, 0.2 or 0.4 alike: the middle 95 % is 0 to 0.4."""
    result = c.compare(_metrics(p=0.5, q=0.9), _metrics(p=0.5, q=0.5))
    assert (result.low, result.difference, result.high) == pytest.approx((0.0, 0.2, 0.4))


VERDICTS = {
    (0.1, 0.2): "is ahead of",
    (-0.1, -0.2): "is behind",
    (-0.1, 0.2): "cannot be told apart",
    (0.001, 0.002): "cannot be told apart",
}


@pytest.mark.parametrize(("gains", "words"), VERDICTS.items())
def test_the_verdict_follows_the_interval(gains, words):
    first = _metrics(p=0.5 + gains[0], q=0.5 + gains[1])
    assert words in c.verdict(c.compare(first, _metrics(p=0.5, q=0.5)), "ours", "scratch")


def test_a_class_without_a_score_is_left_out_of_the_means():
    metrics = _metrics(p=0.25)
    metrics["cases"].append({"image": "q", "dice": {"a": 0.5, "b": 1.0}})
    metrics["cases"].append({"image": "r", "dice": {"a": None, "b": None}})
    assert c.case_scores(metrics) == {"p": 0.25, "q": 0.75}
    assert c.class_scores(metrics, "b") == [1.0]
    assert c.class_names(metrics) == ["a", "b"]


def test_arms_scored_on_different_scans_are_refused():
    with pytest.raises(UserError, match=r"first: q\).*same images"):
        c.compare(_metrics(p=0.5, q=0.5), _metrics(p=0.5))


@pytest.mark.parametrize(
    ("ranked", "shown"),
    [
        ("", {}),
        ("a", {"best": "a"}),
        ("ab", {"best": "a", "worst": "b"}),
        ("abcd", {"best": "a", "median": "c", "worst": "d"}),
    ],
)
def test_of_few_cases_none_is_shown_twice(ranked, shown):
    assert c.best_median_worst(list(ranked)) == shown


def test_bars_of_more_arms_than_colours_are_drawn():
    assert "run 9" in dice_bars({f"run {number}": {"mean": [0.5]} for number in range(1, 10)})
