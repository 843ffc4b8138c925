"""A finding of ``check``: the file, what is wrong with it, and what to do about it.

The checks that a training does at its start (`desd_components.scans.check`) speak in lines ``file: what: remedy``; they
are taken apart here, so that a table and a JSON can hold them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

FAULT, REMARK = "fault", "remark"


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        file: what it is about; a folder or data list where it is about all files.
        what: is wrong or remarkable.
        remedy: what to do.
        kind: one word or two, by which findings are counted.
        severity: "fault": a training would fail or learn from wrong data; "remark": good to know.
    """

    file: str
    what: str
    remedy: str
    kind: str
    severity: str = FAULT


def from_line(line: str, files: Sequence[str], kind: str) -> Finding:
    """A line of `desd_components.scans.check` about one of ``files`` as a finding.

    The remedy begins at the first colon outside of brackets, for what stands in them may hold colons of its own.
    """
    file = next((file for file in files if line.startswith(f"{file}: ")), files[0])
    text = line.removeprefix(f"{file}: ")
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and text.startswith(": ", place):
            return Finding(file, text[:place], text[place + 2 :], kind)
    return Finding(file, text, "see there", kind)
