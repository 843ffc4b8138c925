"""Put generated tables into a Markdown page, so that no figure in it is typed by hand.

A place is marked by two comments: ``<!-- from PATH -->`` and ``<!-- end -->``, PATH relative to the page's folder. What
stands between them is replaced by the file; a ``metrics.json`` of an evaluation becomes a table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.pages.compare import class_names

PLACE = re.compile(r"(<!-- from (\S+) -->\n).*?(<!-- end -->)", flags=re.S)


def filled(text: str, folder: Path) -> str:
    """`text` with every marked place filled from its file.

    Raises:
        UserError: when a file is missing.
    """

    def fill(place: re.Match[str]) -> str:
        source = folder / place[2]
        if not source.is_file():
            raise UserError(f"{source}: no such file, but the page wants it. Make it, or mend the path in the comment.")
        content = source.read_text(encoding="utf-8")
        shown = score_table(json.loads(content)) if source.suffix == ".json" else content
        return f"{place[1]}{shown.strip()}\n{place[3]}"

    return PLACE.sub(fill, text)


def score_table(metrics: Mapping[str, Any]) -> str:
    """The means of a ``metrics.json`` as a Markdown table: a row for each class, and their mean."""
    names = [*class_names(metrics), "mean"]
    lines = [f"| mean of {len(metrics['cases'])} scans | Dice | HD95 (mm) |", "|---|---:|---:|"]
    for name in names:
        dice, hd95 = (metrics["mean"][measure].get(name) for measure in ("dice", "hd95"))
        lines.append(f"| {name} | {_told(dice, 3)} | {_told(hd95, 2)} |")
    return "\n".join(lines)


def _told(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def insert(*pages: str) -> None:
    """Fill the marked places of PAGES from the files that they name.

    Args:
        pages: Markdown files, such as README.md.

    Raises:
        UserError: when a page or a file is missing.
    """
    if not pages:
        raise UserError("insert: no page was named. Give the path of a Markdown file.")
    for name in pages:
        page = Path(name)
        if not page.is_file():
            raise UserError(f"{page}: no such page. Give the path of a Markdown file.")
        page.write_text(filled(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
