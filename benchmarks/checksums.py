"""Reading compressed scans with their checksums, against reading them without, for each compressed format.

Ours is `open_volume` and its voxels. The reference is the same header with the same checks, and the voxels as nibabel
or SimpleITK give them, which stop before the checksum. 200 scans, of a folder or synthetic ones of 128 x 128 x 40
voxels of 16 bit, are written in each format; each is read both ways in turn, and CPU seconds are summed over all.

    python -m benchmarks.checksums [DIR]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.pairs import ratios, report, row, time_in_turn, verdict
from benchmarks.volumes import write_scans
from desd_components import find_scans, require_scans
from desd_components.scans.read import open_volume

SCANS, ROUNDS = 200, 5
FORMATS = (".nii.gz", ".nrrd", ".mha")


def read_without(path: str) -> np.ndarray:
    """The voxels as the library gives them."""
    volume = open_volume(path)
    if volume.header is not None:
        return np.asanyarray(volume.header.dataobj)
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def seconds_of(path: str) -> dict[str, list[float]]:
    """CPU seconds of reading a file both ways, round by round."""
    ways: dict[str, Any] = {"with": lambda: open_volume(path).read(), "without": lambda: read_without(path)}
    return time_in_turn(ways, ROUNDS, warmups=1, clock=time.process_time)


def main(folder: str | None = None) -> None:
    """Measure, print and write the figures."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # of header fields that other formats do not know
    taken: dict[str, list[dict[str, list[float]]]] = {suffix: [] for suffix in FORMATS}
    with tempfile.TemporaryDirectory() as name:
        if folder is None:
            write_scans(Path(name), (128, 128, 40), count=SCANS)
        scans = find_scans(folder or name)[:SCANS]
        require_scans(folder or name, scans)
        for scan, (suffix, seconds) in ((scan, each) for scan in scans for each in taken.items()):
            path = f"{name}/written{suffix}"
            sitk.WriteImage(sitk.ReadImage(scan["image"]), path, useCompression=True)
            seconds.append(seconds_of(path))
    lines, figures = [], {}
    for suffix, seconds in taken.items():
        summed = {way: np.sum([each[way] for each in seconds], axis=0).tolist() for way in ("with", "without")}
        lines += [row(f"{suffix}, {way} checksums", values, "CPU s") for way, values in summed.items()]
        lines.append(verdict(f"{suffix}, with over without", ratios(*summed.values()), at_most=1.05))
        figures[suffix] = summed
    report("checksums", lines, {"scans": len(scans), "seconds": figures})


if __name__ == "__main__":
    main(*sys.argv[1:2])
