"""What came out: overlap with the truth, case by case and in pictures, and the probes of an encoder.

Where from: ours; every number stands in the run's metrics.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..scans.formats import without_suffix
from . import figures as draw
from . import page as html
from .compare import case_scores, class_names, class_scores, compare, verdict
from .runs import Case, Run, load_case
from .slices import case_slices, window_words


def dice_section(runs: Sequence[Run], remarks: Sequence[str] = ()) -> html.Section:
    """Verdict, table and bars of every run that was evaluated; the first is compared with each of the others."""
    scored = [run for run in runs if run.metrics.get("cases")]
    if not scored:
        return html.Section("Result", "")
    names = class_names(scored[0].metrics)
    parts = []
    for other in scored[1:]:
        result = compare(scored[0].metrics, other.metrics)
        parts.append(html.note(verdict(result, scored[0].name, other.name), warn=result.high < 0))
    parts += [html.paragraph(remark) for remark in remarks]
    rows = []
    for run in scored:
        dice, hd95 = (run.metrics["mean"][m] for m in ("dice", "hd95"))
        groups = [*names, "mean"]
        rows.append([run.name, "Dice", *(_number(dice.get(g), 3) for g in groups)])
        rows.append(["", "HD95 (mm)", *(_number(hd95.get(g), 1) for g in groups)])
    parts.append(html.table(["", "", *names, "mean of classes"], rows, numbers_from=2))
    count = len(scored[0].metrics["cases"])
    bars = draw.dice_bars({run.name: _per_group(run, names) for run in scored})
    caption = f"Bars and figures on top: mean over {count} scans; points: single scans. “mean”: over a scan's classes."
    parts.append(html.figure(bars, "Overlap with the truth, by class.", caption, narrow=True))
    return html.Section("Result", "\n".join(parts))


def _per_group(run: Run, names: Sequence[str]) -> dict[str, Sequence[float]]:
    scores: dict[str, Sequence[float]] = {name: class_scores(run.metrics, name) for name in names}
    return {**scores, "mean": list(case_scores(run.metrics).values())}


def cases_section(run: Run) -> html.Section:
    """Every scan that was scored, the worst first; a click on a heading sorts by it."""
    if not run.metrics.get("cases"):
        return html.Section("Case by case", "")
    names, dice = class_names(run.metrics), case_scores(run.metrics)
    far = case_scores(run.metrics, "hd95")
    rows = [
        [image := str(case["image"]), dice.get(image), far.get(image), *(case["dice"].get(name) for name in names)]
        for case in run.metrics["cases"]
    ]
    rows.sort(key=lambda row: math.inf if row[1] is None else row[1])
    head = ["scan", "mean Dice", "mean HD95 (mm)", *(f"Dice, {name}" for name in names)]
    words = (
        "The worst stands first. A dash: the class is neither in the scan nor in the prediction, or HD95 needs both."
    )
    return html.Section("Case by case", html.paragraph(words) + html.sortable(head, rows, sorted_by=1))


PROBES = {
    "retrieval": ("Retrieval", "share found", "How often one view finds the other view of its own scan among all."),
    "rank": ("Feature rank", "effective rank (directions)", "In how many directions pooled features differ."),
    "dense_dice": (
        "Dense Dice",
        "Dice",
        "Of labels that each voxel takes over from its nearest neighbours in features.",
    ),
}


def probes_section(run: Run) -> html.Section:
    """Scores of a pre-trained encoder at each stage, beside untrained ones, with the interval of the difference."""
    parts = []
    for key, (title, unit, words) in PROBES.items():
        stages = run.metrics.get(key)
        if not isinstance(stages, Mapping):
            continue
        digits = 1 if key == "rank" else 3
        parts.append(
            f"<h3>{html.text(title)}</h3>" + html.table(PROBE_HEAD, _probe_rows(stages, digits), numbers_from=1)
        )
        svg = draw.intervals(stages, unit, name=f"{run.folder}-{key}")
        parts.append(html.figure(svg, f"{title}, by stage.", f"{words} {PROBE_WORDS}", narrow=True))
    if parts:
        parts.insert(0, html.paragraph(f"Over {run.metrics.get('volumes')} volumes. The interval covers "
                                       f"{run.metrics.get('interval_covers', 'what metrics.json says')}"))  # fmt: skip
    return html.Section("Probes of the encoder", "\n".join(parts))


PROBE_HEAD = ["", "trained", "untrained", "difference", "95 % interval of the difference"]
PROBE_WORDS = "Filled: the trained encoder; hollow: each untrained one, with the same views and voxels."


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


def slices_section(cases: Sequence[Case], runs: Sequence[Run]) -> html.Section:
    """Best, median and worst of the cases that every arm has predicted, by Dice averaged over the arms."""
    chosen = pick_cases(cases, runs)
    parts = []
    for word, case in chosen.items():
        image, truth, predictions, spacing = load_case(case)
        scores = [f"{run.name}: Dice {score_of(run, case):.3f}" for run in runs if run.name in predictions]
        svg = case_slices(image, truth, predictions, spacing, name=f"{word}-{case.name}")
        caption = (
            f"{case.name}. {'; '.join(scores)}. White: truth; coloured: prediction. Each plane is the one that shows "
            f"most of the truth; voxels of {' x '.join(f'{s:.2f}' for s in spacing)} mm in their true proportion; "
            f"{window_words(image)}; letters: the patient's right, left, front (A), back (P), head, feet."
        )
        parts.append(html.figure(svg, f"{word.capitalize()} case.", caption))
    return html.Section("What it looks like", "\n".join(parts))


def pick_cases(cases: Sequence[Case], runs: Sequence[Run]) -> dict[str, Case]:
    """ "best", "median" and "worst" case by mean Dice over the runs; fewer where there are fewer cases."""
    ranked = sorted(cases, key=lambda case: -float(np.mean([score_of(run, case) for run in runs])))
    if not ranked:
        return {}
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    return {word: ranked[place] for word, place in places.items() if word == "best" or place > 0}


def score_of(run: Run, case: Case) -> float:
    """Mean Dice over classes of one case in one run; NaN where it was not scored."""
    return next((v for image, v in case_scores(run.metrics).items() if without_suffix(image) == case.name), math.nan)
