"""The one HTML template of the pages: without server, and without scripts, fonts or pictures from elsewhere.

Where from: ours. Light and dark follow the reader's system; figures use the same CSS variables. A content security
policy in the page itself forbids the browser any request, and any script but the one that sorts tables. All functions
take plain text and escape it, unless they say that they take HTML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from .style import CSS, SORT


@dataclass
class Section:
    """A heading, an anchor for the table of contents, and ready HTML."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """The heading in lower case with hyphens."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header><div>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<nav aria-label="Sections">{contents}</nav>
</div></header>
<main>
{sections}
</main>
<footer>{footer}</footer>
{script}</body>
</html>
"""
SCRIPT_HASH = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT_HASH}'"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; empty sections are left out. ``title`` and ``lead`` are plain text."""
    shown = [section for section in sections if section.body]
    sortable = any('class="sortable"' in section.body for section in shown)
    return TEMPLATE.format(
        title=text(title),
        lead=text(lead),
        css=CSS,
        contents="".join(f'<a href="#{s.anchor}">{text(s.title)}</a>' for s in shown),
        sections="\n".join(f'<section id="{s.anchor}">\n<h2>{text(s.title)}</h2>\n{s.body}\n</section>' for s in shown),
        footer=f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by desd_components.",
        policy=POLICY,
        script=f"<script>{SORT}</script>\n" if sortable else "",
    )


def text(value: object) -> str:
    """Plain text, safe inside HTML."""
    return html.escape(str(value))


def paragraph(words: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def note(words: str, warn: bool = False) -> str:
    """A remark that stands out; ``warn`` for what went wrong."""
    return f'<p class="note{" warn" if warn else ""}">{text(words)}</p>'


def figure(drawing: str, title: str, caption: str, narrow: bool = False) -> str:
    """A figure with its title and caption. ``drawing``: HTML, an inline SVG, which is given its words for who cannot
    see it, or an `image`."""
    kind = ' class="narrow"' if narrow else ""
    label = html.escape(f"{title} {caption}", quote=True)
    drawing = re.sub("^<svg ", f'<svg role="img" aria-label="{label}" ', drawing)
    return f"<figure{kind}>{drawing}<figcaption><b>{text(title)}</b> {text(caption)}</figcaption></figure>"


def image(png: bytes, alt: str) -> str:
    """A picture inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{text(alt)}">'


def figures(items: Iterable[str], small: bool = False) -> str:
    """Figures side by side where the window is wide enough: two, or three when they are small."""
    return f'<div class="figures{" small" if small else ""}">{"".join(items)}</div>'


def series_color(number: int) -> str:
    """The page's colour of the curve `number`, from 0; they repeat after eight."""
    return f"var(--series-{number % 8 + 1})"


def card(
    name: str, link: str, color: str, numbers: Mapping[str, str], settings: Mapping[str, str], thumbnail: str
) -> str:
    """A run in a row: its name as a link, its numbers, the settings that tell it from others, and a picture.

    Args:
        link: an address, already quoted.
        color: of its curve, as CSS; none where it has no curve.
        thumbnail: HTML, as `image` makes it.
    """
    dot = f'<span class="key" style="background:{color}"></span>' if color else ""
    figures = "".join(
        f"<div><b>{text(number)}</b><span>{text(words)}</span></div>" for words, number in numbers.items()
    )
    told = "".join(f"<li><code>{text(key)}: {text(value)}</code></li>" for key, value in settings.items())
    title = f'<h3>{dot}<a href="{text(link)}">{text(name)}</a></h3>'
    facts = f'<div class="numbers">{figures}</div><ul class="settings">{told}</ul>'
    return f'<article class="run"><div class="thumb">{thumbnail}</div><div>{title}{facts}</div></article>'


def rows(cards: Iterable[str]) -> str:
    """Cards below one another."""
    return f'<div class="runs">{"".join(cards)}</div>'


def tiles(items: Mapping[str, str]) -> str:
    """A row of numbers with what they are: words -> number."""
    boxes = (
        f'<div class="tile"><b>{text(number)}</b><span>{text(words)}</span></div>' for words, number in items.items()
    )
    return f'<div class="tiles">{"".join(boxes)}</div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 99, code: Sequence[int] = ()
) -> str:
    """A table; columns from ``numbers_from`` on are right-aligned, those in ``code`` set as code."""

    def cell(tag: str, column: int, value: object) -> str:
        inner = f"<code>{text(value)}</code>" if tag == "td" and column in code and value != "" else text(value)
        kind = ' class="n"' if column >= numbers_from else ""
        return f"<{tag}{kind}>{inner}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, value) for i, value in enumerate(head)) + "</tr>"] if head else []
    lines += ["<tr>" + "".join(cell("td", i, value) for i, value in enumerate(row)) + "</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def sortable(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    sorted_by: int,
    numbers_from: int = 1,
    words: Sequence[int] = (),
) -> str:
    """A table that a click on a heading sorts; floats are shown to three figures, None as a dash, and sorted last.

    Args:
        head: the headings.
        rows: already sorted by the column `sorted_by`, upwards.
        numbers_from: columns from there on are right-aligned,
        words: but not these.
    """

    def heading(column: int, name: str) -> str:
        order = ' aria-sort="ascending"' if column == sorted_by else ""
        kind = ' class="n"' if column >= numbers_from and column not in words else ""
        return f'<th scope="col"{kind}{order}><button type="button">{text(name)}</button></th>'

    def cell(column: int, value: object) -> str:
        kind = ' class="n"' if column >= numbers_from and column not in words else ""
        if value is None:
            return f'<td{kind} data-v="">–</td>'
        exact = f' data-v="{value!r}"' if isinstance(value, int | float) else ""
        return f"<td{kind}{exact}>{text(_shown(value))}</td>"

    top = "".join(heading(column, name) for column, name in enumerate(head))
    body = "".join("<tr>" + "".join(cell(i, value) for i, value in enumerate(row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll tall" tabindex="0"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _shown(value: object) -> str:
    """A number for people: 0.123, 12.3, 1234."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def folded(summary: str, content: str, wrap: bool = False) -> str:
    """Preformatted text that opens on a click."""
    kind = ' class="wrap"' if wrap else ""
    return f"<details><summary>{text(summary)}</summary><pre{kind}>{text(content)}</pre></details>"
