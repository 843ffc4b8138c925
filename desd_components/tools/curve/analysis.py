"""What the runs of a label curve say: means, intervals, paired differences, and how many labels or steps they save.

Where from: intervals are percentile bootstraps over cases and seeds, each drawn anew with replacement, crossed, since
every seed is judged on the same cases (Owen, "The pigeonhole bootstrap", 2007). Pure functions on the runs' JSONs.
Limits: with few seeds the bootstrap over seeds is somewhat too narrow, and draws of two or three seeds say little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from desd_components.pages.compare import class_names

REPLICATES = 2000
FEW = 16  # labels; up to here `ours` is compared with every other arm
MEASURES = ("dice", "hd95")


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one label count (or length): S seeds, C cases.

    Attributes:
        values: (measure, class or "mean") -> (S, C); NaN where a case has no score; "mean" is over a case's classes.
        steps: optimiser steps of a run.
    """

    arm: str
    labels: int
    all_labels: bool
    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    values: Mapping[tuple[str, str], np.ndarray]
    steps: int = 0
    epochs: int = 0

    @property
    def dice(self) -> np.ndarray:
        """(S, C), mean over classes."""
        return self.values["dice", "mean"]


def cells(records: Iterable[Mapping[str, Any]], kind: str = "final") -> list[Cell]:
    """The cells of all records of a kind, by arm and then label count, and length; seeds sorted."""
    groups: dict[tuple[str, int, bool, int], list[Mapping[str, Any]]] = {}
    for record in records:
        if record["kind"] == kind:
            length = int(record["epochs"] or 0) if kind == "speed" else 0
            place = (record["arm"], record["labels"], record["all_labels"], length)
            groups.setdefault(place, []).append(record)
    return [_cell(group) for _, group in sorted(groups.items())]


def _cell(group: Sequence[Mapping[str, Any]]) -> Cell:
    runs = sorted(group, key=lambda record: record["seed"])
    scored = [{str(case["image"]): case for case in run["metrics"]["cases"]} for run in runs]
    cases = tuple(sorted(set.intersection(*(set(scores) for scores in scored))))
    values: dict[tuple[str, str], np.ndarray] = {}
    for measure in MEASURES:
        names = class_names(runs[0]["metrics"])
        table = np.array([[[_number(s[c][measure].get(n)) for n in names] for c in cases] for s in scored])
        values |= {(measure, name): table[..., place] for place, name in enumerate(names)}
        values[measure, "mean"] = mean_without_nan(table)
    first = runs[0]
    place = (first["arm"], first["labels"], first["all_labels"])
    seeds = tuple(run["seed"] for run in runs)
    return Cell(*place, seeds, cases, values, int(first["steps"] or 0), int(first["epochs"] or 0))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


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

    def label_saving(self, arm: str) -> list[dict[str, Any]]:
        """How many times the labels the reference needs for the arm's Dice, at each label count of the arm."""
        curve = self.of(self.reference)
        if not curve:
            return []
        places = [cell.labels for cell in curve]
        drawn = np.stack([self.draws.means(cell.dice, cell.labels) for cell in curve], axis=1)
        rows = []
        for cell in self.of(arm):
            needed, bound = reach(places, [float(np.nanmean(c.dice)) for c in curve], float(np.nanmean(cell.dice)))
            targets = self.draws.means(cell.dice, cell.labels)
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
            ends = [float(np.nanmean(c.dice)) for c in (cell, start, full)]
            mine, low, high = (self.draws.means(c.dice, c.labels) for c in (cell, start, full))
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
        if own:
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
