"""Curves of a run's history: the known figures, with their words from ``charts.yaml``, and whatever else was recorded.

Where from: ours. A figure that a later version records appears without any change here, beside those of its name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ..runs.history import PLACE
from . import figures as draw
from .page import Section, html
from .runs import Run


@dataclass(frozen=True)
class Chart:
    """One figure of a history: its keys with their names, units and words; ``schedule``: exact, drawn small."""

    keys: Mapping[str, str]
    ylabel: str
    title: str
    caption: str = ""
    ln_k: bool = False
    schedule: bool = False


def _read_charts() -> dict[str, list[Chart]]:
    """The charts of ``charts.yaml`` by kind of run; a key with braces stands for those of the stages."""
    kinds = yaml.safe_load(Path(__file__).with_name("charts.yaml").read_text("utf-8"))
    return {
        kind: [Chart(**{**words, "keys": _each(words["keys"])}) for words in found] for kind, found in kinds.items()
    }


def _each(keys: Mapping[str, str]) -> dict[str, str]:
    return {key.format(stage): name.format(stage) for key, name in keys.items() for stage in range(1, 9)}


_CHARTS = _read_charts()
PRETRAINING_CHARTS, FINETUNING_CHARTS = _CHARTS["pre-training"], _CHARTS["fine-tuning"]
#: of further names, by the beginning that they share
OTHERS = {next(iter(chart.keys)): chart for chart in _CHARTS["others"]}
#: of a record, not of the training
BOOKKEEPING = {*PLACE, "feature_rank_bound", "batch_information"}
MAX_LINES = 8  # of a chart, as there are colours


def charts_section(run: Run) -> Section:
    """All curves of one run: the known ones, the rest grouped by their names, the schedules drawn small."""
    known = PRETRAINING_CHARTS if run.pretraining else FINETUNING_CHARTS
    rest = other_charts(run, {key for chart in known for key in chart.keys})
    big = [chart_figure([run], chart) for chart in (*known, *rest) if not chart.schedule]
    small = [chart_figure([run], chart) for chart in known if chart.schedule]
    body = [html.figures(figures, small=figures is small) for figures in (big, small) if any(figures)]
    return Section("Pre-training" if run.pretraining else "Fine-tuning", body)


def finetuning_section(runs: Sequence[Run]) -> Section:
    """Training loss and validation Dice of the arms, one colour each, as in the bars."""
    arms = [run for run in runs if run.history and not run.pretraining]
    shown = [chart_figure(arms, chart) for chart in FINETUNING_CHARTS if not chart.schedule] if arms else []
    return Section("Fine-tuning", [html.figures(shown)] if any(shown) else [])


def other_charts(run: Run, known: set[str]) -> list[Chart]:
    """A chart for each beginning of the names that no known chart draws.

    Left out are alarms, which are a table's, what was 0 throughout, and a single class, which is the mean.
    """
    groups: dict[str, list[str]] = {}
    for key in sorted({key for row in run.history for key, value in row.items() if _is_number(value) and value}):
        if key not in known | BOOKKEEPING and not key.startswith("alarm_"):
            groups.setdefault(_beginning(key), []).append(key)
    if len(groups.get("val_dice_", [])) == 1:
        del groups["val_dice_"]
    return [_other_chart(beginning, keys[:MAX_LINES]) for beginning, keys in groups.items()]


def _other_chart(beginning: str, keys: Sequence[str]) -> Chart:
    words = beginning.replace("_", " ").strip()
    known = OTHERS.get(beginning, Chart({}, words, f"{words.capitalize()}."))
    return replace(known, keys={key: _label(key, beginning) for key in keys})


def _label(key: str, beginning: str) -> str:
    """What tells a key from others of its beginning: a stage's number, or the rest of the name."""
    number = re.search(r"_([1-8])(_loss)?$", key)
    rest = key.removeprefix(beginning).strip("_") if beginning in OTHERS else key
    return f"stage {number[1]}" if number else rest.replace("_", " ")


def _beginning(key: str) -> str:
    """Its name without a stage's number."""
    for known in OTHERS:
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
