"""Frozen encoders compared with each other, stage by stage: the method's claim is about the shallow ones.

Where from: the same dense probe judged the same volumes for every encoder, so differences are paired by volume; the
interval is a percentile bootstrap over volumes and, where there are several, over pre-training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .bootstrap import Bootstrap

SCORE = "dense_dice"


def volume_scores(records: Iterable[Mapping[str, Any]], pretraining: str) -> dict[str, np.ndarray]:
    """Stage -> the dense Dice of every volume, (pre-training seeds, volumes); NaN where a volume has none."""
    probes = [r for r in records if r["kind"] == "probe" and r["pretraining"] == pretraining]
    probes.sort(key=lambda record: record["pretraining_seed"])
    stages: dict[str, list[list[float]]] = {}
    for probe in probes:
        for stage, figures in probe["metrics"].get(SCORE, {}).items():
            values = [math.nan if value is None else value for value in figures["per_volume"]]
            stages.setdefault(stage, []).append(values)
    return {stage: np.array(values) for stage, values in stages.items()}


def probe_differences(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], draws: Bootstrap
) -> list[dict[str, Any]]:
    """Dense Dice of one pre-training minus another's, in percentage points, for every pair and stage.

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
            gains = draws.means(a, labels=0) - draws.means(b, labels=1 if len(b) > 1 else 0)
            rows.append(
                {
                    "pretraining": first,
                    "against": second,
                    "stage": stage,
                    "difference": float(np.nanmean(a) - np.nanmean(b)),
                    "interval_95": [float(end) for end in np.nanpercentile(gains, (2.5, 97.5))],
                    "seeds": [len(a), len(b)],
                    "volumes": a.shape[1],
                }
            )
    return rows
