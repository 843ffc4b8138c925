"""The look of the pages: one style sheet, light and dark by the reader's system, and the script that sorts tables."""

from __future__ import annotations

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
main, header > div { max-width: 1080px; margin: 0 auto; padding: 0 clamp(16px, 4vw, 28px); }
header { border-bottom: 1px solid var(--line); background: var(--card);
  padding: clamp(26px, 5vw, 44px) 0 clamp(20px, 4vw, 30px); }
h1 { font-size: clamp(24px, 5vw, 31px); overflow-wrap: anywhere; line-height: 1.2;
  letter-spacing: -0.015em; margin: 0 0 10px; font-weight: 650; }
h2 { font-size: 22px; letter-spacing: -0.01em; margin: 58px 0 8px; font-weight: 650; }
h3 { font-size: 16px; margin: 28px 0 8px; font-weight: 620; }
p { max-width: 74ch; margin: 8px 0; }
.lead { font-size: clamp(16px, 2.6vw, 18px); color: var(--soft); margin: 0; overflow-wrap: anywhere; }
nav { margin-top: 18px; font-size: 14px; display: flex; flex-wrap: wrap; gap: 4px 20px; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
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
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #000; }
figure.narrow svg { max-width: 760px; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 13.5px; line-height: 1.5; margin-top: 10px; }
figcaption b { color: var(--ink); font-weight: 620; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 14px 0; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 560; font-size: 13.5px; }
td.n, th.n { text-align: right; }
th button { all: unset; cursor: pointer; color: inherit; font: inherit; }
th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: "\\2195"; opacity: 0.45; margin-left: 5px; font-size: 12px; }
th[aria-sort="ascending"] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\\2193"; opacity: 1; }
.tall { max-height: 560px; overflow: auto; }
.tall th { position: sticky; top: 0; background: var(--paper); box-shadow: 0 1px 0 var(--line); }
.runs { display: grid; gap: 14px; margin: 18px 0; }
.run { display: grid; grid-template-columns: 250px 1fr; gap: 22px; align-items: center; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.run h3 { margin: 0 0 6px; overflow-wrap: anywhere; }
.thumb { min-height: 60px; } .thumb:empty { border-radius: 6px; background: var(--wash); }
.thumb img { display: block; width: 100%; max-height: 150px; object-fit: cover; border-radius: 6px; background: #000; }
.numbers { display: flex; flex-wrap: wrap; gap: 4px 26px; font-variant-numeric: tabular-nums; }
.numbers b { font-size: 20px; font-weight: 640; display: block; line-height: 1.25; }
.numbers span { font-size: 13px; color: var(--soft); }
.settings { list-style: none; margin: 8px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 6px; }
.settings code { background: var(--wash); border-radius: 6px; padding: 2px 7px; font-size: 12px;
  overflow-wrap: anywhere; }
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
@media (max-width: 560px) { th, td { padding-right: 10px; } figure { padding: 12px 12px 10px; }
  h2 { margin-top: 44px; } .run { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } figure, details, .tile { break-inside: avoid; } }
"""
#: sorts a table by the column whose heading is clicked: numbers by value (data-v), words by letter, empty ones last
SORT = """
document.querySelectorAll("table.sortable").forEach(table => {
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => { const cell = row.cells[column]; return cell.dataset.v ?? cell.textContent; };
    const compare = (a, b) => (a === "") - (b === "") || (down ? -1 : 1) *
      (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b))).forEach(row => table.tBodies[0].append(row));
  }));
});
"""
