"""Tiny NIfTI files for tests: an oblique affine and unequal spacing, for these are what break medical code."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.transforms import EnsureChannelFirstd, LoadImaged

from desd_components import ScanReader, VolumeCache

SPACING = (0.8, 1.1, 2.5)


def oblique_affine(spacing: tuple[float, float, float] = SPACING) -> np.ndarray:
    """A rotation by 20 degrees about x and 10 about z, unequal spacing, and an offset."""
    a, b = np.radians(20), np.radians(10)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = (-12.5, 30.0, 7.25)
    return affine


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, oblique_affine() if affine is None else affine), path)
    return path


def write_scan(path: Path, shape: tuple[int, ...] = (6, 7, 5), seed: int = 0) -> Path:
    return write_nifti(path, np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def write_label(path: Path, shape: tuple[int, ...] = (6, 7, 5), classes: int = 3, kind: Any = np.uint8) -> Path:
    return write_nifti(path, (np.arange(np.prod(shape)).reshape(shape) % classes).astype(kind))


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_pairs(
    folder: Path,
    names: list[str],
    images: str = "imagesTr",
    labels: str = "labelsTr",
    shape: tuple[int, ...] = (6, 7, 5),
) -> None:
    for number, name in enumerate(names):
        write_scan(folder / images / f"{name}.nii.gz", shape, seed=number)
        write_label(folder / labels / f"{name}.nii.gz", shape)


def loading(*keys: str) -> list[Any]:
    """The shortest preprocessing: read, channel first."""
    return [LoadImaged(keys, image_only=True), EnsureChannelFirstd(keys)]


def cached(scan: dict[str, Any], folder: Path, **settings: Any) -> Path:
    """The entry of one scan in a cache of its own, made as every training makes it: looked at first, then read."""
    keys = tuple(scan)
    transforms = [LoadImaged(keys, ScanReader(), image_only=True), EnsureChannelFirstd(keys)]
    [entry] = VolumeCache(transforms, folder / "cache", keys, **settings).prepare([scan])
    return entry
