"""Dice; means, their spread and their intervals: every bootstrap of this project.

Method: the paired percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993), with two
factors: cases and seeds (or random draws) are both drawn anew with replacement, crossed, since every seed is judged on
the same cases (Owen, "The pigeonhole bootstrap", 2007). With few seeds it is somewhat too narrow, and draws of two or
three seeds say little.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

REPLICATES = 2000
Statistic = Callable[[np.ndarray, np.ndarray], float]


def mean_without_nan(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    return np.where(count > 0, np.where(there, values, 0).sum(-1) / np.maximum(count, 1), math.nan)


def seed_sd(values: np.ndarray) -> float:
    """Standard deviation over seeds of the mean over cases of (S, C); NaN for one seed."""
    return float(np.std(mean_without_nan(values), ddof=1)) if len(values) > 1 else math.nan


def percentiles(draws: np.ndarray) -> list[float]:
    """2.5 and 97.5 %; NaN where there is nothing."""
    finite = draws[~np.isnan(draws)]
    return [float(end) for end in np.percentile(finite, (2.5, 97.5))] if len(finite) else [math.nan, math.nan]


def dice_score(prediction: torch.Tensor, reference: torch.Tensor) -> float:
    """Dice of two binary maps of one shape; NaN when both are empty."""
    total = int(prediction.sum()) + int(reference.sum())
    return 2.0 * int((prediction & reference).sum()) / total if total else math.nan


class Bootstrap:
    """Two-factor bootstrap of means, seeds x cases: draws that all statistics share, so that arms stay paired.

    Args:
        replicates: draws.
        seed: of the draws.
    """

    def __init__(self, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.replicates, self.seed = replicates, seed
        self._weights: dict[tuple[int, int], np.ndarray] = {}

    def weights(self, count: int, stream: int) -> np.ndarray:
        """(replicates, count): how often each of `count` was drawn; the same for the same stream."""
        if (count, stream) not in self._weights:
            rng = np.random.default_rng([self.seed, stream, count])
            self._weights[count, stream] = rng.multinomial(count, np.full(count, 1 / count), self.replicates) * 1.0
        return self._weights[count, stream]

    def means(self, values: np.ndarray, group: int = 0) -> np.ndarray:
        """The mean of (S, C) in each replicate, (replicates,), NaN left out.

        Args:
            values: S seeds by C cases.
            group: seeds are drawn afresh for each, such as each number of labels; cases are the same in all.
        """
        there = (~np.isnan(values)).astype(float)
        seeds, cases = self.weights(values.shape[0], 1 + group), self.weights(values.shape[1], 0)
        total = ((seeds @ np.nan_to_num(values)) * cases).sum(1)
        count = ((seeds @ there) * cases).sum(1)
        return np.divide(total, count, out=np.full(len(total), math.nan), where=count > 0)

    def interval(self, values: np.ndarray, group: int = 0) -> list[float]:
        """95 % of the means."""
        return percentiles(self.means(values, group))


def resampled_differences(
    one: np.ndarray, others: Sequence[np.ndarray], statistic: Statistic, replicates: int, seed: int
) -> np.ndarray:
    """Paired two-factor bootstrap, cases x others, of any statistic: that of `one` minus the mean of those of `others`.

    Args:
        one: per-case values, or the (C, C) Gram matrix; cases along the first axis.
        others: the same, on the same cases, of each of several random draws.
        statistic: values and the cases to use -> score; resampled cases repeat.
        replicates: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        (replicates,).
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(replicates):
        cases, drawn = rng.integers(len(one), size=len(one)), rng.integers(len(others), size=len(others))
        scores = {other: statistic(others[other], cases) for other in set(drawn.tolist())}
        found.append(statistic(one, cases) - float(np.mean([scores[other] for other in drawn.tolist()])))
    return np.array(found)
