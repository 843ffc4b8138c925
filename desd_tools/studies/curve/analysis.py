"""What the runs of a label curve say: means, intervals, paired differences, and how many labels or steps they save.

On the bootstrap of `desd_components.base.statistics`; pure functions on the runs' JSONs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from desd_components.base.statistics import Bootstrap, mean_without_nan, percentiles, seed_sd

from .cells import Cell, volume_scores

FEW = 16  # labels; up to here `ours` is compared with every other arm


def common(first: Cell, second: Cell) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Dice of both on the seeds and cases that both have, (S, C) each, and these seeds."""
    seeds = tuple(seed for seed in first.seeds if seed in second.seeds)
    cases = tuple(case for case in first.cases if case in second.cases)
    parts = [
        cell.dice[np.ix_([cell.seeds.index(s) for s in seeds], [cell.cases.index(c) for c in cases])]
        for cell in (first, second)
    ]
    return parts[0], parts[1], seeds


def paired(first: Cell, second: Cell, draws: Bootstrap) -> dict[str, Any] | None:
    """First minus second, in percentage points of Dice; None where they share no seed or case."""
    a, b, seeds = common(first, second)
    if not a.size:
        return None
    gain = 100 * (a - b)
    of_seeds = [float(value) for value in mean_without_nan(gain)]
    low, high = draws.interval(gain, first.labels)
    larger = 100 * max(seed_sd(a), seed_sd(b))  # NaN for one seed
    difference = float(np.nanmean(gain))
    return {
        "arm": first.arm,
        "against": second.arm,
        "labels": first.labels,
        "all_labels": first.all_labels,
        "difference": difference,
        "interval_95": [low, high],
        "seeds": list(seeds),
        "of_seeds": of_seeds,
        "cases": a.shape[1],
        "seed_sd": larger,
        "verdict": verdict(difference, low, high, larger, len(seeds)),
    }


def verdict(difference: float, low: float, high: float, sd: float, seeds: int) -> str:
    """In words: a gain counts if its interval leaves zero out and it is no smaller than the seeds' spread."""
    if seeds < 2:
        return "one seed: no verdict"
    if low <= 0 <= high:
        return "not told apart"
    if abs(difference) < sd:
        return "below the seeds' spread: no gain" if difference > 0 else "below the seeds' spread: no loss"
    return "ahead" if difference > 0 else "behind"


def reach(places: Sequence[float], heights: Sequence[float], target: float) -> tuple[float, str]:
    """Where a curve, linear in the log2 of its places, first reaches `target`; "at most", "at least" off its ends."""
    if target <= heights[0]:
        return float(places[0]), "at most" if target < heights[0] else ""
    for number in range(1, len(places)):
        if heights[number] >= target:
            low, high = heights[number - 1], heights[number]
            share = (target - low) / (high - low)
            return float(places[number - 1] * (places[number] / places[number - 1]) ** share), ""
    return float(places[-1]), "at least"


@dataclass
class Curves:
    """All cells of the final runs, with the draws they share."""

    cells: Sequence[Cell]
    reference: str
    draws: Bootstrap = field(default_factory=Bootstrap)

    def of(self, arm: str) -> list[Cell]:
        """An arm's cells by label count."""
        return sorted((cell for cell in self.cells if cell.arm == arm), key=lambda cell: cell.labels)

    def at(self, arm: str, labels: int) -> Cell | None:
        """One cell."""
        return next((cell for cell in self.of(arm) if cell.labels == labels), None)

    @property
    def arms(self) -> list[str]:
        """The arms, the reference first."""
        names = list(dict.fromkeys(cell.arm for cell in self.cells))
        return sorted(names, key=lambda name: name != self.reference)

    def scores(self) -> list[dict[str, Any]]:
        """Mean, interval and seed standard deviation of every arm, label count, measure and class."""
        rows = []
        for cell in (cell for arm in self.arms for cell in self.of(arm)):
            for (measure, name), values in cell.values.items():
                rows.append(
                    {
                        "arm": cell.arm,
                        "labels": cell.labels,
                        "all_labels": cell.all_labels,
                        "measure": measure,
                        "class": name,
                        "mean": float(np.nanmean(values)) if not np.isnan(values).all() else math.nan,
                        "interval_95": self.draws.interval(values, cell.labels),
                        "seed_sd": seed_sd(values),
                        "seeds": list(cell.seeds),
                        "cases": len(cell.cases),
                        "without_score": int(np.isnan(values).sum()),
                    }
                )
        return rows

    def against(self, first: str, second: str, up_to: float = math.inf) -> list[dict[str, Any]]:
        """Paired differences of two arms at every label count that both have."""
        pairs = [(cell, self.at(second, cell.labels)) for cell in self.of(first) if cell.labels <= up_to]
        found = [paired(cell, other, self.draws) for cell, other in pairs if other is not None]
        return [row for row in found if row is not None]

    def level(self, cell: Cell) -> tuple[float, np.ndarray]:
        """A cell's mean Dice and its draws, as if it had all seeds of the reference: that one's, and the paired gain.

        An arm that ran fewer seeds saw other labelled scans on the mean, and its plain mean would count them as merit.
        """
        start = self.at(self.reference, cell.labels)
        mine, theirs, seeds = common(cell, start) if start is not None else (cell.dice, cell.dice, ())
        if start is None or not seeds:
            return float(np.nanmean(cell.dice)), self.draws.means(cell.dice, cell.labels)
        gain = mine - theirs
        drawn = self.draws.means(start.dice, cell.labels) + self.draws.means(gain, cell.labels)
        return float(np.nanmean(start.dice) + np.nanmean(gain)), drawn

    def label_saving(self, arm: str) -> list[dict[str, Any]]:
        """How many times the labels the reference needs for the arm's Dice, at each label count of the arm."""
        curve = self.of(self.reference)
        if not curve:
            return []
        places = [cell.labels for cell in curve]
        drawn = np.stack([self.draws.means(cell.dice, cell.labels) for cell in curve], axis=1)
        rows = []
        for cell in self.of(arm):
            target, targets = self.level(cell)
            needed, bound = reach(places, [float(np.nanmean(c.dice)) for c in curve], target)
            spread = np.array([reach(places, h, t)[0] for h, t in zip(drawn.tolist(), targets.tolist(), strict=True)])
            rows.append(
                {
                    "arm": arm,
                    "labels": cell.labels,
                    "needed": needed,
                    "factor": needed / cell.labels,
                    "bound": bound,
                    "interval_95": percentiles(spread / cell.labels),
                }
            )
        return rows

    def gap_closed(self, arm: str) -> list[dict[str, Any]]:
        """Share of the reference's way from n labels to all labels that the arm goes with n."""
        full = next((cell for cell in self.of(self.reference) if cell.all_labels), None)
        rows = []
        for cell in self.of(arm):
            start = self.at(self.reference, cell.labels)
            if full is None or start is None or cell.all_labels:
                continue
            mean, mine = self.level(cell)
            ends = [mean, *(float(np.nanmean(c.dice)) for c in (start, full))]
            low, high = (self.draws.means(c.dice, c.labels) for c in (start, full))
            gap = np.where(high > low, high - low, math.nan)
            share = (ends[0] - ends[1]) / (ends[2] - ends[1]) if ends[2] > ends[1] else math.nan
            interval = percentiles((mine - low) / gap)
            rows.append({"arm": arm, "labels": cell.labels, "share": share, "interval_95": interval})
        return rows


def speed(curves: Curves, shorter: Sequence[Cell], labels: int) -> list[dict[str, Any]]:
    """Steps in which each arm reaches the reference's final Dice, and how many times fewer than the reference's own."""
    goal = curves.at(curves.reference, labels)
    if goal is None:
        return []
    target, rows = float(np.nanmean(goal.dice)), []
    for arm in curves.arms:
        full = curves.at(arm, labels)
        own = {cell.steps: cell for cell in shorter if cell.arm == arm and cell.labels == labels}
        own |= {full.steps: full} if full is not None else {}
        if len(own) > 1:
            steps = sorted(own)
            heights = [float(np.nanmean(own[step].dice)) for step in steps]
            found, bound = reach(steps, heights, target)
            rows.append(
                {
                    "arm": arm,
                    "labels": labels,
                    "target": target,
                    "steps": found,
                    "factor": goal.steps / found,
                    "bound": {"at least": "at most", "at most": "at least"}.get(bound, ""),
                    "curve": [[step, height] for step, height in zip(steps, heights, strict=True)],
                }
            )
    return rows


def gains_when_stopped_early(curves: Curves, shorter: Sequence[Cell]) -> list[dict[str, Any]]:
    """Every arm minus the reference after fewer steps: rows as `paired` makes them, with the steps."""
    of_reference = {(cell.labels, cell.steps): cell for cell in shorter if cell.arm == curves.reference}
    rows = []
    for cell in (cell for cell in shorter if cell.arm != curves.reference):
        other = of_reference.get((cell.labels, cell.steps))
        row = None if other is None else paired(cell, other, curves.draws)
        rows += [] if row is None else [{**row, "steps": cell.steps}]
    return rows


def probe_differences(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], draws: Bootstrap
) -> list[dict[str, Any]]:
    """Frozen encoders: dense Dice of one pre-training minus another's, in percentage points, for every pair and stage.

    The same probe judged the same volumes for every encoder, so differences are paired by volume.

    Args:
        records: the JSONs of all runs.
        names: the pre-trainings, in order; each is compared with those after it.
        draws: of the bootstrap.
    """
    scores = {name: volume_scores(records, name) for name in names}
    rows = []
    for first, second in combinations(names, 2):
        for stage in sorted(set(scores[first]) & set(scores[second])):
            a, b = 100 * scores[first][stage], 100 * scores[second][stage]
            # streams of their own for the seeds: those of two pre-trainings are no pairs
            gains = draws.means(a, group=0) - draws.means(b, group=1 if len(b) > 1 else 0)
            rows.append(
                {
                    "pretraining": first,
                    "against": second,
                    "stage": stage,
                    "difference": float(np.nanmean(a) - np.nanmean(b)),
                    "interval_95": percentiles(gains),
                    "seeds": [len(a), len(b)],
                    "volumes": a.shape[1],
                }
            )
    return rows
