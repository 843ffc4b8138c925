"""What a run does about scans that it cannot use: stop, which is the default, or leave them out and say so.

With ``on_bad_volume: skip`` the scans are checked while they are preprocessed, as always; those that fail go to
``quarantine.json`` in the run's folder, each with its reason. A run that would be left with less than half of its
scans stops: then it is the data set, not a scan, that is wrong.
"""

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
from ..names import Scan, files_of, scan_files, tell_left_out
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
    folder = None if dataset_dir is None else Path(dataset_dir).expanduser()
    searched = folder is not None and folder.is_dir() and not is_decathlon(folder)
    if not scans or not (searched or on_bad_volume == "skip"):
        return list(scans)
    paths, problems = cache.attempt(scans, skip=on_bad_volume == "skip")
    if on_bad_volume == "stop":
        raise_problems(list(problems.values()), len(scans))
    else:
        _note(scans, problems, Path(output_dir) / QUARANTINE_FILE)
    good = [scan for scan, path in zip(scans, paths, strict=True) if path is not None]
    facts = [cache.facts[path]["image"] for path in paths if path is not None]
    return _without_label_maps(good, facts) if searched else good


def _without_label_maps(scans: Sequence[Scan], facts: Sequence[dict[str, Any]]) -> list[Scan]:
    """The scans but those whose voxels were, when they were read, such as a label map has; their count is said."""
    maps = [scan_files(scan)[0] for scan, known in zip(scans, facts, strict=True) if known.get("looks_like_labels")]
    if scans and len(maps) == len(scans):
        raise UserError(f"{maps[0]}: looks like a label map, as all scans do: name scans in a data list.")
    told = "look like label maps (a few whole numbers in patches, and zero) and are left out; if they are scans, name "
    tell_left_out("label maps", maps, f"of {len(scans)} scans {told}them in a data list", files_of(scans))
    return [scan for scan, known in zip(scans, facts, strict=True) if not known.get("looks_like_labels")]


def _note(scans: Sequence[Scan], problems: dict[int, str], path: Path) -> None:
    """Write the list, say the count, and stop a run that has lost more than half of its scans."""
    listed = []
    for n, line in problems.items():
        files = scan_files(scans[n])
        listed.append(
            {"file": next((file for file in files if line.startswith(f"{file}: ")), files[0]), "reason": line}
        )
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
