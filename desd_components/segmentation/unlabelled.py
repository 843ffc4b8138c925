"""Unlabelled scans beside labelled ones: which there are, and whether they are of the same kind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..scans.fingerprint import image_content
from ..scans.labelled import LabelledData
from ..scans.lists import find_scans
from ..scans.names import Scan, first_names, scan_files
from ..scans.planning.intensity import looks_like_ct, no_hu
from ..scans.planning.oddities import FOREIGN
from ..scans.planning.survey import Surveyed, survey

logger = logging.getLogger(__name__)


def find_unlabelled(
    data: LabelledData, unlabelled_dir: str | Path | None, cache_dir: str | Path, in_channels: int = 1
) -> list[Scan]:
    """Scans ``{"image": ...}`` to learn from without labels; those that `data` trains on are left out, and counted.

    Args:
        data: the labelled scans, and the unlabelled ones that were found with them.
        unlabelled_dir: whatever `find_scans` takes; None takes the unlabelled scans of `data`.
        cache_dir: where surveys are kept.
        in_channels: channels of an image.

    Raises:
        UserError: when there is none, when one is a validation or test case, or when they are of another modality.
    """
    if not data.training:  # nothing was found at all, which is told elsewhere
        return []
    if unlabelled_dir is not None and not Path(unlabelled_dir).expanduser().exists():
        raise UserError(f"unlabelled_dir {str(unlabelled_dir)!r} does not exist: give a folder of scans.")
    found = data.unlabelled if unlabelled_dir is None else find_scans(unlabelled_dir, in_channels)
    scans = _neither_judged_nor_labelled(found, data)
    if not scans:
        where = "dataset_dir holds none, and num_labels leaves none out" if unlabelled_dir is None else unlabelled_dir
        raise UserError(
            f"there is no unlabelled scan to learn from ({where}): give a folder of them with `--unlabelled_dir DIR`, "
            "or train without self_train.yaml."
        )
    _compare(data.training, scans, cache_dir)
    logger.info("%d unlabelled scans beside %d labelled ones", len(scans), len(data.training))
    return scans


def _neither_judged_nor_labelled(found: Sequence[Scan], data: LabelledData) -> list[Scan]:
    """The scans that are no copies of labelled ones, whatever their names.

    Raises:
        UserError: naming those that are copies of validation or test cases.
    """
    judged = {image_content(scan) for scan in (*data.validation, *data.test)}
    trained = {image_content(scan) for scan in data.training}
    known = [(scan, image_content(scan)) for scan in found]
    if seen := [scan_files(scan)[0] for scan, content in known if content in judged]:
        raise UserError(
            f"{first_names(seen)}: {len(seen)} of {len(found)} unlabelled scans are validation or test cases, which no "
            "training may see: take them out of that folder, or say with --data_split which scans validate and test."
        )
    scans = [scan for scan, content in known if content not in trained]
    if len(scans) < len(found):
        logger.info("%d of %d unlabelled scans are labelled ones, and left out", len(found) - len(scans), len(found))
    return scans


def _compare(labelled: Sequence[Scan], unlabelled: Sequence[Scan], cache_dir: str | Path) -> None:
    """Warn of spacings that no labelled scan comes near to.

    Raises:
        UserError: when unlabelled scans are of another modality than all labelled ones.
    """
    # the data's own word for the modality is not asked for: each sort is looked at by its values
    known, others = (
        survey([{"image": s["image"]} for s in part], "", cache_dir).scans for part in (labelled, unlabelled)
    )
    for is_one, name, other in ((_is_ct, "CT", _is_no_ct), (_is_no_ct, "no CT in Hounsfield units", _is_ct)):
        odd = [scan for scan in others if is_one(scan)]
        if odd and any(map(other, known)) and not any(map(is_one, known)):
            raise UserError(
                f"{first_names(scan.file for scan in odd)}: unlabelled scans that are {name}, unlike the labelled: "
                "take them out of the unlabelled folder."
            )
    usual = np.median([scan.spacing for scan in known], axis=0) if known else np.ones(3)
    far = [s for s in others if np.maximum(s.spacing / usual, usual / s.spacing).max() > FOREIGN]
    if far:
        first, own = (" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (far[0].spacing, usual))
        logger.warning(
            "foreign spacing: %d of %d unlabelled scans, the first of %s mm where labelled ones have %s mm: %s. The "
            "teacher has seen nothing like them; better leave them out.",
            len(far), len(others), first, own, first_names(scan.file for scan in far),
        )  # fmt: skip


def _is_ct(scan: Surveyed) -> bool:
    return scan.values is not None and looks_like_ct(scan.values)


def _is_no_ct(scan: Surveyed) -> bool:
    reason = None if scan.values is None else no_hu(scan.values)
    return reason is not None and reason.certain
