"""All figures of a label curve in one dictionary, ``summary.json``, and what their intervals cover, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from desd_components.base.statistics import REPLICATES, Bootstrap

from . import analysis
from .cells import cells
from .study import Study

Record = Mapping[str, Any]


def chosen_settings(records: Iterable[Record], study: Study) -> dict[str, dict[str, Any]]:
    """Arm -> the learning rate and epochs with the best mean Dice on `validation`.

    Among equals the shorter run wins, then the lower rate. An arm whose grid is not complete is left out.
    """
    if study.tuning is None:
        return {}
    size, chosen = len(study.tuning.learning_rate) * len(study.tuning.max_epochs), {}
    for arm in study.arms:
        runs = [record for record in records if record["kind"] == "tuning" and record["arm"] == arm]
        if len(runs) == size:
            best = max(runs, key=lambda run: (mean_dice(run), -tuned(run)[1], -tuned(run)[0]))
            rate, epochs = tuned(best)
            chosen[arm] = {"learning_rate": rate, "max_epochs": epochs}
    return chosen


def tuned(run: Record) -> tuple[float, int]:
    """The learning rate and epochs that a run was asked for."""
    asked = run["settings"]["finetuning"]
    return float(asked["learning_rate"]), int(asked["max_epochs"])


def mean_dice(run: Record) -> float:
    """Mean over classes of the mean over cases; 0 where no class has a score."""
    return run["metrics"]["mean"]["dice"]["mean"] or 0.0


def summarize(records: Sequence[Record], study: Study, draws: Bootstrap | None = None) -> dict[str, Any]:
    """Everything that table, plot and page show.

    Args:
        records: the JSONs of all runs.
        study: what was compared.
        draws: of the bootstrap.
    """
    found = cells(records)
    curves = analysis.Curves(found, study.reference, draws or Bootstrap())
    others = [arm for arm in curves.arms if arm != study.reference]
    summary: dict[str, Any] = {
        "reference": study.reference,
        "ours": study.ours,
        "arms": curves.arms,
        "cases": max((len(cell.cases) for cell in found), default=0),
        "scores": curves.scores(),
        "against_reference": [row for arm in others for row in curves.against(arm, study.reference)],
        "label_saving": [row for arm in others for row in curves.label_saving(arm)],
        "gap_closed": [row for arm in others for row in curves.gap_closed(arm)],
        "ours_against_others": _ours(curves, study.ours),
        "speed": [],
        "speed_gains": [],
        "probes": [_probe(record) for record in records if record["kind"] == "probe"],
        "probe_differences": analysis.probe_differences(records, study.probes, curves.draws),
        "tuning": _tuning(records, study),
        "costs": costs(records),
        "interval_covers": coverage(records, study),
    }
    if study.speed is not None:
        shorter = cells(records, "speed")
        summary["speed"] = analysis.speed(curves, shorter, study.speed.labels)
        summary["speed_gains"] = analysis.gains_when_stopped_early(curves, shorter)
    return summary


def _ours(curves: analysis.Curves, ours: str | None) -> list[dict[str, Any]]:
    if ours is None:
        return []
    return [row for arm in curves.arms if arm != ours for row in curves.against(ours, arm, analysis.FEW)]


def _probe(record: Record) -> dict[str, Any]:
    scores = {
        name: record["metrics"][name] for name in ("retrieval", "rank", "dense_dice") if name in record["metrics"]
    }
    return {
        "pretraining": record["pretraining"],
        "seed": record["pretraining_seed"],
        "scores": scores,
        "covers": record["metrics"].get("interval_covers", ""),
    }


def _tuning(records: Sequence[Record], study: Study) -> list[dict[str, Any]]:
    chosen = chosen_settings(records, study)
    rows = []
    for run in (record for record in records if record["kind"] == "tuning"):
        rate, epochs = tuned(run)
        picked = chosen.get(run["arm"]) == {"learning_rate": rate, "max_epochs": epochs}
        rows.append(
            {"arm": run["arm"], "learning_rate": rate, "epochs": epochs, "steps": run["steps"]}
            | {"dice": mean_dice(run), "chosen": picked}
        )
    return sorted(rows, key=lambda row: (row["arm"], row["learning_rate"], row["epochs"]))


def costs(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Core-hours by kind of run."""
    rows = []
    for kind in ("pretraining", "probe", "tuning", "final", "speed"):
        seconds = [sum(record["cpu_seconds"].values()) for record in records if record["kind"] == kind]
        if seconds:
            hours = sum(seconds) / 3600
            rows.append({"kind": kind, "runs": len(seconds), "core_hours": hours, "seconds": float(np.mean(seconds))})
    return rows


def coverage(records: Sequence[Record], study: Study) -> list[str]:
    """What the intervals contain and what they do not, one sentence each."""
    finals = [record for record in records if record["kind"] == "final"]
    most = max((record["seed"] for record in finals), default=-1) + 1
    words = [
        f"Intervals: 95 %, percentile bootstrap with {REPLICATES} draws over test cases and over seeds of the "
        f"fine-tuning (up to {most}). A seed chooses the labelled scans, the initialisation and the order of training, "
        "and is the same for every arm. With so few seeds the intervals are somewhat too narrow.",
        "Differences are paired: same seed, hence same labels, and same test cases. They do not cover the choice of "
        "learning rate and length, the split of the cases, or other data.",
    ]
    for arm in study.arms.values():
        if arm.pretraining is not None:
            words.append(_pretraining_words(arm.name, study.pretraining[arm.pretraining].seeds))
        elif arm.encoder is not None:
            words.append(
                f"{arm.name}: one given encoder; how it varies from pre-training to pre-training is not known."
            )
    return words


def _pretraining_words(arm: str, seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"{arm}: one pre-training (seed {seeds[0]}); how pre-trainings vary is not in its intervals."
    return (
        f"{arm}: {len(seeds)} pre-trainings (seeds {', '.join(map(str, seeds))}); fine-tuning seed s starts from "
        f"number s % {len(seeds)}, so that drawing seeds draws pre-trainings along, though {len(seeds)} show little of "
        "their spread."
    )
