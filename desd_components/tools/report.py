"""The page of a run, or of several: what was learnt, how healthily, with which settings, and where every file is.

Where from: ours. It only reads what runs leave in their folders (history.jsonl, metrics.json, config.yaml,
environment.json, train.log) and label volumes on the scans' own grids; every number on the page stands in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from desd_components.errors import UserError
from desd_components.searching import stem
from desd_components.tools import figures as draw
from desd_components.tools import page as html
from desd_components.tools.compare import case_scores, class_names, class_scores, compare, verdict
from desd_components.tools.runs import Case, Run, load_case, read_run

FILES = {
    "encoder.pt": "the pre-trained (teacher's) encoder",
    "encoder.json": "its manifest: architecture and preprocessing",
    "model.pt": "the best segmentation network",
    "model.json": "its manifest",
    "state.pt": "the whole state, to resume from",
    "history.jsonl": "every logged figure, one line each",
    "metrics.json": "Dice and HD95 of every case",
    "config.yaml": "all settings, resolved",
    "environment.json": "versions, command, hashes",
    "data.json": "the list of scans",
    "train.log": "the log",
}


RECORD_KEYS = ("started", "device", "processes", "threads", "config_hash", "data_hash")  # of environment.json


# sections


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


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def slices_section(cases: Sequence[Case], runs: Sequence[Run]) -> html.Section:
    """Best, median and worst of the cases that every arm has predicted, by Dice averaged over the arms."""
    chosen = pick_cases(cases, runs)
    parts = []
    for word, case in chosen.items():
        image, truth, predictions, spacing = load_case(case)
        scores = [f"{run.name}: Dice {score_of(run, case):.3f}" for run in runs if run.name in predictions]
        svg = draw.case_slices(image, truth, predictions, spacing, name=f"{word}-{case.name}")
        caption = (
            f"{case.name}. {'; '.join(scores)}. White: truth; coloured: prediction. Each plane is the one that shows "
            f"most of the truth; voxels of {' x '.join(f'{s:.2f}' for s in spacing)} mm in their true proportion; "
            f"{_window_words(image)}; letters: the patient's right, left, front (A), back (P), head, feet."
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
    return next((v for image, v in case_scores(run.metrics).items() if stem(image) == stem(case.image)), math.nan)


def _window_words(image: np.ndarray) -> str:
    low, high = draw.window_of(image)
    return f"grey from {low:.0f} to {high:.0f}" + (
        " HU" if (low, high) == draw.CT_WINDOW else " (percentiles 1 and 99.5)"
    )


@dataclass(frozen=True)
class Chart:
    """One figure of a history: its keys with their names, units and words; ``schedule``: exact, drawn small."""

    keys: Mapping[str, str]
    ylabel: str
    title: str
    caption: str
    ln_k: bool = False
    schedule: bool = False


def _stages(key: str) -> dict[str, str]:
    return {key.format(stage): f"stage {stage}" for stage in range(1, 5)}


PRETRAINING_CHARTS = (
    Chart(
        {"loss": "loss"},
        "loss (nats)",
        "Total loss.",
        "At ln K (K prototypes) the student knows nothing of the teacher; at 0 both say the same of every scan.",
        ln_k=True,
    ),
    Chart(
        _stages("stage_{}_loss"),
        "loss (nats)",
        "Loss of each stage.",
        "Every stage of the student is compared with the teacher's deepest one.",
        ln_k=True,
    ),
    Chart(
        {
            "teacher_entropy": "entropy of the teacher",
            "marginal_entropy": "entropy over the batch",
            "kl": "KL of student from teacher",
        },
        "nats",
        "Health of the teacher.",
        "Entropy and KL add up to the loss. ln K: “everything is alike”; 0 over the batch: “one prototype for all”.",
        ln_k=True,
    ),
    Chart(
        _stages("feature_rank_{}"),
        "effective rank (directions)",
        "Rank of the pooled features.",
        "In how many directions the features of different scans differ; 1 is collapse.",
    ),
    Chart(
        {"view_match": "share found"},
        "share found",
        "Match of views.",
        "How often the student's features of one view find the other view of the same scan in their batch.",
    ),
    Chart(
        {"teacher_distance": "distance"},
        "relative distance",
        "Distance of the teacher.",
        "From its student, as a share of the student's size; 0 means that they are the same.",
    ),
    Chart(
        _stages("head_gradient_norm_{}"),
        "gradient norm",
        "Gradient of each head.",
        "A head whose gradient is 0 learns nothing.",
    ),
    Chart(
        _stages("val_retrieval_{}"),
        "share found",
        "Label-free score.",
        "How often the teacher's features of one view find the other view of the same scan among all scans.",
    ),
    Chart(
        {"learning_rate": "learning rate"},
        "learning rate",
        "Learning rate.",
        "Per optimiser step.",
        schedule=True,
    ),
    Chart(
        {"teacher_momentum": "momentum"},
        "momentum (share kept)",
        "Teacher momentum.",
        "What the teacher keeps of itself at each step.",
        schedule=True,
    ),
    Chart(
        {"teacher_temperature": "temperature"},
        "temperature",
        "Teacher temperature.",
        "Divides the teacher's logits; lower is sharper.",
        schedule=True,
    ),
)
FINETUNING_CHARTS = (
    Chart({"loss": "loss"}, "loss", "Training loss.", "On the labelled scans."),
    Chart(
        {"val_mean_dice": "Dice"},
        "Dice (mean of classes)",
        "Validation.",
        "On the validation scans, which choose the network that is kept.",
    ),
)


def pretraining_section(run: Run) -> html.Section:
    """Alarms, loss, health and schedules of a self-distillation."""
    alarms = [html.note(warning, warn=True) for warning in run.warnings[:8]]
    big = [_chart([run], chart) for chart in PRETRAINING_CHARTS if not chart.schedule]
    small = [_chart([run], chart) for chart in PRETRAINING_CHARTS if chart.schedule]
    body = [*alarms, html.figures(filter(None, big)), html.figures(filter(None, small), small=True)]
    return html.Section("Pre-training", "\n".join(body))


def finetuning_section(runs: Sequence[Run]) -> html.Section:
    """Training loss and validation Dice of the arms, one colour each, as in the bars."""
    arms = [run for run in runs if run.history and not run.pretraining]
    shown = [_chart(arms, chart) for chart in FINETUNING_CHARTS] if arms else []
    return html.Section("Fine-tuning", html.figures(filter(None, shown)) if any(shown) else "")


def _chart(runs: Sequence[Run], chart: Chart) -> str:
    """One figure: of one run a line per key, of several runs a line per run. Empty where no history has the keys."""
    lines: list[draw.Line] = []
    for run in runs:
        for key, label in chart.keys.items():
            steps, values = draw.series(run.history, key)
            color, points = len(lines) + 1, key.startswith("val_")
            lines.append(draw.Line(label if len(runs) == 1 else run.name, steps, values, color, points))
    if not any(line.values for line in lines):
        return ""
    prototypes = runs[0].setting("num_prototypes")
    known = chart.ln_k and isinstance(prototypes, int)
    level = (f"ln K = {math.log(prototypes):.3f}", math.log(prototypes)) if known else None
    name = f"{runs[0].folder}-{chart.title}"
    exact = chart.schedule
    svg = draw.curves(lines, chart.ylabel, reference=level, smooth=not exact, small=exact, name=name)
    return html.figure(svg, chart.title, chart.caption)


def settings_section(runs: Sequence[Run]) -> html.Section:
    """Every resolved config, folded."""
    parts = [html.folded(f"{run.name}: {run.folder / 'config.yaml'}", run.config) for run in runs if run.config]
    return html.Section("Settings", "\n".join(parts))


def provenance_section(runs: Sequence[Run]) -> html.Section:
    """Per run: seed, date, device and hashes; below, the versions and the commands."""
    with_record = [run for run in runs if run.environment]
    if not with_record:
        return html.Section("Provenance", "")
    keys = [key for key in RECORD_KEYS if any(key in run.environment for run in with_record)]
    rows = [[r.name, _text(r.setting("seed")), *(_text(r.environment.get(key)) for key in keys)] for r in with_record]
    parts = [html.table(["run", "seed", *(key.replace("_", " ") for key in keys)], rows)]
    versions = with_record[0].environment.get("versions", {})
    parts.append(html.table([], [["versions", ", ".join(f"{name} {version}" for name, version in versions.items())]]))
    for run in with_record:
        command = run.environment.get("command")
        if command:
            words = command if isinstance(command, str) else " ".join(map(str, command))
            parts.append(html.folded(f"{run.name}: command", words, wrap=True))
    return html.Section("Provenance", "\n".join(parts))


def _text(value: Any) -> str:
    """A fact for a narrow column: a hash by its first 16 digits, a time without its zone, which is UTC."""
    return "–" if value is None else str(value).removesuffix("+00:00")[:19]


def files_section(runs: Sequence[Run], more: Mapping[str, str] | None = None) -> html.Section:
    """Where every file is; ``more``: path -> what it is."""
    rows: list[list[str]] = []
    for run in runs:
        for name, what in FILES.items():
            path = run.folder / name
            if path.is_file():
                rows.append([str(path), f"{run.name}: {what}", _size(path.stat().st_size)])
    rows += [[path, what, ""] for path, what in (more or {}).items()]
    head = ["file", "what it is", "size"]
    return html.Section("Where every file is", html.table(head, rows, numbers_from=2, code=[0]) if rows else "")


def _size(number: int) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number = round(number / 1000)
    return f"{number} GB"


def now() -> str:
    """The date for the foot of a page."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def report(*runs: str, output: str = "report.html", title: str = "") -> None:
    """Write one self-contained HTML page about one run folder or several.

    The first evaluated run is compared with the others; pre-training runs get loss and health curves.
    """
    if not runs:
        raise UserError("report: no run was named. Say: report RUN_DIR [RUN_DIR ...] --output page.html")
    found = [read_run(folder) for folder in runs]
    for run in found:
        run.name = run.name if [r.name for r in found].count(run.name) == 1 else f"{run.folder.parent.name}/{run.name}"
    sections = [
        dice_section(found),
        *(pretraining_section(run) for run in found if run.pretraining),
        finetuning_section(found),
        settings_section(found),
        provenance_section(found),
        files_section(found),
    ]
    lead = ", ".join(str(run.folder) for run in found)
    target = Path(str(output))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html.page(title or "Run report", lead, sections, f"Written {now()} by desd_components."), "utf-8")
    print(target)
