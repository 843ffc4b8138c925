"""The pages' HTML: one template, and the parts of sections, as Jinja2 macros in ``templates/``.

A page stands alone: no server, no scripts, fonts or pictures from elsewhere. Light and dark follow the reader's system;
figures use the same CSS variables. A content security policy in the page itself forbids the browser any request, and
any script but ``page.js``, which sorts and filters tables, leafs through slices and tells the values of curves.
Whatever is handed to a template is text, and escaped.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).with_name("templates")
_SCRIPTED = ('class="sortable"', 'class="stack"', "data-curves=")  # what ``page.js`` serves


@dataclass
class Section:
    """A heading, and parts made by the macros of `html`; one without parts is left out of a page."""

    title: str
    parts: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The heading in lower case with hyphens, for the table of contents."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def _short(value: object) -> str:
    """A number for people: 0.123, 12.3, 1234; a dash for none."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


_environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
_environment.trim_blocks = _environment.lstrip_blocks = True
_environment.filters |= {"short": _short, "base64": lambda content: base64.b64encode(content).decode()}
#: the macros of ``parts.html``, such as `html.table`
html: Any = _environment.get_template("parts.html").module


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; empty sections are left out."""
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    shown = [section for section in sections if section.parts]
    return _environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=shown,
        scripted=any(mark in part for mark in _SCRIPTED for section in shown for part in section.parts),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    )
