"""Scores of arms compared case by case: the same unseen scans, segmented by two networks.

Where from: the paired bootstrap over cases; see `desd_components.base.statistics`.
Says nothing about the spread over training seeds, which for few labels is often larger: whoever quotes it must say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..base.errors import UserError
from ..base.statistics import Bootstrap

Case = TypeVar("Case")
SMALLEST_GAIN = 0.005  # Dice; less is no news, however sure


@dataclass
class Comparison:
    """Mean difference of case-wise Dice (first arm minus second) with its 95 % interval over cases."""

    difference: float
    low: float
    high: float
    cases: int


def class_names(metrics: Mapping[str, Any]) -> list[str]:
    """The classes that were scored, in the order of the file; the background never is."""
    scored = {name for case in metrics["cases"] for name in case["dice"]}
    return [name for name in metrics["classes"] if name in scored]


def case_scores(metrics: Mapping[str, Any], measure: str = "dice") -> dict[str, float]:
    """Mean over classes for each case; a class that is null (absent in truth) is left out of its case's mean."""
    scores = {}
    for case in metrics["cases"]:
        values = [value for value in case[measure].values() if value is not None]
        if values:
            scores[str(case["image"])] = float(np.mean(values))
    return scores


def class_scores(metrics: Mapping[str, Any], name: str) -> list[float]:
    """The Dice of one class, a value for each case that has one."""
    return [float(case["dice"][name]) for case in metrics["cases"] if case["dice"].get(name) is not None]


def compare(first: Mapping[str, Any], second: Mapping[str, Any], resamples: int = 10_000) -> Comparison:
    """Pair the cases of two metrics.json by image name and resample the cases, not the voxels.

    Raises:
        UserError: when the two were not scored on the same images.
    """
    a, b = case_scores(first), case_scores(second)
    if set(a) != set(b) or not a:
        odd = sorted(set(a) ^ set(b))
        raise UserError(
            f"metrics.json: {len(odd)} images were scored in one arm only (first: {odd[0] if odd else 'none scored'}). "
            "Evaluate both arms on the same images."
        )
    gain = np.array([a[image] - b[image] for image in sorted(a)])
    low, high = Bootstrap(resamples).interval(gain[None])
    return Comparison(float(gain.mean()), low, high, len(gain))


def verdict(result: Comparison, first: str, second: str) -> str:
    """One honest sentence about a comparison."""
    bounds = f"{result.low:+.3f} to {result.high:+.3f}"
    interval = f"{result.difference:+.3f} Dice (95 % interval over {result.cases} cases: {bounds})"
    if result.low > 0 and result.difference >= SMALLEST_GAIN:
        return f"“{first}” is ahead of “{second}” by {interval}."
    if result.high < 0 and result.difference <= -SMALLEST_GAIN:
        return f"“{first}” is behind “{second}”: {interval}."
    return f"“{first}” and “{second}” cannot be told apart on these scans: {interval}."


def best_median_worst(ranked: Sequence[Case]) -> dict[str, Case]:
    """ "best", "median" and "worst" of cases, of which the best come first; fewer where there are fewer."""
    words = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # of one place the last word
    return {words[place]: ranked[place] for place in sorted(words) if ranked}
