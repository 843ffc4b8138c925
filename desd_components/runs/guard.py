"""One bad scan among good ones: a run over people's scans, of which each that fails is noted, and the rest goes on."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset, MetaTensor

from ..base.classes import Regions, class_members, label_count
from ..base.errors import UserError, chain_of, innermost_user_error
from ..base.files import is_full, write_json
from ..scans.check import header_problem
from ..scans.loading import loader_fault
from ..scans.names import CaseNames, Scan, scan_files
from ..scans.volume import voxel_size, voxel_size_of

logger = logging.getLogger(__name__)


class ScanDataset(Dataset):
    """Scans for a network; one that cannot be read becomes a sample {"image": path, "error": why} instead of an end.

    Args:
        data: scans {"image": path or [path per channel]}.
        transform: the preprocessing.
        in_channels: channels that the network expects.
        strict: raise the error instead, for those who need every scan.

    Raises:
        UserError: when `strict`, for a scan that cannot be read.
    """

    def __init__(self, data: Sequence[Scan], transform: Callable, in_channels: int = 1, strict: bool = False) -> None:
        super().__init__(data, transform)
        self.in_channels, self.strict = in_channels, strict

    def __getitem__(self, index: Any) -> Any:
        """The preprocessed sample, or its error."""
        scan = self.data[index]
        try:
            sample = super().__getitem__(index)
            self._check(sample["image"], scan)
            return sample
        except Exception as error:
            name = scan_files(scan, ("image",))[0]
            why = header_problem(scan, self.in_channels) or _one_line(error)
            if self.strict:
                raise UserError(why if any(file in why for file in scan_files(scan)) else f"{name}: {why}") from error
            return {"image": name, "error": why}

    def _check(self, image: torch.Tensor, scan: Scan) -> None:
        name = scan_files(scan, ("image",))[0]
        if image.shape[0] != self.in_channels:
            raise UserError(f"{name}: {image.shape[0]} channels, but the model was trained on {self.in_channels}.")
        if not torch.isfinite(image).all():
            raise UserError(f"{name}: holds NaN or infinite voxels. Repair the file or leave it out.")


def _one_line(error: BaseException) -> str:
    if refused := innermost_user_error(error):
        return str(refused)
    *_, cause = chain_of(error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


class SkipBadScans:
    """An evaluator's `iteration_update` and handler: a scan that fails is noted, and the rest goes on.

    At the end a table is logged, and a JSON file lists {"segmented": [...], "failed": [{"image", "error"}], "readers":
    {image: format}, "warnings": {image: how it had to be read}, "scans": [...]}, the last as `scan_facts` has it, with
    the seconds that each took. The process ends with exit code 0 when at least one scan was segmented, and with 1 when
    none was.

    Args:
        report: the JSON file.
        class_names: of the classes, the background first; none where no label maps are made.
        regions: the label values that each class but the background covers; a bool: its own alone.

    Raises:
        UserError: at the end, when every scan failed.
    """

    def __init__(self, report: str | Path, class_names: Sequence[str] = (), regions: Regions = False) -> None:
        self.report, self.class_names, self.regions = Path(report), list(class_names), regions
        self.scans: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self.readers: dict[str, str] = {}
        self.warnings: dict[str, str] = {}

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> Any:
        """One iteration, guarded: forward, inverse, decoding and writing all take place in it."""
        if "error" in batch:
            self._note(batch["image"][0], batch["error"][0])
            return None
        image = batch["image"]
        path, start = _of_one(image, "filename_or_obj") or "a scan", time.monotonic()
        self.readers[path] = _of_one(image, "reader")
        if reading := _of_one(image, "warnings"):
            self.warnings[path] = reading
            logger.warning("%s: %s", path, reading)
        try:
            output = engine._iteration(engine, batch)
            facts = scan_facts(path, image, engine.state.output, self.class_names, self.regions)
        except Exception as error:
            if loader_fault(error) or is_full(error):  # it says nothing about this scan, nor will the next fare better
                raise
            logger.debug("the whole trace of %s", path, exc_info=True)
            self._note(path, _one_line(error))
            return None
        for warning in facts["warnings"]:
            logger.warning("%s: %s", path, warning)
        told = [*([reading] if reading else []), *facts["warnings"]]
        self.scans.append(facts | {"warnings": told, "seconds": round(time.monotonic() - start, 2)})
        logger.info("%s: done", path)
        return output

    def attach(self, engine: Engine) -> None:
        """Write the report when `engine` has finished."""
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def finish(self, engine: Engine) -> None:
        """Write the report and say how it went."""
        done = [scan["image"] for scan in self.scans]
        told = {"scans": self.scans, "readers": self.readers, "warnings": self.warnings}
        write_json(self.report, {"segmented": done, "failed": self.failed, **told})
        logger.info("\n".join(self._table(done)))
        logger.info("%d scans done, %d failed: %s", len(done), len(self.failed), self.report)
        if self.failed and not done:
            first = self.failed[0]
            raise UserError(f"None of {len(self.failed)} scans could be used. The first: {first['error']}")

    def _table(self, done: Sequence[str]) -> list[str]:
        """``scan | read as | result``, a row for each scan."""
        results = {path: self.warnings.get(path, "done") for path in done}
        results |= {failed["image"]: failed["error"].removeprefix(f"{failed['image']}: ") for failed in self.failed}
        names = CaseNames({"image": path} for path in results)
        rows = [(names.file(path), self.readers.get(path) or "-", result) for path, result in results.items()]
        width = max([len(name) for name, _, _ in rows], default=0)
        return ["scan | read as | result", *(f"{name:<{width}} | {kind:<9} | {what}" for name, kind, what in rows)]

    def _note(self, path: str, why: str) -> None:
        self.failed.append({"image": path, "error": why})
        logger.error("%s could not be used: %s", path, why)


def _of_one(image: Any, key: str) -> str:
    """A text from the metadata of a batch of one scan, empty where there is none."""
    value = image.meta.get(key, "") if isinstance(image, MetaTensor) else ""
    return str(value[0] if isinstance(value, list | tuple) else value)


def scan_facts(
    path: str, image: torch.Tensor, output: Any, class_names: Sequence[str], regions: Regions = False
) -> dict[str, Any]:
    """What there is to say of a scan and of the label map that was made of it.

    Args:
        path: its file.
        image: the batch (1, C, X, Y, Z) that the network saw.
        output: of the engine: a decollated [{"pred": (1, X, Y, Z)}] on the scan's own grid, or anything without labels.
        class_names, regions: as of `SkipBadScans`.

    Returns:
        "image"; "shape" and "spacing_mm" of the scan as stored; "volumes_ml" of each class; "warnings", in words.
    """
    is_flat = bool(image.amin() == image.amax())  # a blank scan, or one that lies outside of the model's window
    told = ["every voxel has the same value once preprocessed: there is nothing to see"] if is_flat else []
    facts: dict[str, Any] = {"image": path, **_stored_grid(image), "volumes_ml": {}, "warnings": told}
    if not class_names or not isinstance(output, list):
        return facts
    labels = output[0]["pred"]
    values = label_count(class_names, regions)
    planes = np.asarray(labels[0].cpu())  # one by one: numbers to count take 8 bytes
    counts = np.sum([np.bincount(plane.round().astype(int).ravel(), minlength=values) for plane in planes], axis=0)
    ml = float(np.prod(voxel_size(labels))) / 1000
    named = list(zip(class_names, class_members(len(class_names), regions), strict=True))[1:]
    facts["volumes_ml"] = {name: round(int(counts[members].sum()) * ml, 3) for name, members in named}
    if not counts[1:].any():
        facts["warnings"].append("nothing was found: every voxel is background")
    elif sides := _cut_off(labels[0]):
        facts["warnings"].append(f"what was found reaches the border of the scan along {sides}: it may be cut off")
    return facts


def _stored_grid(image: torch.Tensor) -> dict[str, list]:
    """Shape (voxels) and spacing (mm) of the file behind a preprocessed batch."""
    meta = image.meta if isinstance(image, MetaTensor) else {}
    shape = np.asarray(meta.get("spatial_shape", image.shape[2:])).reshape(-1)[:3]
    affine = np.asarray(meta.get("original_affine", np.eye(4)), dtype=float).reshape(-1, 4, 4)[0]
    return {"shape": [int(n) for n in shape], "spacing_mm": [round(float(s), 4) for s in voxel_size_of(affine)]}


def _cut_off(labels: torch.Tensor) -> str:
    """The axes at whose ends a label map (X, Y, Z) is not all background, as words."""
    found = labels > 0
    ends = {name: found.select(axis, 0).any() | found.select(axis, -1).any() for axis, name in enumerate("xyz")}
    return ", ".join(name for name, cut in ends.items() if cut)
