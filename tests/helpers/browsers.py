"""A browser without a window, for tests of pages: what a page says, shows and asks for once its scripts have run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: put at the end of a copy of a page: counts what cannot be seen from outside; allowed by no policy, so it is taken out
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const pictures = [...document.images], button = document.querySelector("table.sortable th button");
  const words = () => [...document.querySelectorAll("table.sortable tbody tr")].map(row => row.cells[0].textContent);
  const before = words(); if (button) button.click(); const after = words();
  const type = (field, value) => { field.value = value; field.dispatchEvent(new Event("input")); };
  const filter = document.querySelector("input[type=search]"), slider = document.querySelector(".stack input");
  const rows = document.querySelectorAll("table.sortable tbody tr"), drawing = document.querySelector(".drawing");
  if (filter) type(filter, after[0]);
  if (slider) type(slider, slider.max);
  if (drawing) drawing.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  document.documentElement.setAttribute("data-probe", JSON.stringify({
    pictures: pictures.length, shown: pictures.filter(picture => picture.naturalWidth > 0).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).map(e => e.name),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth, before, after,
    left: [...rows].filter(row => row.checkVisibility()).map(row => row.cells[0].textContent),
    slice: slider ? [slider.max, document.querySelector(".stack img").style.transform] : [],
    height: slider ? document.querySelector(".slice").clientHeight : 0,
    told: drawing ? drawing.querySelector("p").textContent : "" }));
}, 50))</script></body>"""


def browse(page: Path, width: int = 1200) -> tuple[str, list[str]]:
    """The page as the browser has it in the end, and the messages of its console.

    Skips, saying so, where no browser is installed.
    """
    browser = next((found for found in map(shutil.which, NAMES) if found), None)
    if browser is None:
        pytest.skip(f"no browser is installed here ({', '.join(NAMES)})")
    settings = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    command = [browser, *settings, f"--window-size={width},2000", f"--user-data-dir={page.parent / 'browser'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, re.findall(r'CONSOLE[^"]*"(.*)", source', done.stderr)


def with_probe(page: Path) -> Path:
    """A copy of a page with the probe in it, and without the policy that would forbid it."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    copy = page.with_name(f"probed_{page.name}")
    copy.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    return copy
