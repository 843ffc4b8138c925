"""Labelled volumes whose classes are bright: on disk, for fine-tuning, and in memory, for probes."""

from pathlib import Path

import numpy as np
import torch
from scan_files import write_nifti

SHAPES = [(24, 22, 20), (20, 26, 18), (22, 20, 24), (21, 23, 25), (26, 20, 17)]
CLASSES = "['organ','tumour']"  # as on a command line


def bodies(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A box of class 1 with a smaller one of class 2 inside, at a place that depends on the seed."""
    labels = np.zeros(shape, np.uint8)
    x, y, z = np.random.default_rng(seed).integers(3, 8, size=3)
    labels[x : x + 11, y : y + 10, z : z + 8] = 1
    labels[x + 3 : x + 7, y + 3 : y + 7, z + 2 : z + 6] = 2
    return labels


def write_pair(folder: Path, name: str, shape: tuple[int, ...], seed: int, channels: int = 1) -> None:
    labels = bodies(shape, seed)
    noise = np.random.default_rng(seed).normal(scale=20, size=(*shape, channels))
    scan = (labels[..., None] * 100.0 + noise).astype(np.float32)
    write_nifti(folder / "imagesTr" / f"{name}.nii.gz", scan[..., 0] if channels == 1 else scan)
    write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels)


def write_cases(folder: Path) -> Path:
    """A pair ``case_N`` of each of `SHAPES`."""
    for number, shape in enumerate(SHAPES):
        write_pair(folder, f"case_{number}", shape, seed=number)
    return folder


PROBED = ["background", "a", "b"]


def labelled_volume(seed, shape=(12, 10, 14)):
    """Intensity tells the class."""
    label = torch.randint(3, shape, generator=torch.Generator().manual_seed(seed))
    return {"image": (10.0 * label - 10)[None] + 0.1 * torch.randn(1, *shape), "label": label[None]}
