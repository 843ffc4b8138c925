"""Means that leave out what is missing, and intervals over cases and seeds.

Where from: intervals are percentile bootstraps over cases and seeds, each drawn anew with replacement, crossed, since
every seed is judged on the same cases (Owen, "The pigeonhole bootstrap", 2007).
Limits: with few seeds the bootstrap over seeds is somewhat too narrow, and draws of two or three seeds say little.
"""

from __future__ import annotations

import math

import numpy as np

REPLICATES = 2000


def mean_without_nan(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    return np.where(count > 0, np.where(there, values, 0).sum(-1) / np.maximum(count, 1), math.nan)


class Bootstrap:
    """Draws of cases and seeds that all statistics share, so that arms stay paired.

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

    def means(self, values: np.ndarray, labels: int) -> np.ndarray:
        """The mean of (S, C) in each replicate, (replicates,); seeds are drawn afresh for each label count."""
        there = (~np.isnan(values)).astype(float)
        seeds, cases = self.weights(values.shape[0], 1 + labels), self.weights(values.shape[1], 0)
        total = ((seeds @ np.nan_to_num(values)) * cases).sum(1)
        count = ((seeds @ there) * cases).sum(1)
        return np.divide(total, count, out=np.full(len(total), math.nan), where=count > 0)

    def interval(self, values: np.ndarray, labels: int) -> list[float]:
        """95 % of the means."""
        return percentiles(self.means(values, labels))


def percentiles(draws: np.ndarray) -> list[float]:
    """2.5 and 97.5 %; NaN where there is nothing."""
    finite = draws[~np.isnan(draws)]
    return [float(end) for end in np.percentile(finite, (2.5, 97.5))] if len(finite) else [math.nan, math.nan]


def seed_sd(values: np.ndarray) -> float:
    """Standard deviation over seeds of the mean over cases of (S, C); NaN for one seed."""
    return float(np.std(mean_without_nan(values), ddof=1)) if len(values) > 1 else math.nan
