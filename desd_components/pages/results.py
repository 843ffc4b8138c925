"""What came out: the key figures, overlap with the truth, case by case and in pictures, and the probes of an encoder.

Where from: ours; every number stands in the run's metrics.json.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..runs.progress import spoken_time
from . import figures as draw
from .compare import case_scores, class_names, class_scores, compare, verdict
from .page import Section, html
from .runs import Run


def dice_section(runs: Sequence[Run], remarks: Sequence[str] = ()) -> Section:
    """Verdict, table and bars of every run that was evaluated; the first is compared with each of the others."""
    scored = [run for run in runs if run.metrics.get("cases")]
    if not scored:
        return Section("Result")
    groups, parts = class_names(scored[0].metrics), []
    for other in scored[1:]:
        result = compare(scored[0].metrics, other.metrics)
        parts.append(html.note(verdict(result, scored[0].name, other.name), warn=result.high < 0))
    parts += [html.paragraph(remark) for remark in remarks]
    groups += ["mean"] if len(groups) > 1 else []  # of a single class it is the same again
    rows = []
    for run in scored:
        dice, hd95 = (run.metrics["mean"][measure] for measure in ("dice", "hd95"))
        for group in groups:
            words = ("" if group != groups[0] else run.name, "mean of classes" if group == "mean" else group)
            rows.append([*words, _number(dice.get(group), 3), _number(hd95.get(group), 1)])
    parts.append(html.table(["", "class", "Dice", "HD95 (mm)"], rows, numbers_from=2))
    bars = draw.dice_bars({run.name: _per_group(run, groups) for run in scored})
    caption = f"Bars and figures on top: mean over {len(scored[0].metrics['cases'])} scans; points: single scans."
    caption += " “mean”: over a scan's classes." if len(groups) > 1 else ""
    parts.append(html.figure(bars, "Overlap with the truth, by class.", caption, narrow=True))
    return Section("Result", parts)


def _per_group(run: Run, groups: Sequence[str]) -> dict[str, Sequence[float]]:
    means = list(case_scores(run.metrics).values())
    return {group: means if group == "mean" else class_scores(run.metrics, group) for group in groups}


def cases_section(run: Run) -> Section:
    """Every scan that was scored, the worst first; a click on a heading sorts by it."""
    if not run.metrics.get("cases"):
        return Section("Case by case")
    names, dice = class_names(run.metrics), case_scores(run.metrics)
    names = names if len(names) > 1 else []  # a single class is the mean
    far = case_scores(run.metrics, "hd95")
    rows = [
        [image := str(case["image"]), dice.get(image), far.get(image), *(case["dice"].get(name) for name in names)]
        for case in run.metrics["cases"]
    ]
    rows.sort(key=lambda row: math.inf if row[1] is None else row[1])
    mean = "mean " if names else ""
    head = ["scan", f"{mean}Dice", f"{mean}HD95 (mm)", *(f"Dice, {name}" for name in names)]
    words = (
        "The worst stands first. A dash: the class is neither in the scan nor in the prediction, or HD95 needs both."
    )
    return Section("Case by case", [html.paragraph(words), html.sortable(head, rows, sorted_by=1)])


PROBES = {
    "retrieval": ("Retrieval", "How often one view finds the other view of its own scan among all."),
    "rank": ("Feature rank", "In how many directions pooled features differ."),
    "dense_dice": ("Dense Dice", "Of labels that each voxel takes over from its nearest neighbours in features."),
}


def probes_section(run: Run) -> Section:
    """Scores of a pre-trained encoder at each stage, beside untrained ones, with the interval of the difference."""
    parts = []
    for key, (title, words) in PROBES.items():
        stages = run.metrics.get(key)
        if isinstance(stages, Mapping):
            rows = _probe_rows(stages, digits=1 if key == "rank" else 3)
            parts += [html.heading(title), html.paragraph(words), html.table(PROBE_HEAD, rows, numbers_from=1)]
    if parts:
        parts.insert(0, html.paragraph(f"Over {run.metrics.get('volumes')} volumes. The interval covers "
                                       f"{run.metrics.get('interval_covers', 'what metrics.json says')}"))  # fmt: skip
    return Section("Probes of the encoder", parts)


PROBE_HEAD = ["", "trained", "untrained", "difference", "95 % interval of the difference"]


def _probe_rows(stages: Mapping[str, Any], digits: int) -> list[list[str]]:
    rows = []
    for stage, scores in stages.items():
        low, high = scores["interval_95"]
        own = [_number(scores[who], digits) for who in ("trained", "untrained")]
        gain, bounds = f"{scores['difference']:+.{digits}f}", f"{low:+.{digits}f} to {high:+.{digits}f}"
        rows.append([stage.replace("_", " "), *own, gain, bounds])
    return rows


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def key_figures(run: Run) -> dict[str, str]:
    """Words -> figure, as far as the run has them; the first is the one that it is judged by."""
    return {**_evaluation(run.metrics), **_probes(run.metrics), **_scans(run.scans), **_training(run)}


def _evaluation(metrics: Mapping[str, Any]) -> dict[str, str]:
    if not metrics.get("cases"):
        return {}
    dice, hd95 = (metrics["mean"][measure].get("mean") for measure in ("dice", "hd95"))
    words = "Dice, mean of classes" if len(class_names(metrics)) > 1 else "Dice"
    found = {words: _number(dice, 3), "HD95 (mm)": _number(hd95, 1)}
    return {**found, "scans scored": str(len(metrics["cases"]))}


def _probes(metrics: Mapping[str, Any]) -> dict[str, str]:
    names = {"dense_dice": ("dense Dice", 3), "retrieval": ("retrieval", 3), "rank": ("feature rank", 1)}
    found = {}
    for key, (words, digits) in names.items():
        stages = metrics.get(key) or {}
        if stages:
            stage, scores = list(stages.items())[-1]
            found[f"{words}, {stage.replace('_', ' ')}"] = _number(scores["trained"], digits)
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
    last = {key: values[-1] for key, (_, values) in run.figures.items()}
    if run.pretraining:
        deepest = max((key[-1] for key in last if re.fullmatch(r"feature_rank_\d", key)), default="4")
        found = {f"label-free retrieval, stage {deepest}": _number(last.get(f"val_retrieval_{deepest}"), 3)}
        found[f"feature rank, stage {deepest}"] = _number(last.get(f"feature_rank_{deepest}"), 1)
    else:
        _, scores = run.figures.get("val_mean_dice", ([], []))
        found = {"best validation Dice": _number(max(scores, default=None), 3)}
    found["loss at the end"] = _number(last.get("loss"), 3)
    found["optimiser steps"] = _number(last.get("step"), 0)
    found |= {"time": spoken_time(last["seconds"])} if "seconds" in last else {}
    return {words: figure for words, figure in found.items() if figure != "–"}
