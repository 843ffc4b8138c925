"""What a plan needs to know of a folder: the grid of every scan, by its header; values and labels of a sample.

Ours. `monai.apps.auto3dseg.DataAnalyzer` and nnU-Net's fingerprint read every voxel of every case, minutes for a
thousand scans; quantiles over cases are as good from two dozen of them.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import UserError
from ...base.files import read_json, require_writable, write_json
from ...base.processes import from_first
from ..check import threaded
from ..fingerprint import file_states
from ..label_maps import looks_like_labels
from ..labelled import said_of_data
from ..names import Scan, is_dicom, scan_files
from ..read import file_problem, open_volume, parts

logger = logging.getLogger(__name__)

FORMAT = 3  # of a survey on disk
SAMPLE = 24  # scans whose voxels are read
SAMPLED_VOXELS = 200_000  # of a volume, for its percentiles
PERCENTILES = (0.5, 50.0, 99.5)
Box = tuple[int, int, int]  # voxels along right, anterior, superior
ClassFacts = tuple[dict[int, Box], dict[int, float]]
AIR = -300.0  # HU below which only air, lung and bowel gas lie


@dataclass(frozen=True)
class Values:
    """Of an image's first channel: the extremes, `PERCENTILES`, and the shares of voxels below -50 and below `AIR`."""

    low: float
    high: float
    percentiles: tuple[float, float, float]
    below_zero: float
    air: float


@dataclass(frozen=True)
class Surveyed:
    """A scan. Sizes are along right, anterior, superior.

    Attributes:
        file: of the image, or of its first channel.
        shape: voxels.
        spacing: mm.
        values: of a sampled image.
        boxes: of a sampled label: voxels along each axis of what is not background, under 0, and of each class.
        pieces: share of each class that its largest connected piece holds, likewise.
    """

    file: str
    shape: Box
    spacing: tuple[float, float, float]
    values: Values | None = None
    boxes: dict[int, Box] = field(default_factory=dict)
    pieces: dict[int, float] = field(default_factory=dict)

    @property
    def extent(self) -> np.ndarray:
        """Of the volume, (3,) in mm."""
        return np.array(self.shape) * np.array(self.spacing)


@dataclass(frozen=True)
class Survey:
    """Of the scans that can be read, and what the data say themselves of how they were made.

    Attributes:
        scans: in their order.
        modality: as ``dataset.json`` or DICOM has it, such as "CT" or "MRI"; None where nothing says it.
    """

    scans: list[Surveyed]
    modality: str | None = None


def survey(
    scans: Sequence[Scan],
    dataset_dir: str | Path,
    cache_dir: str | Path,
    num_workers: int = 2,
    ignore: int | None = None,
) -> Survey:
    """Look at scans once; the result is kept in `cache_dir`, by path, size and time of the files.

    In a process group the first process looks, and tells the others.

    Args:
        scans: ``{"image": path or [path per channel][, "label": path]}``; what cannot be read is left out, for the
            checks of a run tell it.
        dataset_dir: where they come from, whose ``dataset.json`` may say the modality.
        cache_dir: where the survey is kept.
        num_workers: threads.
        ignore: the label value of voxels that were not annotated.
    """
    records = from_first(lambda: _surveyed_once(scans, cache_dir, num_workers, ignore))
    return Survey([_from_record(record) for record in records], declared_modality(dataset_dir, scans))


def declared_modality(dataset_dir: str | Path, scans: Sequence[Scan] = ()) -> str | None:
    """The modality of the first channel: by ``modality`` or ``channel_names`` of a data list, or by DICOM; or None."""
    _, content = said_of_data(Path(dataset_dir))
    for key in ("modality", "channel_names"):
        named = content.get(key)
        first = named.get("0") if isinstance(named, dict) else named
        if isinstance(first, str) and first:
            return first
    first = scan_files(scans[0])[0] if scans else ""
    file = parts(first)[0] if os.path.exists(first) else ""
    if not is_dicom(file):
        return None
    import pydicom

    found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    return str(found) if found else None


def _surveyed_once(
    scans: Sequence[Scan], cache_dir: str | Path, num_workers: int, ignore: int | None
) -> list[dict[str, Any]]:
    states = [[scan_files(scan), file_states(scan)] for scan in scans]
    key = hashlib.sha256(json.dumps([FORMAT, SAMPLE, ignore, states]).encode()).hexdigest()[:24]
    path = Path(cache_dir).expanduser() / "surveys" / f"{key}.json"
    if path.is_file():
        return read_json(path)
    chosen = set(np.linspace(0, len(scans) - 1, min(SAMPLE, len(scans))).round().astype(int).tolist())
    tasks = [(scan, position in chosen, ignore) for position, scan in enumerate(scans)]
    seen = [scan for scan in threaded(lambda task: _look(*task), tasks, num_workers) if scan is not None]
    records = [asdict(scan) for scan in seen]
    require_writable(path.parent, "cache_dir")
    write_json(path, records)
    logger.info("surveyed %d scans, the voxels of %d", len(seen), sum(scan.values is not None for scan in seen))
    return records


def _look(scan: Scan, voxels: bool, ignore: int | None) -> Surveyed | None:
    image, labels = scan_files(scan, ("image",))[0], scan_files(scan, ("label",))
    try:
        volume = open_volume(image)
        if len(volume.shape) < 3:
            return None
        seen = Surveyed(image, volume.ras_shape, volume.ras_spacing)
        if not voxels:
            return seen
        image_voxels = volume.read()
        values = values_of(image_voxels)
        if not math.isfinite(values.high - values.low) or (not labels and looks_like_labels(image_voxels)):
            return None
        if not labels or file_problem(labels[0]):
            return replace(seen, values=values)
        label = open_volume(labels[0])
        boxes, pieces = class_facts(label.read(), label.ras_order, ignore)
        return replace(seen, values=values, boxes=boxes, pieces=pieces)
    except UserError:
        return None


def values_of(voxels: np.ndarray) -> Values:
    """Facts of the values of an image, (X, Y, Z) or (X, Y, Z, C), by a sample of its voxels."""
    first = voxels[..., 0] if voxels.ndim == 4 else voxels
    sample = first.ravel(order="K")[:: max(1, first.size // SAMPLED_VOXELS)].astype(np.float64)
    low, middle, high = (float(value) for value in np.percentile(sample, PERCENTILES))
    shares = float((sample < -50).mean()), float((sample < AIR).mean())
    return Values(float(first.min()), float(first.max()), (low, middle, high), *shares)


def class_facts(voxels: np.ndarray, order: Sequence[int], ignore: int | None = None) -> ClassFacts:
    """`boxes` and `pieces` of a label (X, Y, Z), its axes turned to `order`; empty without a class."""
    from scipy import ndimage

    labels = np.rint(voxels[..., 0] if voxels.ndim == 4 else voxels).astype(np.int32).transpose(order)
    labels = labels if ignore is None else np.where(labels == ignore, 0, labels)
    if labels.min() < 0 or not labels.any():
        return {}, {}
    found = {value: box for value, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}
    boxes = {0: _box_size(ndimage.find_objects((labels > 0).view(np.int8))[0])}
    boxes |= {value: _box_size(box) for value, box in found.items()}
    pieces = {value: np.bincount(ndimage.label(labels[box] == value)[0].ravel())[1:] for value, box in found.items()}
    return boxes, {value: float(sizes.max() / sizes.sum()) for value, sizes in pieces.items()}


def _box_size(box: Sequence[slice]) -> Box:
    x, y, z = (side.stop - side.start for side in box)
    return x, y, z


def _from_record(record: dict[str, Any]) -> Surveyed:
    values = record["values"]
    boxes = {int(value): tuple(box) for value, box in record["boxes"].items()}
    pieces = {int(value): share for value, share in record["pieces"].items()}
    known = None if values is None else Values(**{**values, "percentiles": tuple(values["percentiles"])})
    return Surveyed(record["file"], tuple(record["shape"]), tuple(record["spacing"]), known, boxes, pieces)
