"""The package without its room for DICOM, as a packed bundle may carry it."""

import json
import shutil
from pathlib import Path

import pytest
from bundle_runs import ROOT
from dicom_files import hounsfield, write_series
from forks import run_elsewhere
from scan_files import oblique_affine, write_scan

LINE = "needs the reader of DICOM series, which this copy of the package came without: install the whole package"
ASKED = {
    "package": "desd.__file__",
    "found": "desd.find_scans('both')",
    "shape": "list(open_volume('both/a.nii.gz').read().shape)",
    "folder": "desd.find_scans('alone')",
    "series": "open_volume('alone/series')",
    "slice": "open_volume('alone/series/0.dcm')",
    "writer": "desd.SaveDicomSegd",
}
PROGRAM = f"""
import json, sys
import desd_components as desd
from desd_components.scans.read import open_volume
answers = {{}}
for name, asked in {ASKED}.items():
    try:
        answers[name] = eval(asked)
    except desd.UserError as refusal:
        answers[name] = str(refusal)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without that folder, and scans of two formats."""
    folder = tmp_path_factory.mktemp("packed")
    left_out = shutil.ignore_patterns("dicom", "__pycache__")
    shutil.copytree(ROOT / "desd_components", folder / "desd_components", ignore=left_out)
    write_scan(folder / "both" / "a.nii.gz")
    for parent in ("both", "alone"):
        write_series(folder / parent / "series", hounsfield(), oblique_affine())
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> dict[str, str]:
    """What a program answers that has this copy alone, and what it logged."""
    done = run_elsewhere(["-c", PROGRAM], place, place)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}


def test_it_imports_and_reads_nifti_and_leaves_out_series_beside_it_with_a_line(place, said):
    assert Path(said["package"]).is_relative_to(place)
    assert said["found"] == [{"image": str(place / "both" / "a.nii.gz")}] and said["shape"] == [6, 7, 5]
    assert f"DICOM files are left out: {place / 'both' / 'series'}: {LINE}" in said["log"]


@pytest.mark.parametrize("asked", ["folder", "series", "slice", "writer"])
def test_dicom_is_refused_in_one_line_that_says_what_to_install(said, asked):
    assert LINE in said[asked] and 'pip install ".[scans]"' in said[asked] and "\n" not in said[asked]
