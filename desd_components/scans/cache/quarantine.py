"""What a run does about scans that it cannot use: stop, which is the default, or leave them out and say so.

With ``on_bad_volume: skip`` the scans are checked while they are preprocessed, as always; those that fail go to
``quarantine.json`` in the run's folder, each with its reason. A run that would be left with less than half of its
scans stops: then it is the data set, not a scan, that is wrong.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...base.errors import UserError
from ...base.files import write_json
from ...base.processes import place
from ..check import raise_problems
from ..labelled import LabelledData
from ..lists import is_decathlon
from ..names import Scan, files_of, first_names, scan_files
from .cache import VolumeCache

logger = logging.getLogger(__name__)


QUARANTINE_FILE = "quarantine.json"
CHOICES = ("stop", "skip")


def usable_records(
    scans: Sequence[Scan],
    cache: VolumeCache,
    on_bad_volume: str,
    output_dir: str | Path,
    dataset_dir: str | Path | None = None,
) -> list[Scan]:
    """The scans that a run can use: with "stop" all but label maps, and bad ones are refused.

    Args:
        scans: ``{"image": ...[, "label": ...]}``.
        cache: of the run; what it makes of the good scans stays there.
        on_bad_volume: "stop" or "skip".
        output_dir: the run's folder, where "skip" writes ``quarantine.json``: a list of ``{"file", "reason"}``.
        dataset_dir: where images were searched for; what looks like a label map there is left out. A list is taken at
            its word, and so are scans from elsewhere: None.

    Raises:
        UserError: when the choice is neither, a scan is bad, or fewer than half of the scans, or none, are left.
    """
    if on_bad_volume not in CHOICES:
        raise UserError(f"on_bad_volume={on_bad_volume!r}: choose stop, or skip to leave bad scans out.")
    searched = (
        dataset_dir is not None and Path(dataset_dir).expanduser().is_dir() and not is_decathlon(Path(dataset_dir))
    )
    if not scans or not (searched or on_bad_volume == "skip"):
        return list(scans)
    paths, problems = cache.attempt(scans, skip=on_bad_volume == "skip")
    if on_bad_volume == "stop":
        raise_problems(list(problems.values()), len(scans))
    else:
        _note(scans, problems, Path(output_dir) / QUARANTINE_FILE)
    good = [(scan, cache.facts[path]) for scan, path in zip(scans, paths, strict=True) if path is not None]
    return _without_label_maps(good) if searched else [scan for scan, _ in good]


def _without_label_maps(found: Sequence[tuple[Scan, dict[str, Any]]]) -> list[Scan]:
    """The scans but those whose voxels were, when they were read, such as a label map has; their count is said."""
    maps = [scan for scan, facts in found if facts["image"].get("looks_like_labels")]
    if maps:
        told = first_names([scan_files(scan)[0] for scan in maps], files_of(scan for scan, _ in found))
        logger.warning(
            "%d of %d scans look like label maps (a few whole numbers in patches, and zero) and are left out; if they "
            "are scans, name them in a data list: %s", len(maps), len(found), told,
        )  # fmt: skip
    if len(maps) == len(found):
        raise UserError(
            f"{scan_files(maps[0])[0]}: looks like a label map, as all scans do: name scans in a data list."
        )
    left = {id(scan) for scan in maps}
    return [scan for scan, _ in found if id(scan) not in left]


def _note(scans: Sequence[Scan], problems: dict[int, str], path: Path) -> None:
    """Write the list, say the count, and stop a run that has lost more than half of its scans."""
    listed = [{"file": _blamed(line, scans[n]), "reason": line} for n, line in problems.items()]
    if place()[0] == 0:
        write_json(path, listed)
    if problems:
        told = f"{len(problems)} of {len(scans)} scans are left out (on_bad_volume: skip)"
        logger.warning("%s, as %s says; the first: %s", told, path, listed[0]["reason"])
    left = len(scans) - len(problems)
    if 2 * left < len(scans):
        raise UserError(
            f"{path}: {left} of {len(scans)} scans are left, less than half (the first reason: "
            f"{listed[0]['reason']}): mend the data; `desd check DIR` lists every fault."
        )


def _blamed(line: str, scan: Scan) -> str:
    """The file of a scan that a line is about."""
    files = scan_files(scan)
    return next((file for file in files if line.startswith(f"{file}: ")), files[0])


def usable_labelled(data: LabelledData, cache: VolumeCache, on_bad_volume: str, output_dir: str | Path) -> LabelledData:
    """The same for training and validation of labelled scans; test scans are not preprocessed by a training.

    Raises:
        UserError: when fewer than half of the scans, or none to train on, are left.
    """
    both = [*data.training, *data.validation]
    used = usable_records(both, cache, on_bad_volume, output_dir)
    good = {id(scan) for scan in used}  # the very same objects; comparing each with all others takes hours
    training, validation = ([one for one in part if id(one) in good] for part in (data.training, data.validation))
    if data.training and not training:
        raise UserError(f"{Path(output_dir) / QUARANTINE_FILE}: no scan to train on is left: mend the data.")
    return dataclasses.replace(data, training=training, validation=validation)
