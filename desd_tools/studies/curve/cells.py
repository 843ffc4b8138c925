"""The runs of a label curve as arrays: for each arm, label count and length, the scores by seed and case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from desd_components.base.statistics import mean_without_nan
from desd_components.pages.compare import class_names

MEASURES = ("dice", "hd95")
PROBE_SCORE = "dense_dice"


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


def volume_scores(records: Iterable[Mapping[str, Any]], pretraining: str) -> dict[str, np.ndarray]:
    """Stage -> the dense Dice of every volume, (pre-training seeds, volumes); NaN where a volume has none."""
    probes = [r for r in records if r["kind"] == "probe" and r["pretraining"] == pretraining]
    probes.sort(key=lambda record: record["pretraining_seed"])
    stages: dict[str, list[list[float]]] = {}
    for probe in probes:
        for stage, figures in probe["metrics"].get(PROBE_SCORE, {}).items():
            values = [math.nan if value is None else value for value in figures["per_volume"]]
            stages.setdefault(stage, []).append(values)
    return {stage: np.array(values) for stage, values in stages.items()}
