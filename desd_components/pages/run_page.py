"""The page of a run, or of several: what was learnt, how healthily, with which settings, and where every file is.

Where from: ours. It only reads what runs leave in their folders, so that the page that a run writes at its end can be
made again; whoever finishes last in a folder, a training or its evaluation, writes the page of all that is there.
"""

from collections.abc import Sequence
from pathlib import Path

from ..base.files import write_atomically
from .charts import charts_section, finetuning_section
from .page import Section, html, page
from .results import cases_section, dice_section, key_figures, probes_section
from .runs import Run, read_run
from .sections import (
    alarms_section,
    files_section,
    pictures_section,
    plan_section,
    provenance_section,
    scans_section,
    settings_section,
)

PAGE = "report.html"


def write_run_page(folder: str | Path) -> Path:
    """Write the page of one run's folder into it; returns its path.

    Raises:
        UserError: when the folder holds no run, or a record in it cannot be read.
    """
    path = Path(folder) / PAGE
    write_atomically(path, run_page(read_run(folder)).encode())
    return path


def run_page(run: Run, title: str = "") -> str:
    """The page of one run: its key figures, and every section that it has something for."""
    sections = [
        Section("At a glance", [html.tiles(key_figures(run))] if key_figures(run) else []),
        dice_section([run]),
        pictures_section(run, "evaluation"),
        cases_section(run),
        probes_section(run),
        scans_section(run),
        pictures_section(run, "inference"),
        alarms_section(run),
        charts_section(run),
        pictures_section(run, "features"),
        plan_section(run),
        settings_section([run]),
        provenance_section([run]),
        files_section([run]),
    ]
    return page(title or f"{run.kind.capitalize()}: {run.name}", str(run.folder), sections)


def comparison_page(runs: Sequence[Run], title: str = "") -> str:
    """The page of several runs; the first that was evaluated is compared with the others."""
    pretrained = [run for run in runs if run.pretraining]
    sections = [
        dice_section(runs),
        *(section for run in pretrained for section in (alarms_section(run), charts_section(run))),
        finetuning_section(runs),
        settings_section(runs),
        provenance_section(runs),
        files_section(runs),
    ]
    return page(title or "Run report", ", ".join(str(run.folder) for run in runs), sections)
