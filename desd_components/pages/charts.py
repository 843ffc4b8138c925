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
    """One figure of a history: its keys with their names, units and words; ``schedule``: exact, drawn small.
    ``from_zero``: its axis begins there, so that small changes look small.

    A ``*`` in a key stands for any words, such as a class, a ``#`` for a number, such as a stage's, and ``{}`` in its
    name for what it stood for.
    """

    keys: Mapping[str, str]
    ylabel: str
    title: str
    caption: str = ""
    ln_k: bool = False
    schedule: bool = False
    from_zero: bool = False

    def lines(self, run: Run) -> dict[str, draw.Line]:
        """What it draws of a run, by key, each in a colour of its own."""
        found: dict[str, draw.Line] = {}
        for pattern, name in self.keys.items():
            shape = re.compile(re.escape(pattern).replace(r"\*", "(.+)").replace(r"\#", r"(\d+)"))
            for match in filter(None, map(shape.fullmatch, sorted(run.figures))):
                words, key = name.format(*(part.replace("_", " ") for part in match.groups())), match[0]
                found[key] = draw.Line(words, *run.figures[key], len(found) % MAX_LINES + 1, key.startswith("val_"))
        return found


MAX_LINES = 8  # of a chart, as there are colours
#: of a record, not of the training
BOOKKEEPING = {*PLACE, "feature_rank_bound", "batch_information"}
PRETRAINING_CHARTS, FINETUNING_CHARTS = (
    [Chart(**words) for words in charts]
    for charts in yaml.safe_load(Path(__file__).with_name("charts.yaml").read_text("utf-8")).values()
)


def charts_section(run: Run) -> Section:
    """All curves of one run: the known ones, the rest grouped by their names, the schedules drawn small.

    What was recorded a single time is no curve: a table holds it. A lone curve that was drawn before, such as that of a
    single class, which is the mean, is left out.
    """
    known = PRETRAINING_CHARTS if run.pretraining else FINETUNING_CHARTS
    drawn: list[tuple] = []
    once: list[tuple[Chart, list[draw.Line]]] = []
    large: list[str] = []
    small: list[str] = []
    for chart in (*known, *other_charts(run, known)):
        lines = list(chart.lines(run).values())
        if not lines or (len(lines) == 1 and (lines[0].steps, lines[0].values) in drawn):
            continue
        drawn += [(line.steps, line.values) for line in lines]
        if all(len(line.values) == 1 for line in lines):
            once.append((chart, lines))
        else:
            (small if chart.schedule else large).append(chart_figure([run], chart))
    parts = once_tables(once) + [html.figures(figures, small=figures is small) for figures in (large, small) if figures]
    return Section("Pre-training" if run.pretraining else "Fine-tuning", parts)


def once_tables(found: Sequence[tuple[Chart, Sequence[draw.Line]]]) -> list[str]:
    """Tables of lines of one value: a row for a name, such as a class, and a column for each chart that knows it."""
    single: dict[str, dict[str, str]] = {}
    tables = [single]
    for chart, lines in found:
        title, values = chart.title.rstrip("."), {line.label: f"{line.values[0]:.4g}" for line in lines}
        alike = [table for table in tables[1:] if any(values.keys() & column.keys() for column in table.values())]
        if len(lines) == 1 and not alike:
            single.setdefault("value", {}).update({f"{title}: {name}": value for name, value in values.items()})
        else:
            if not alike:
                tables.append({})
            (alike or tables[-1:])[0][f"{title}: {chart.ylabel}"] = values
    made = []
    for columns in filter(None, tables):
        names = dict.fromkeys(name for column in columns.values() for name in column)
        rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
        made.append(html.table(["recorded once", *columns], rows, numbers_from=1))
    return made


def finetuning_section(runs: Sequence[Run]) -> Section:
    """Training loss and validation Dice of the arms, one colour each, as in the bars."""
    arms = [run for run in runs if run.history and not run.pretraining]
    shown = [chart_figure(arms, chart) for chart in FINETUNING_CHARTS[:2]] if arms else []
    return Section("Fine-tuning", [html.figures(shown)] if any(shown) else [])


def other_charts(run: Run, known: Sequence[Chart]) -> list[Chart]:
    """A chart for all names that differ in their numbers alone and that no known chart draws.

    Left out are alarms, which are a table's, and what was 0 throughout.
    """
    drawn = {key for chart in known for key in chart.lines(run)} | BOOKKEEPING
    names = [key for key, (_, values) in sorted(run.figures.items()) if any(values) and not key.startswith("alarm_")]
    patterns = dict.fromkeys(re.sub(r"_\d+(?=_|$)", "_*", key) for key in names if key not in drawn)
    titles = {pattern: pattern.replace("_*", "").replace("_", " ") for pattern in patterns}
    return [
        Chart({key: "{}" if "*" in key else words}, words, f"{words.capitalize()}.") for key, words in titles.items()
    ]


def chart_figure(runs: Sequence[Run], chart: Chart) -> str:
    """One figure: of one run a line per key, of several runs a line per run. Empty where no history has the keys."""
    lines = list(chart.lines(runs[0]).values())[:MAX_LINES]
    if len(runs) > 1:
        colored = [(run, number % MAX_LINES + 1) for number, run in enumerate(runs)]
        lines = [
            replace(line, label=run.name, color=color) for run, color in colored for line in chart.lines(run).values()
        ]
    if not lines:
        return ""
    prototypes = runs[0].settings.get("num_prototypes")
    level = None
    if chart.ln_k and isinstance(prototypes, int):
        level = (f"ln K = {math.log(prototypes):.3f}", math.log(prototypes))
    name, exact = f"{runs[0].folder}-{chart.title}", chart.schedule
    svg = draw.curves(
        lines, chart.ylabel, reference=level, smooth=not exact, small=exact, name=name, from_zero=chart.from_zero
    )
    return html.figure(svg, chart.title, chart.caption)
