"""One page that sets the runs below a folder side by side, with links to the page of each.

`report RUN RUN` compares a few named runs case by case; this finds all that there are and says what they differ in.
Runs of one kind have one colour each, in the table and in the curves.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from desd_components.base.errors import UserError
from desd_components.base.files import write_atomically
from desd_components.pages.charts import FINETUNING_CHARTS, PRETRAINING_CHARTS, Chart, chart_figure
from desd_components.pages.page import Section, html, page
from desd_components.pages.pictures import FOLDER, read_pictures
from desd_components.pages.results import key_figures
from desd_components.pages.run_page import PAGE, write_run_page
from desd_components.pages.runs import Run, is_run, read_run

logger = logging.getLogger(__name__)


RETRIEVAL = Chart(
    {"val_retrieval_4": "retrieval"},
    "share found",
    "Label-free score, stage 4.",
    "How often the teacher's features of one view find the other view of the same scan.",
)
CHARTS = {"pre-training": (PRETRAINING_CHARTS[0], RETRIEVAL), "fine-tuning": FINETUNING_CHARTS[:2]}
#: settings that say where a run lies or how fast it goes, not what it does
PLACES = {"output_dir", "cache_dir", "bundle_root", "device", "num_workers", "page", "resume"}
FIGURES_SHOWN = 4


def gallery(folder: str, output: str = "") -> None:
    """Write one page about all runs below a folder (FOLDER/gallery.html): figures, curves, what they differ in.

    A run without a page gets one.

    Args:
        folder: such as runs; searched for folders that hold what a run leaves.
        output: the page; links in it are relative to its place.
    """
    runs = find_runs(Path(str(folder)))
    target = Path(str(output)) if output else Path(str(folder)) / "gallery.html"
    for run in runs:
        if not (run.folder / PAGE).is_file():
            write_run_page(run.folder)
    write_atomically(target, gallery_page(runs, Path(str(folder)), target.parent).encode())
    print(target)


def find_runs(folder: Path) -> list[Run]:
    """The runs in `folder` and below, by kind and name; each is called by its path below `folder`.

    One that cannot be read is named in the log and left out.

    Raises:
        UserError: when there is none.
    """
    places = sorted(place for place in (folder, *folder.rglob("*")) if place.is_dir() and is_run(place))
    if not places:
        raise UserError(f"{folder}: no run lies there or below. Name a folder in which runs have their output_dir.")
    runs = []
    for place in places:
        try:
            runs.append(read_run(place, str(place.relative_to(folder)) if place != folder else folder.name))
        except UserError as error:
            logger.warning("left out: %s", error)
    if not runs:
        raise UserError(f"{folder}: none of the {len(places)} runs there can be read; see the lines above.")
    return sorted(runs, key=lambda run: (run.kind, run.name))


def gallery_page(runs: Sequence[Run], folder: Path, place: Path) -> str:
    """The page; `place` is the folder in which it will lie."""
    sections = [kind_section(kind, list(group), place) for kind, group in groupby(runs, lambda run: run.kind)]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return page(f"Runs in {folder.resolve().name}", f"{count} below {folder}", sections)


def kind_section(kind: str, runs: Sequence[Run], place: Path) -> Section:
    """The runs of one kind: a row each, and their curves in one figure."""
    differing = differences([run.settings for run in runs])
    rows = [
        _row(run, number, settings, place) for number, (run, settings) in enumerate(zip(runs, differing, strict=True))
    ]
    curves = [chart_figure(runs, chart) for chart in CHARTS.get(kind, ())]
    title = f"{kind[0].upper()}{kind[1:]}"
    return Section(title, [html.cards(rows), *([html.figures(curves)] if any(curves) else [])])


def _row(run: Run, number: int, settings: Mapping[str, Any], place: Path) -> str:
    link = quote(Path(os.path.relpath(run.folder / PAGE, place)).as_posix())
    shown = dict(list(key_figures(run).items())[:FIGURES_SHOWN])
    words = {name: "–" if value is None else str(value) for name, value in settings.items()}
    return html.card(run.name, link, number if run.history else None, shown, words, _thumbnail(run))


def _thumbnail(run: Run) -> str:
    for part in ("evaluation", "inference", "features"):
        for picture in read_pictures(run.folder, part)[:1]:
            return html.image((run.folder / FOLDER / picture.file).read_bytes(), picture.alt)
    return ""


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each config, the plain settings at its top that are not the same in all; expressions that follow are left out.

    Args:
        configs: resolved, as runs record them.
    """
    names = [name for name in dict.fromkeys(name for config in configs for name in config) if name not in PLACES]
    found: list[dict[str, Any]] = [{} for _ in configs]
    for name in names:
        values = [config.get(name) for config in configs]
        if any(value != values[0] for value in values) and all(_is_plain(value) for value in values):
            for own, value in zip(found, values, strict=True):
                own[name] = value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, int | float) or (isinstance(value, list) and all(map(_is_plain, value)))
