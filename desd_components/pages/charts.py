"""Curves of a run's history: the known figures with their units and words, and whatever else was recorded, by name.

Where from: ours. A figure that a later version records appears without any change here, beside those of its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..runs.history import PLACE
from . import figures as draw
from . import page as html
from .runs import Run


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


LEARNING_RATE = Chart(
    {"learning_rate": "learning rate"}, "learning rate", "Learning rate.", "Per optimiser step.", schedule=True
)
PRETRAINING_CHARTS = (
    Chart(
        {"distillation_loss": "self-distillation", "loss": "with all terms"},
        "loss (nats)",
        "Loss.",
        "Self-distillation at ln K (K prototypes): the student knows nothing of the teacher; at 0 both say the same of "
        "every scan.",
        ln_k=True,
    ),
    Chart(
        _stages("stage_{}_loss"),
        "loss (nats)",
        "Loss of each stage.",
        "Each stage of the student against the teacher's target for it.",
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
        "Entropy and KL add up to the deepest stage's loss. ln K: “everything is alike”; 0 over the batch: “one "
        "prototype for all”.",
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
        _stages("dense_stage_{}_loss"),
        "loss (nats)",
        "Dense loss of each stage.",
        "The same comparison, at single voxels that both views show.",
    ),
    Chart(
        {"dense_teacher_entropy": "entropy of the teacher", "dense_kl": "KL of student from teacher"},
        "nats",
        "Health of the dense teacher.",
        "As above, at single voxels.",
    ),
    Chart(
        _stages("val_retrieval_{}"),
        "share found",
        "Label-free score.",
        "How often the teacher's features of one view find the other view of the same scan among all scans.",
    ),
    LEARNING_RATE,
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
    LEARNING_RATE,
)
#: beginnings of further names, with the unit of their axis
UNITS = {
    "gradient_norm_": "gradient norm (loss per unit of weight)",
    "val_rank_": "effective rank (share of the possible)",
    "val_dice_": "Dice (1 = same as the truth)",
    "val_hd95_": "95 % Hausdorff distance (mm)",
}
#: of a record, not of the training
BOOKKEEPING = {*PLACE, "feature_rank_bound", "batch_information"}
MAX_LINES = 8  # of a chart, as there are colours


def charts_section(run: Run) -> html.Section:
    """All curves of one run: the known ones, the rest grouped by their names, the schedules drawn small."""
    known = PRETRAINING_CHARTS if run.pretraining else FINETUNING_CHARTS
    rest = other_charts(run, {key for chart in known for key in chart.keys})
    big = [chart_figure([run], chart) for chart in (*known, *rest) if not chart.schedule]
    small = [chart_figure([run], chart) for chart in known if chart.schedule]
    body = [html.figures(figures, small=figures is small) for figures in (big, small) if any(figures)]
    return html.Section("Pre-training" if run.pretraining else "Fine-tuning", "\n".join(body))


def finetuning_section(runs: Sequence[Run]) -> html.Section:
    """Training loss and validation Dice of the arms, one colour each, as in the bars."""
    arms = [run for run in runs if run.history and not run.pretraining]
    shown = [chart_figure(arms, chart) for chart in FINETUNING_CHARTS if not chart.schedule] if arms else []
    return html.Section("Fine-tuning", html.figures(shown) if any(shown) else "")


def other_charts(run: Run, known: set[str]) -> list[Chart]:
    """A chart for each beginning of the names that no known chart draws; alarms are a table's, not a chart's."""
    groups: dict[str, list[str]] = {}
    for key in sorted({key for row in run.history for key, value in row.items() if _is_number(value)}):
        if key not in known | BOOKKEEPING and not key.startswith("alarm_"):
            groups.setdefault(_beginning(key), []).append(key)
    return [_other_chart(beginning, keys[:MAX_LINES]) for beginning, keys in groups.items()]


def _other_chart(beginning: str, keys: Sequence[str]) -> Chart:
    words = beginning.replace("_", " ").strip()
    labels = {key: _label(key, beginning) for key in keys}
    return Chart(labels, UNITS.get(beginning, words), f"{words.capitalize()}.", f"As recorded: {', '.join(keys)}.")


def _label(key: str, beginning: str) -> str:
    """What tells a key from others of its beginning: a stage's number, or the rest of the name."""
    number = re.search(r"_([1-4])(_loss)?$", key)
    rest = key.removeprefix(beginning).strip("_") if beginning in UNITS else key
    return f"stage {number[1]}" if number else rest.replace("_", " ")


def _beginning(key: str) -> str:
    """Its name without a stage's number."""
    for known in UNITS:
        if key.startswith(known):
            return known
    return re.sub(r"(_stage)?_\d+(_loss)?$", r"\1\2", key)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def chart_figure(runs: Sequence[Run], chart: Chart) -> str:
    """One figure: of one run a line per key, of several runs a line per run. Empty where no history has the keys."""
    lines: list[draw.Line] = []
    for number, run in enumerate(runs):
        for key, label in chart.keys.items():
            steps, values = draw.series(run.history, key)
            color, points = (len(lines) if len(runs) == 1 else number) % MAX_LINES + 1, key.startswith("val_")
            if values:
                lines.append(draw.Line(label if len(runs) == 1 else run.name, steps, values, color, points))
    if not lines:
        return ""
    prototypes = runs[0].setting("num_prototypes")
    known = chart.ln_k and isinstance(prototypes, int)
    level = (f"ln K = {math.log(prototypes):.3f}", math.log(prototypes)) if known else None
    name, exact = f"{runs[0].folder}-{chart.title}", chart.schedule
    svg = draw.curves(lines, chart.ylabel, reference=level, smooth=not exact, small=exact, name=name)
    return html.figure(svg, chart.title, chart.caption)
