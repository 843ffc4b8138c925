"""JSON lists of scans, and the Decathlon's ``dataset.json``, which is one.

Lists have MONAI's form: sections ``training``, ``validation``, ``test``; paths relative to the list's folder. Differs
from ``monai.data.load_decathlon_datalist``: all sections are read at once, a test section may hold plain strings or
dictionaries, and a path may not lead out of the folder unless it says so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError
from .records import Record

SECTION_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors put a mark in front
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}): mend the file or give another one.") from error


def entry_record(entry: Any, base: Path, source: Path, within: bool = False) -> Record:
    """One entry of a data list (a path, or a dictionary with ``image`` and perhaps ``label``) with absolute paths.

    Args:
        entry: as the list has it.
        base: what its paths are relative to.
        source: the list.
        within: refuse absolute paths that lead out of `base`, too; a relative one may never.

    Raises:
        UserError: when the entry has no image, or a path leads out of `base`.
    """
    fields = entry if isinstance(entry, dict) else {"image": entry}
    image, label = fields.get("image"), fields.get("label")
    parts = image if isinstance(image, list) else [image]
    if not image or not all(isinstance(part, str) for part in parts) or not isinstance(label, str | None):
        raise UserError(
            f'{source}: the entry {json.dumps(entry)[:120]} is not of the form {{"image": path or [path per channel], '
            '"label": path}: mend it.'
        )
    # Links are not followed: stores such as git-annex keep a scan under a name that is none.
    files = [_placed(file, base, source, within) for file in parts]
    record: Record = {"image": files if isinstance(image, list) and len(files) > 1 else files[0]}
    if label:
        record["label"] = _placed(label, base, source, within)
    return record


def _placed(file: Any, base: Path, source: Path, within: bool) -> str:
    """The absolute path of a file that a list names.

    Raises:
        UserError: when it leads where the list may not lead.
    """
    path = Path(os.path.abspath(base / str(file)))
    if path.is_relative_to(os.path.abspath(base)) or (os.path.isabs(str(file)) and not within):
        return str(path)
    remedy = "A dataset.json names files of its own folder" if within else "Write an absolute path if you mean it"
    raise UserError(f"{source}: {str(file)!r} leads out of {base}. {remedy}.")


def data_list_sections(path: Path, base_dir: str | Path | None = None, within: bool = False) -> dict[str, list[Record]]:
    """The records of a data list by section: ``train``, ``validation``, ``test``; paths are absolute, not looked up.

    A list that somebody names may name files anywhere, by absolute paths; one that comes with a folder (`within`) only
    files of that folder: a downloaded data set has no business elsewhere.
    """
    content = read_json(path)
    base = Path(base_dir).expanduser() if base_dir else path.parent
    sections: dict[str, list[Record]] = {}
    if isinstance(content, dict):
        for name, entries in content.items():
            section = SECTION_NAMES.get(name)
            if section and isinstance(entries, list):
                sections.setdefault(section, []).extend(entry_record(entry, base, path, within) for entry in entries)
    if not any(sections.values()):
        raise UserError(
            f'{path}: has no list of scans: write {{"training": [{{"image": "a.nii.gz", "label": "a_seg.nii.gz"}}], '
            '"validation": [...]}, with paths relative to the file.'
        )
    return sections


def is_decathlon(folder: Path) -> bool:
    """Whether the folder's ``dataset.json`` lists the scans (nnU-Net's files of that name do not)."""
    path = folder / "dataset.json"
    if not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and any(
        isinstance(content.get(name), list) and content[name] for name in SECTION_NAMES
    )
