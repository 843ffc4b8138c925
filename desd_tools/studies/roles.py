"""Where the bundles lie, and which scans pre-train, train, validate and test, for the tools that run whole studies.

Where from: ours. A folder's own ``splits.json`` is followed; one without gets a split that is written to the output
folder, never among the scans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from desd_components.base.errors import UserError
from desd_components.scans.find import require_scans, scan_paths
from desd_components.scans.labelled import LabelledData, find_labelled
from desd_components.scans.names import scan_files

from ..places import ROOT

BUNDLES = ("desd_pretrain", "desd_seg_finetune")
SPLIT_NAME = "splits.json"
END_BYTES = 65_536  # of a file's head and tail that enter its hash


def bundles_folder(bundles: str) -> Path:
    """The folder of the two bundles; by default that of the repository.

    Raises:
        UserError: when one of them is not there.
    """
    folder = Path(bundles).resolve() if bundles else ROOT / "bundles"
    for name in BUNDLES:
        if not (folder / name / "configs" / "train.yaml").is_file():
            raise UserError(
                f"{folder / name}: no bundle is there. Run from the repository, or name the folder: --bundles."
            )
    return folder


def split_file(data: Path, output: Path) -> Path:
    """Where the split is: in the folder of scans where it brings one, else in the output folder."""
    own = data / SPLIT_NAME
    return own if own.is_file() else output / SPLIT_NAME


def ensure_split(data: Path, split: Path, **reading: Any) -> None:
    """Write a split where there is none: blocks of neighbours, 60 % train, 15 % validation, 25 % test.

    Blocks of neighbours in the order of their names, for neighbours may be one patient.

    Args:
        data: labelled scans.
        split: the file.
        reading: how the folder is read, for `find_labelled`: class_names, in_channels.

    Raises:
        UserError: when the scans are too few for three sections.
    """
    if split.is_file():
        return
    labelled = find_labelled(data, val_fraction=0.0, **reading)
    require_scans(data, labelled.training)
    names = sorted(labelled.case_names.id(scan) for scan in labelled.training)
    first, second = (int(share * len(names) + 0.5) for share in (0.6, 0.75))  # halves upwards, so that 6 are enough
    if min(first, second - first, len(names) - second) < 1:
        raise UserError(f"{data}: {len(names)} labelled scans are too few to train, validate and test. Bring 6.")
    content = {"train": names[:first], "validation": names[first:second], "test": names[second:]}
    split.write_text(json.dumps(content, indent=1))


def labelled_scans(data: Path, split: Path, **reading: Any) -> LabelledData:
    """The scans of a folder as `split` says who trains, validates and tests.

    Args:
        data: labelled scans.
        split: the file.
        reading: further arguments of `find_labelled`.

    Raises:
        UserError: when nothing is there to train on.
    """
    labelled = find_labelled(data, data_split=split, **reading)
    require_scans(data, labelled.training)
    return labelled


def pretraining_images(data: Path, sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Any]:
    """What pre-training sees: the images of train and validation and whatever lies in imagesTs; never those of test."""
    images = [scan["image"] for name in ("train", "validation") for scan in sections.get(name, ())]
    unlabelled = data / "imagesTs"
    if unlabelled.is_dir():
        tested = {str(scan["image"]) for scan in sections.get("test", ())}
        found = [str(path) for path in scan_paths(unlabelled)]
        images += [image for image in found if image not in tested]
    return images


def write_scan_list(path: Path, images: Sequence[Any]) -> None:
    """A data list of images for pre-training; a file that says the same is left as it is."""
    write_if_new(path, json.dumps({"training": [{"image": image} for image in images]}, indent=1))


def write_if_new(path: Path, content: str) -> None:
    """Write, unless the file says it already, so that its date tells when it changed."""
    if not path.is_file() or path.read_text() != content:
        path.write_text(content)


def scans_hash(images: Sequence[Any], sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """SHA-256 over who does what, and over each file's name, size, beginning and end.

    The end of a ``.gz`` holds the checksum of its whole content, so that a changed scan is noticed without reading all
    of it. Neither the folder's place nor the files' dates enter: a copy has the same hash.
    """
    parts = {**sections, "pretraining": [{"image": image} for image in images]}
    lines = [
        [name, *(_stamp(Path(file)) for file in scan_files(dict(scan)))]
        for name, scans in sorted(parts.items())
        for scan in scans
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _stamp(file: Path) -> list[Any]:
    size = file.stat().st_size
    with open(file, "rb") as content:
        head = content.read(END_BYTES)
        content.seek(max(0, size - END_BYTES))
        tail = content.read()
    return [file.name, size, hashlib.sha256(head + tail).hexdigest()[:16]]
