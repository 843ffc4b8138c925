"""Hashes of the scans that a run was given: by which another run, or the same run resumed, knows them again."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.processes import from_first
from .names import Scan, files_of, scan_files
from .read import parts

SAMPLE = 16_384  # bytes of a file that are read where it begins, in its middle and at its end


def records_hash(sections: Mapping[str, Sequence[Scan]]) -> str:
    """A hash of what a run was given: section, names and sizes of all files; the place of the data does not enter."""
    everything = [file for scans in sections.values() for file in files_of(scans)]
    root = os.path.commonpath([os.path.dirname(file) for file in everything]) if everything else ""
    lines = [
        json.dumps([section, [(os.path.relpath(file, root), _size(file)) for file in scan_files(scan)]])
        for section, scans in sections.items()
        for scan in scans
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def data_fingerprint(sections: Mapping[str, Sequence[Scan]]) -> str:
    """How many scans a run was given, and a hash that also tells when their voxels have changed: for its state.

    It reads 16 kB at the beginning, in the middle and at the end of each file; of a series, of three slices. In a
    process group the first process does, for all.
    """
    return from_first(lambda: _fingerprint(sections))


def _fingerprint(sections: Mapping[str, Sequence[Scan]]) -> str:
    found = hashlib.sha256(records_hash(sections).encode())
    everything = [file for scans in sections.values() for file in files_of(scans)]
    for file in sorted(filter(os.path.exists, everything)):
        whole = parts(file)
        for part in (whole[0], whole[len(whole) // 2], whole[-1]):
            found.update(_sample(part))
    return f"{sum(map(len, sections.values()))} scans, contents {found.hexdigest()[:12]}"


def image_content(scan: Scan) -> str:
    """A hash by which the image of a scan is known wherever a copy of its files lies, and however they are called."""
    found = hashlib.sha256()
    for part in (part for file in scan_files(scan, ("image",)) for part in parts(file)):
        found.update(os.path.getsize(part).to_bytes(8, "big") + _sample(part))
    return found.hexdigest()


def file_states(scan: Scan, keys: Sequence[str] = ("image", "label")) -> list[list[Any]]:
    """Path, size and time of every file that a scan consists of: what is kept of it is kept under these."""
    states = []
    for file in filter(os.path.exists, scan_files(scan, keys)):
        for part in parts(file):
            status = os.stat(part)
            states.append([os.path.abspath(part), status.st_size, status.st_mtime_ns])
    return states


def _sample(file: str) -> bytes:
    size, read = os.path.getsize(file), []
    with open(file, "rb") as stream:
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            stream.seek(max(0, start))
            read.append(stream.read(SAMPLE))
    return b"".join(read)


def _size(file: str) -> int:
    """Bytes of a scan, of all slices where it is a series; -1 where it is missing."""
    return sum(map(os.path.getsize, parts(file))) if os.path.exists(file) else -1
