"""The page of a run's folder, made again, or one page that compares several runs; see `desd_components.pages`."""

from collections import Counter
from pathlib import Path

from desd_components.base.errors import UserError
from desd_components.pages.run_page import PAGE, comparison_page, run_page
from desd_components.pages.runs import read_run


def report(*runs: str, output: str = "", title: str = "") -> None:
    """Write one self-contained HTML page about one run folder (RUN/report.html) or several (report.html).

    The first evaluated run is compared with the others; pre-training runs get loss and health curves.
    """
    if not runs:
        raise UserError("desd report: no run was named. Say: desd report RUN_DIR [RUN_DIR ...] --output page.html")
    found = [read_run(folder) for folder in runs]
    alike = Counter(run.name for run in found)
    for run in found:
        run.name = run.name if alike[run.name] == 1 else f"{run.folder.parent.name}/{run.name}"
    single = len(found) == 1
    target = Path(str(output)) if output else (found[0].folder if single else Path()) / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(run_page(found[0], title) if single else comparison_page(found, title), "utf-8")
    print(target)
