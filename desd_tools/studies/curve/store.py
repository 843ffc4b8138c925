"""Results of single runs, one small JSON each: under which key they count, and what is refused.

A result is kept under hashes of its settings, of the scans and of the code that made it; one that was made otherwise is
never overwritten in silence. Only another code may be accepted, for its settings are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError

from ...places import PACKAGE
from ..roles import BUNDLES

PARTS = {"settings": "settings", "data": "scans or split", "code": "code"}
Key = dict[str, str]
IDLE = "pages"  # no figure depends on them


def file_hash(path: Path) -> str:
    """16 digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def code_hash(bundles: Path, configs: Iterable[str], package: Path = PACKAGE) -> str:
    """Hash of what computes: the package but its pages, and the bundles' `configs` (no suffix)."""
    sources = [path for path in sorted(package.rglob("*.py")) if IDLE not in path.relative_to(package).parts]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    for path in (bundles / bundle / "configs" / f"{name}.yaml" for bundle in BUNDLES for name in configs):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """The JSONs of a study, ``FOLDER/NAME.json``.

    Args:
        folder: where they lie.
        accept_other_code: take results that other code made; `accepted` then names them.
    """

    def __init__(self, folder: Path, accept_other_code: bool = False) -> None:
        self.folder, self.accept_other_code = folder, accept_other_code
        self.accepted: list[str] = []

    def path(self, name: str) -> Path:
        """Where the result called `name` lies."""
        return self.folder / f"{name}.json"

    def find(self, name: str, key: Mapping[str, str], mend: bool = True) -> dict[str, Any] | None:
        """The result with this name and key; None where there is none.

        A file that is no whole JSON is said aloud; it is moved aside where `mend`, so that its run is done again.

        Raises:
            UserError: when the result was made with other settings, scans or code.
        """
        record = self._read(self.path(name), mend)
        if record is None:
            return None
        differing = [part for part in PARTS if record.get("key", {}).get(part) != key[part]]
        if differing == ["code"] and self.accept_other_code:
            self.accepted = sorted({*self.accepted, name})
            return record
        if differing:
            raise UserError(_difference(self.path(name), differing, record))
        return record

    def _read(self, path: Path, mend: bool) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and "key" in record:
                return record
        except (json.JSONDecodeError, UnicodeDecodeError):
            pass
        if mend:
            aside = _free_name(path)
            path.rename(aside)
            print(f"{path}: is no whole result, perhaps cut off; moved to {aside.name}, and the run is done again.")
        else:
            print(
                f"{path}: is no whole result, perhaps cut off; left out here. Without --report_only it is done again."
            )
        return None


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.broken{number}")).exists():
        number += 1
    return aside


def _difference(path: Path, differing: list[str], record: Mapping[str, Any]) -> str:
    words = " and ".join(PARTS[part] for part in differing)
    made = record.get("date", "an unknown date")
    if differing == ["code"]:
        return (
            f"{path}: was computed on {made} by other code (of the package or the bundles' configs). Accept such "
            "results with --accept_other_code true, which the page will say, or name another --output."
        )
    return f"{path}: was computed on {made} with other {words}. Name another --output, or remove the file yourself."
