"""The published PNG slices of DeepLesion become HU volumes in NIfTI, which pre-training reads.

Layout, as published: ``Images_png/<patient>_<study>_<series>/<slice>.png``, 16 bit, value - 32768 = HU, and
``DL_info.csv`` with a row for each lesion, of which the series and ``Spacing_mm_px_`` are used. Slices exist around the
key slices alone, so that a series falls into runs of consecutive ones: each run becomes a volume
``<series>_<first>-<last>.nii.gz``. Assumed, for PNG holds no place in space: rows run to posterior, columns to left,
slice numbers from head to feet; the origin is arbitrary.
"""

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from desd_components.base.errors import UserError, optional_module
from desd_components.base.files import require_writable
from desd_components.scans.check import with_bar
from desd_components.scans.volume import NOT_INSTALLED

logger = logging.getLogger(__name__)


HU_OFFSET = 32768
_SERIES = re.compile(r"\d+_\d+_\d+")
_LISTED = 10  # series that cannot be used, named in the log


@dataclass(frozen=True)
class Run:
    """Consecutive slices of a series.

    Attributes:
        files: the PNGs, by slice number.
        spacing: mm across columns, rows and slices.
        target: the volume to write.
    """

    files: tuple[Path, ...]
    spacing: tuple[float, float, float]
    target: Path


def deeplesion(data: str, output: str, min_slices: int = 4, num_workers: int = 2) -> int:
    """Turn the PNG slices of DeepLesion into HU volumes (NIfTI); exit code 0: all of them, 1: some series are bad.

    What is there already is not made again, so that the same command goes on after an interruption.

    Args:
        data: the folder that holds Images_png and DL_info.csv.
        output: where volumes go: <patient>_<study>_<series>_<first>-<last>.nii.gz.
        min_slices: shorter runs of consecutive slices are left out.
        num_workers: processes; 0 works in this one.

    Raises:
        UserError: when the layout is another one, or no volume can be made.
    """
    if min_slices < 2 or num_workers < 0:
        raise UserError(f"min_slices {min_slices} must be at least 2 and num_workers {num_workers} at least 0.")
    images, spacings = find_images(Path(data)), read_spacings(Path(data) / "DL_info.csv")
    target = require_writable(output, "output")
    runs, problems, short = plan(images, spacings, target, min_slices)
    wanted = [run for run in runs if not run.target.exists()]
    logger.info(
        "%s: %d volumes, %d of them to be made; %d shorter runs left out", images, len(runs), len(wanted), short
    )
    problems += convert(wanted, num_workers)
    for line in problems[:_LISTED]:
        logger.warning("%s", line)
    there = sum(run.target.exists() for run in runs)
    if not there:
        raise UserError(problems[0] if problems else f"{images}: no run of {min_slices} slices: lower --min-slices.")
    print(f"{there} volumes in {target}; {len(problems)} series or volumes could not be used")
    return 1 if problems else 0


def find_images(data: Path) -> Path:
    """The folder with a folder for each series.

    Raises:
        UserError: when it is not there.
    """
    images = data / "Images_png"
    if not images.is_dir():
        raise UserError(f"{data}: holds no folder Images_png: unpack the published archives there, all into one place.")
    return images


def read_spacings(path: Path) -> dict[str, tuple[float, ...]]:
    """mm across columns, rows and slices, by series (``000001_01_01``), from the table of lesions.

    Raises:
        UserError: when the table cannot be read or lacks a column.
    """
    columns = ("Patient_index", "Study_index", "Series_ID", "Spacing_mm_px_")
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}): put the published table beside Images_png.") from error
    absent = [name for name in columns if not rows or name not in rows[0]]
    if absent:
        raise UserError(f"{path}: has no column {absent[0]}: is it the published DL_info.csv?")
    return {_series_name(row): _numbers(row["Spacing_mm_px_"]) for row in rows}


def _series_name(row: dict[str, Any]) -> str:
    patient, study, series = (row[name].strip() for name in ("Patient_index", "Study_index", "Series_ID"))
    return f"{patient:0>6}_{study:0>2}_{series:0>2}"


def _numbers(text: str) -> tuple[float, ...]:
    """Three positive numbers, or nothing where they are not that."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return values if len(values) == 3 and min(values) > 0 else ()


def plan(
    images: Path, spacings: dict[str, tuple[float, ...]], output: Path, min_slices: int
) -> tuple[list[Run], list[str], int]:
    """All runs of all series; a line for each series that cannot be used; how many runs are too short."""
    runs, problems, short = [], [], 0
    for folder in sorted(path for path in images.iterdir() if path.is_dir() and not path.name.startswith(".")):
        spacing = spacings.get(folder.name, ())
        if not _SERIES.fullmatch(folder.name):
            problems.append(f"{folder}: is not named <patient>_<study>_<series>: is it part of DeepLesion?")
        elif len(spacing) != 3:
            problems.append(f"{folder}: DL_info.csv gives no spacing for it (three numbers in mm): mend the table.")
        else:
            for files in consecutive(folder):
                short += len(files) < min_slices
                if len(files) >= min_slices:
                    target = output / f"{folder.name}_{files[0].stem}-{files[-1].stem}.nii.gz"
                    runs.append(Run(tuple(files), (spacing[0], spacing[1], spacing[2]), target))
    return runs, problems, short


def consecutive(folder: Path) -> Iterator[list[Path]]:
    """The runs of consecutive slice numbers among the PNGs of a folder."""
    numbered = sorted((int(path.stem), path) for path in folder.glob("*.png") if path.stem.isdecimal())
    run: list[Path] = []
    for number, path in numbered:
        if run and number != int(run[-1].stem) + 1:
            yield run
            run = []
        run.append(path)
    if run:
        yield run


def convert(runs: Sequence[Run], num_workers: int) -> list[str]:
    """Make volumes, with a bar; a line for each that cannot be made."""

    def watched(results: Iterator[str | None]) -> list[str]:
        return [problem for problem in with_bar(results, len(runs), "converting") if problem]

    if num_workers == 0 or len(runs) < 2:
        return watched(map(write_run, runs))
    with ProcessPoolExecutor(num_workers) as pool:
        return watched(pool.map(write_run, runs))


def write_run(run: Run) -> str | None:
    """Write the volume of a run; one line about what is wrong with it, or None."""
    import nibabel

    hidden = run.target.with_name(f".making-{run.target.name}")  # a half-written volume is never taken for one
    try:
        image = nibabel.Nifti1Image(hounsfield(run.files), np.diag([*(-step for step in run.spacing), 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, hidden)
        hidden.rename(run.target)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{run.target}: cannot be written ({error.strerror or error}): is the disk full?"
    return None


def hounsfield(files: Sequence[Path]) -> np.ndarray:
    """The HU of consecutive slices, int16, (X, Y, Z) = (column, row, slice).

    Raises:
        UserError: when a slice cannot be read, has not 16 bits, or has another size than the first.
    """
    slices: list[np.ndarray] = []
    for file in files:
        pixels = _pixels(file)
        if slices and pixels.T.shape != slices[0].shape:
            raise UserError(f"{file}: has {pixels.T.shape} pixels, but its series begins with {slices[0].shape}.")
        slices.append((pixels.astype(np.int32) - HU_OFFSET).astype(np.int16).T)
    return np.stack(slices, axis=-1)


def _pixels(file: Path) -> np.ndarray:
    pillow = optional_module("PIL.Image", f"{file}: reading PNG needs pillow, {NOT_INSTALLED}")
    try:
        with pillow.open(file) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:  # Pillow's word for a damaged chunk
        raise UserError(f"{file}: cannot be read as PNG ({error}): unpack its archive again.") from error
    if not mode.startswith("I"):
        raise UserError(f"{file}: is a PNG of mode {mode}, not of 16 bits a pixel as published: unpack it again.")
    return pixels
