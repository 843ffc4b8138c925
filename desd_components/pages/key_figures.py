"""The few figures of a run that a visitor asks for first: on top of its page, and in its row of the gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .runs import Run


def key_figures(run: Run) -> dict[str, str]:
    """Words -> figure, as far as the run has them; the first is the one that it is judged by."""
    return {**_evaluation(run.metrics), **_probes(run.metrics), **_scans(run.scans), **_training(run)}


def _evaluation(metrics: Mapping[str, Any]) -> dict[str, str]:
    if not metrics.get("cases"):
        return {}
    dice, hd95 = (metrics["mean"][measure].get("mean") for measure in ("dice", "hd95"))
    found = {"Dice, mean of classes": _shown(dice, 3), "HD95 (mm)": _shown(hd95, 1)}
    return {**found, "scans scored": str(len(metrics["cases"]))}


def _probes(metrics: Mapping[str, Any]) -> dict[str, str]:
    names = {"dense_dice": ("dense Dice", 3), "retrieval": ("retrieval", 3), "rank": ("feature rank", 1)}
    found = {}
    for key, (words, digits) in names.items():
        stages = metrics.get(key) or {}
        if stages:
            stage, scores = list(stages.items())[-1]
            found[f"{words}, {stage.replace('_', ' ')}"] = _shown(scores["trained"], digits)
            found[f"{words}, more than untrained"] = f"{scores['difference']:+.{digits}f}"
    return found


def _scans(scans: Mapping[str, Any]) -> dict[str, str]:
    if not scans:
        return {}
    done = scans.get("scans", [])
    found = {"scans done": str(len(scans.get("segmented", []))), "scans failed": str(len(scans.get("failed", [])))}
    if done:
        found["seconds a scan"] = f"{sum(scan['seconds'] for scan in done) / len(done):.1f}"
    return found


def _training(run: Run) -> dict[str, str]:
    found = {}
    if run.pretraining:
        found = {
            "label-free retrieval, stage 4": _shown(last(run.history, "val_retrieval_4"), 3),
            "feature rank, stage 4": _shown(last(run.history, "feature_rank_4"), 1),
        }
    elif run.history:
        found = {"best validation Dice": _shown(best(run.history, "val_mean_dice"), 3)}
    found |= {"loss at the end": _shown(last(run.history, "loss"), 3)} if run.history else {}
    found |= {"optimiser steps": _shown(last(run.history, "step"), 0), "time": _time(run)} if run.history else {}
    return {words: figure for words, figure in found.items() if figure != "–"}


def last(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The last value of a figure; None where it was never recorded."""
    return next((row[key] for row in reversed(history) if row.get(key) is not None), None)


def best(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The largest value of a figure; None where it was never recorded."""
    return max((row[key] for row in history if row.get(key) is not None), default=None)


def _time(run: Run) -> str:
    seconds = last(run.history, "seconds")
    if seconds is None:
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
