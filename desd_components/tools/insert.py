"""Put generated tables into a Markdown page, so that no figure in it is typed by hand.

A place is marked by two comments: ``<!-- from PATH -->`` and ``<!-- end -->``, PATH relative to the page's folder. What
stands between them is replaced by the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from desd_components.errors import UserError

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
        return f"{place[1]}{source.read_text(encoding='utf-8').strip()}\n{place[3]}"

    return PLACE.sub(fill, text)


def insert(*pages: str) -> None:
    """Fill the marked places of PAGES from the files that they name.

    Args:
        pages: Markdown files, such as README.md.

    Raises:
        UserError: when a page or a file is missing.
    """
    for name in pages:
        page = Path(name)
        if not page.is_file():
            raise UserError(f"{page}: no such page. Give the path of a Markdown file.")
        page.write_text(filled(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
