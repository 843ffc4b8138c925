"""The soak's results as a Markdown table, from the JUnit file that pytest writes.

A soak test tells what it saw with `record_property`: ``fault`` (what was done to the run), ``tried``, ``survived`` and
``seen``; tests without them are counted below the table. ``python tests/helpers/soak_table.py OUT.md IN.xml``
"""

import sys
import xml.etree.ElementTree as Xml
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("fault", "tried", "survived", "seen")


def cases(path: Path) -> Iterator[dict[str, Any]]:
    """What each test told, with its day, its seconds and whether it passed, failed or was skipped."""
    for suite in Xml.parse(path).getroot().iter("testsuite"):
        for case in suite.iter("testcase"):
            told = {item.get("name"): item.get("value") for item in case.iter("property")}
            bad = case.find("failure") is not None or case.find("error") is not None
            outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
            day, seconds = suite.get("timestamp", "")[:10], float(case.get("time", 0))
            yield {**told, "outcome": outcome, "day": day, "seconds": seconds}


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table, and a line on what has no row in it."""
    rows = [case for case in results if "fault" in case]
    lines = ["| what was done | tried | survived | seen |", "|---|---:|---:|---|"]
    for case in rows:
        cells = [case.get(column, "–") for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)}{'' if case['outcome'] == 'passed' else ' **failed**'} |")
    rest = [case["outcome"] for case in results if "fault" not in case]
    days = sorted({case["day"] for case in results})
    counts = ", ".join(f"{rest.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))
    minutes = sum(case["seconds"] for case in results) / 60
    lines += ["", f"Soak tests without a row here: {counts}. {minutes:.0f} minutes in all, {' and '.join(days)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(list(cases(Path(sys.argv[2])))))
