"""Reading one training sample: the context box out of the memory map, against loading the scan's ``.nii.gz``.

Ours is `ContextDataset` with the published slabs and contexts, its volumes cached beforehand (the time that took is
printed, too). The reference is what the plain pipeline of `benchmarks.views` needs before it can crop: MONAI's stock
`LoadImage` and `EnsureChannelFirst` on the ``.nii.gz``; "with its preprocessing" adds the orientation and intensities
that our cache already holds. Files lie in the page cache in both. Scans are those of a folder, or synthetic: a body
of smooth tissue with scanner noise, 320 x 320 x 80 voxels, 16 bit.

    python -m benchmarks.reading [DIR]
"""

import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai import transforms

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from desd_components import ContextDataset, SampleKey, VolumeCache, find_scans, require_scans

SCANS = 3


def write_scans(folder: Path, shape: tuple[int, int, int] = (320, 320, 80), count: int = SCANS) -> None:
    """Scans, of a clinical size, whose noise keeps them from being compressed better than real ones."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, voxels) for voxels in shape), indexing="ij", sparse=True)
    for index in range(count):
        tissue = 40 + 60 * np.sin(9 * x + index) * np.sin(7 * y) * np.cos(5 * z)
        hu = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, tissue + rng.normal(0, 12, tissue.shape), -1000)
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), np.diag([-1, -1, 1, 1])), folder / f"scan_{index}.nii.gz")


def preprocessing() -> list[transforms.Transform]:
    """What the cache holds: RAS, HU / 1024. The spacing is left as it is, which favours the reference."""
    return [
        transforms.LoadImaged("image"),
        transforms.EnsureChannelFirstd("image"),
        transforms.Orientationd("image", axcodes="RAS", labels=None),
        transforms.ScaleIntensityRanged("image", a_min=-1024, a_max=1024, b_min=-1, b_max=1, clip=True),
    ]


def main(folder: str | None = None) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            write_scans(Path(temporary))
        scans = find_scans(folder or temporary)
        require_scans(folder or temporary, scans)
        started = time.perf_counter()
        dataset = ContextDataset(
            scans,
            VolumeCache(transforms.Compose(preprocessing()), Path(temporary) / "cache"),
            view_size=(96, 96, 16),
            context_scale=((1.4, 1.8), (1.4, 1.8), None),
            slab_depth=24,
            slab_stride=12,
        )
        caching = time.perf_counter() - started
        measure(dataset, scans, caching)


def measure(dataset: ContextDataset, scans: list[dict], caching: float, rounds: int = 7) -> None:
    """Read as many samples as there are scans, in turn with loading each scan once."""
    samples = len(scans)
    epochs = iter(range(1, 10**6))
    load = transforms.Compose(preprocessing()[:2])
    load_and_preprocess = transforms.Compose(preprocessing())

    def read_contexts() -> None:
        epoch = next(epochs)
        # Another slab in each epoch, all volumes in turn: no sample profits from the one before.
        for index in np.linspace(0, len(dataset) - 1, samples).astype(int):
            dataset[SampleKey(epoch, int(index))]

    def load_whole() -> None:
        for scan in scans:
            load(dict(scan))

    def preprocess_whole() -> None:
        for scan in scans:
            load_and_preprocess(dict(scan))

    contenders = {"box": read_contexts, "load": load_whole, "preprocess": preprocess_whole}
    seconds = time_in_turn(contenders, rounds, warmups=1)
    milliseconds = {name: [1000 * value / samples for value in values] for name, values in seconds.items()}
    faster = ratios(seconds["load"], seconds["box"])
    report(
        "reading",
        [
            row("context box from the memory map", milliseconds["box"], "ms"),
            row("stock: loading the .nii.gz", milliseconds["load"], "ms"),
            row("stock: loading it with its preprocessing", milliseconds["preprocess"], "ms"),
            verdict("loading over context box", faster, at_least=10),
            f"cached once: {samples} scans in {caching:.1f} s",
        ],
        {"milliseconds": milliseconds, "ratio": faster, "required_ratio": 10, "scans": samples, "caching_s": caching},
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
