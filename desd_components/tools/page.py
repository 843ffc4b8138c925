"""The one HTML template of the reports: a page without server, scripts, fonts or pictures from elsewhere.

Where from: ours. Light and dark follow the reader's system; figures use the same CSS variables.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass
class Section:
    """A heading, an anchor for the table of contents, and ready HTML."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """The heading in lower case with hyphens."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


CSS = """
:root { color-scheme: light dark;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d2227; --soft: #59636d; --muted: #8b949d; --grid: #e9e7e3;
  --line: #e2dfd9;
  --accent: #1f6f8b; --wash: #eef4f6; --warn: #fdf3e1; --warn-line: #d98e1f;
  --series-1: #2368b8; --series-2: #d0611a; --series-3: #17876a; --series-4: #8455b8; --series-5: #b23a5c;
  --series-6: #6f7415; --series-7: #0d7f96; --series-8: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --card: #1b1f23; --ink: #e6e8ea; --soft: #a5aeb7; --muted: #7d8790; --grid: #2a3036;
  --line: #2d3339;
  --accent: #6fc3dd; --wash: #1c2a30; --warn: #2e2618; --warn-line: #c98a2b;
  --series-1: #6cabf7; --series-2: #f79a5c; --series-3: #4ccaa5; --series-4: #bf98f0; --series-5: #ef7f9f;
  --series-6: #c9cf55; --series-7: #55c4d9; --series-8: #a9a9a9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 var(--font); }
main, header > div { max-width: 1080px; margin: 0 auto; padding: 0 28px; }
header { border-bottom: 1px solid var(--line); background: var(--card); padding: 44px 0 30px; }
h1 { font-size: 31px; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 10px; font-weight: 650; }
h2 { font-size: 22px; letter-spacing: -0.01em; margin: 58px 0 8px; font-weight: 650; }
h3 { font-size: 16px; margin: 28px 0 8px; font-weight: 620; }
p { max-width: 74ch; margin: 8px 0; }
.lead { font-size: 18px; color: var(--soft); margin: 0; }
nav { margin-top: 18px; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 20px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 14px; margin: 22px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px 12px; }
.tile b { display: block; font-size: 27px; line-height: 1.25; font-weight: 640; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13.5px; line-height: 1.35; display: block; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 18px;
  margin: 18px 0; }
figure { margin: 18px 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px 12px; }
.figures.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.figures figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; font-family: var(--font); overflow: visible; }
figure svg * { stroke-linejoin: round; }
figure.narrow svg { max-width: 760px; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 13.5px; line-height: 1.5; margin-top: 10px; }
figcaption b { color: var(--ink); font-weight: 620; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 14px 0; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 560; font-size: 13.5px; }
td.n, th.n { text-align: right; }
code, pre { font-family: var(--mono); font-size: 13px; }
td code { overflow-wrap: anywhere; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 14px; overflow-x: auto; line-height: 1.5;
  margin: 8px 0; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
details { border: 1px solid var(--line); border-radius: 10px; background: var(--card); margin: 10px 0;
  padding: 0 16px; }
summary { cursor: pointer; padding: 10px 0; font-weight: 560; }
.note { border-left: 3px solid var(--accent); background: var(--wash); border-radius: 0 8px 8px 0;
  padding: 10px 16px; margin: 16px 0; max-width: none; }
.note.warn { border-color: var(--warn-line); background: var(--warn); }
footer { max-width: 1080px; margin: 70px auto 40px; padding: 16px 28px 0; color: var(--soft); font-size: 13.5px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 6px 0 0; }
@media print { body { background: #fff; } figure, details, .tile { break-inside: avoid; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header><div>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<nav>{contents}</nav>
</div></header>
<main>
{sections}
</main>
<footer>{footer}</footer>
</body>
</html>
"""


def page(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page; empty sections are left out. ``title``, ``lead`` and ``footer`` are plain text."""
    shown = [section for section in sections if section.body]
    return TEMPLATE.format(
        title=text(title),
        lead=text(lead),
        css=CSS,
        contents="".join(f'<a href="#{s.anchor}">{text(s.title)}</a>' for s in shown),
        sections="\n".join(f'<section id="{s.anchor}">\n<h2>{text(s.title)}</h2>\n{s.body}\n</section>' for s in shown),
        footer=text(footer),
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


def figure(svg: str, title: str, caption: str, narrow: bool = False) -> str:
    """A figure with its title and caption."""
    kind = ' class="narrow"' if narrow else ""
    return f"<figure{kind}>{svg}<figcaption><b>{text(title)}</b> {text(caption)}</figcaption></figure>"


def figures(items: Iterable[str], small: bool = False) -> str:
    """Figures side by side where the window is wide enough: two, or three when they are small."""
    return f'<div class="figures{" small" if small else ""}">{"".join(items)}</div>'


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


def folded(summary: str, content: str, wrap: bool = False) -> str:
    """Preformatted text that opens on a click."""
    kind = ' class="wrap"' if wrap else ""
    return f"<details><summary>{text(summary)}</summary><pre{kind}>{text(content)}</pre></details>"
