"""The page, the plot and the table of a label curve; all numbers on them stand in ``summary.json``.

With the template and figures of the other pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desd_components.base.files import write_atomically, write_json
from desd_components.pages.page import Section, html, page
from desd_components.pages.runs import Run

from ..cases import Case, find_cases
from ..cases import slices_section as cases_side_by_side
from ..roles import labelled_scans
from . import plot, tables
from .study import Study
from .units import Places

Record = Mapping[str, Any]


def write_outputs(
    places: Places, study: Study, summary: Mapping[str, Any], records: Sequence[Record], remarks: Sequence[str]
) -> Path:
    """Write ``summary.json``, tables as Markdown, ``curve.png``, ``curve.svg`` and ``index.html``; returns the last.

    ``table.md`` holds what a reader asks first, ``probes.md`` the frozen encoders, ``details.md`` the rest.
    """
    output = places.output
    write_json(output / "summary.json", {**summary, "remarks": list(remarks)})
    words = [*remarks, *summary["interval_covers"], provenance(records)]
    pages = {
        "table.md": (tables.main_tables(summary), words),
        "probes.md": (tables.probe_tables(summary), []),
        "details.md": (tables.detail_tables(summary), words),
    }
    for name, (made, sentences) in pages.items():
        write_atomically(output / name, tables.markdown(made, sentences).encode())
    shown = bands(summary)
    if shown:
        plot.write_label_curve(shown, caption(summary), output / "curve.png", output / "curve.svg")
    write_atomically(output / "index.html", curve_page(places, study, summary, records, remarks).encode())
    return output / "index.html"


def bands(summary: Mapping[str, Any]) -> list[plot.Band]:
    """A line of the plot for each arm."""
    rows = [row for row in summary["scores"] if row["measure"] == "dice" and row["class"] == "mean"]
    found = []
    for arm in summary["arms"]:
        own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["labels"])
        lows, highs = zip(*(row["interval_95"] for row in own), strict=True)
        ticks = [tables.label_word(row) for row in own]
        labels, means = [row["labels"] for row in own], [row["mean"] for row in own]
        found.append(plot.Band(arm, labels, means, lows, highs, ticks))
    return found


def caption(summary: Mapping[str, Any]) -> str:
    """What the plot shows."""
    most = max((len(row["seeds"]) for row in summary["scores"]), default=0)
    return (
        f"Mean Dice over {summary['cases']} test cases and up to {most} seeds of fine-tuning; band: 95 % interval over "
        "both (bootstrap). Every run is judged by its last weights."
    )


def provenance(records: Sequence[Record]) -> str:
    """Dates, versions and hashes of the runs in a sentence."""
    if not records:
        return "No run is finished."
    dates = sorted(record["date"] for record in records)
    versions = sorted({json.dumps(record["versions"], sort_keys=True) for record in records})
    shown = "; or ".join(", ".join(f"{n} {v}" for n, v in json.loads(version).items()) for version in versions)
    hashes = {part: sorted({record["key"][part] for record in records}) for part in ("data", "code")}
    words = "; ".join(f"{part} {', '.join(value[:12] for value in values)}" for part, values in hashes.items())
    return f"Runs from {dates[0]} to {dates[-1]}. {shown}. Hashes: {words}."


def curve_page(
    places: Places, study: Study, summary: Mapping[str, Any], records: Sequence[Record], remarks: Sequence[str]
) -> str:
    """The whole page."""
    sections = [
        result_section(summary, remarks),
        tables_section("Gains", tables.main_tables(summary)[2:]),
        tables_section("Frozen encoders", tables.probe_tables(summary)),
        slices_section(places, study, records),
        tables_section("Details", tables.detail_tables(summary)),
        Section("Settings", [html.folded("The study's config", study.text)]),
        commands_section(records),
        Section("Provenance", [html.paragraph(provenance(records))]),
    ]
    lead = f"Fine-tuning on few labelled scans of {places.data.name}, from pre-trained encoders and from others."
    return page("Label curve", lead, sections)


def result_section(summary: Mapping[str, Any], remarks: Sequence[str]) -> Section:
    """The spread over seeds, the plot, and Dice by arm and label count."""
    parts = [html.note(remark, warn=True) for remark in remarks]
    spread, scores = tables.spread_table(summary), tables.score_table(summary, "dice")
    if not scores.rows:
        return Section("Result", [*parts, html.paragraph("No final run is finished yet.")])
    parts += _shown(spread)
    parts.append(html.figure(plot.label_curve(bands(summary)), "Dice against the number of labels.", caption(summary)))
    parts += _shown(scores)
    parts += [html.paragraph(sentence) for sentence in summary["interval_covers"]]
    return Section("Result", parts)


def tables_section(title: str, found: Sequence[tables.Table]) -> Section:
    """Tables below a heading; nothing where none has rows."""
    return Section(title, [part for table in found if table.rows for part in _shown(table)])


def _shown(table: tables.Table) -> list[str]:
    note = [html.paragraph(table.note)] if table.note else []
    return [html.heading(table.title), *note, html.table(table.head, table.rows, numbers_from=table.numbers_from)]


def slices_section(places: Places, study: Study, records: Sequence[Record]) -> Section:
    """Best, median and worst test case, of the runs whose predictions were kept."""
    runs = predicted_runs(study, records)
    cases = predicted_cases(places, study, [run.name for run in runs])
    if not cases or study.predictions is None:
        return Section("What it looks like")
    section = cases_side_by_side(cases, runs)
    label, seed = study.predictions
    section.parts.insert(0, html.paragraph(f"Runs with {label} labels, seed {seed}."))
    return section


def predicted_runs(study: Study, records: Sequence[Record]) -> list[Run]:
    """The runs whose predictions were kept, as the report reads them."""
    wanted = [r for r in records if r["kind"] == "final" and (r["label_count"], r["seed"]) == study.predictions]
    return [Run(Path(record["name"]), record["arm"], metrics=dict(record["metrics"])) for record in wanted]


def predicted_cases(places: Places, study: Study, arms: Sequence[str]) -> list[Case]:
    """Test cases that every arm has segmented."""
    labelled = labelled_scans(places.data, places.split, val_fraction=0.0, **study.reading)
    return find_cases(labelled, {arm: places.predictions / arm for arm in arms}) if arms else []


def commands_section(records: Sequence[Record]) -> Section:
    """How each run can be repeated by hand, by kind."""
    parts = []
    for kind in dict.fromkeys(record["kind"] for record in records):
        own = [record for record in records if record["kind"] == kind]
        text = "\n\n".join(f"# {record['name']}\n" + "\n".join(record["commands"]) for record in own)
        parts.append(html.folded(f"{kind}: {len(own)} runs", text, wrap=True))
    note = html.paragraph(
        "Every run's own commands, from the repository's root, DIR being the data; they stand in runs/*.json, too."
    )
    return Section("How to repeat it", [note, *parts] if parts else [])
