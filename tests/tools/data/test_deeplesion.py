"""Promises of ``desd deeplesion``, on a folder of the published layout."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from desd_components import find_scans
from desd_tools.__main__ import main

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,"
    "Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"
)
ROW = (
    '{name}_{key:03d}.png,{patient},{study},{series},{key},"1, 1, 2, 2, 1, 2, 2, 1","1, 1, 2, 2","1.5, 1.2",'
    '"0.4, 0.5, 0.6",-1,0,"{first}, {last}","0.75, 0.7, 5","7, 6","-175, 275",F,62,1'
)


def hu(number: int) -> np.ndarray:
    """A slice (rows, columns) whose HU say where a pixel lies and which slice it is on."""
    rows, columns = np.mgrid[:6, :7]
    return 100 * rows + 10 * columns + number - 1000


def write_slices(folder: Path, name: str, numbers: list[int]) -> None:
    (folder / "Images_png" / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        stored = (hu(number) + 32768).astype(np.uint16)
        Image.fromarray(stored).save(folder / "Images_png" / name / f"{number:03d}.png")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Two series, the first with a gap between two key slices, and too few slices around a third."""
    folder = tmp_path / "DeepLesion"
    write_slices(folder, "000001_01_02", [*range(98, 104), *range(200, 205), 300, 301])
    write_slices(folder, "000012_03_01", list(range(7, 12)))
    rows = [
        ROW.format(name="000001_01_02", patient=1, study=1, series=2, key=101, first=98, last=103),
        ROW.format(name="000001_01_02", patient=1, study=1, series=2, key=202, first=200, last=204),
        ROW.format(name="000012_03_01", patient=12, study=3, series=1, key=9, first=7, last=11),
    ]
    (folder / "DL_info.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def convert(folder: Path, *flags: str) -> tuple[int, Path]:
    output = folder.parent / "hu"
    return main(["deeplesion", str(folder), str(output), "--num-workers=0", *flags]), output


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_run_of_consecutive_slices_becomes_a_volume(published, capsys):
    code, output = convert(published)
    assert code == 0
    assert names(output) == [
        "000001_01_02_098-103.nii.gz",
        "000001_01_02_200-204.nii.gz",
        "000012_03_01_007-011.nii.gz",
    ]
    assert "3 volumes in" in capsys.readouterr().out


def test_voxels_are_hu_on_a_grid_of_the_spacing_in_the_table(published):
    scan = nibabel.load(convert(published)[1] / "000001_01_02_200-204.nii.gz")
    assert (scan.shape, scan.get_data_dtype()) == ((7, 6, 5), np.int16)
    assert nibabel.aff2axcodes(scan.affine) == ("L", "P", "I")
    np.testing.assert_allclose(scan.header.get_zooms(), (0.75, 0.7, 5))
    expected = np.stack([hu(number).T for number in range(200, 205)], axis=-1)
    np.testing.assert_array_equal(np.asarray(scan.dataobj), expected)


def test_the_extremes_of_16_bits_are_kept(published):
    stored = np.array([[0, 65535] * 3] * 7, np.uint16)
    for number in range(7, 12):
        Image.fromarray(stored).save(published / "Images_png" / "000012_03_01" / f"{number:03d}.png")
    voxels = np.asarray(nibabel.load(convert(published)[1] / "000012_03_01_007-011.nii.gz").dataobj)
    assert (voxels.min(), voxels.max()) == (-32768, 32767)


def test_pretraining_finds_the_volumes(published):
    assert len(find_scans(convert(published)[1])) == 3


def test_the_same_command_makes_only_what_is_missing(published):
    _, output = convert(published)
    kept, lost = output / "000001_01_02_098-103.nii.gz", output / "000012_03_01_007-011.nii.gz"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    (output / f".making-{lost.name}").write_bytes(b"what an interruption leaves")
    assert convert(published)[0] == 0
    assert (kept.stat().st_mtime_ns, lost.exists()) == (before, True)
    assert not [name for name in names(output) if name.startswith(".")]


def test_processes_make_the_same_volumes(published, tmp_path):
    _, output = convert(published)
    assert main(["deeplesion", str(published), str(tmp_path / "two"), "--num-workers=2"]) == 0
    for name in names(output):
        one, other = (nibabel.load(folder / name) for folder in (output, tmp_path / "two"))
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_shorter_runs_are_taken_on_request(published):
    assert "000001_01_02_300-301.nii.gz" in names(convert(published, "--min-slices=2")[1])


def in_its_place(pixels: np.ndarray) -> Callable[[Path], object]:
    return lambda series: Image.fromarray(pixels).save(series / "009.png")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (
        lambda series: (series / "009.png").write_bytes((series / "009.png").read_bytes()[:40]),
        "009.png: cannot be read as PNG",
    ),
    "of 8 bits": (in_its_place(np.zeros((6, 7), np.uint8)), "009.png: is a PNG of mode L, not of 16 bits"),
    "of another size": (
        in_its_place(np.zeros((5, 7), np.uint16)),
        "has (7, 5) pixels, but its series begins with (7, 6)",
    ),
    "not in the table": (
        lambda series: series.rename(series.with_name("000099_01_01")),
        "000099_01_01: DL_info.csv gives no spacing for it",
    ),
    "of another name": (
        lambda series: series.rename(series.with_name("thumbnails")),
        "thumbnails: is not named <patient>_<study>_<series>",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_series_is_one_line_and_the_rest_goes_on(published, caplog, name):
    fault, words = FAULTS[name]
    fault(published / "Images_png" / "000012_03_01")
    code, output = convert(published)
    assert code == 1 and len(names(output)) == 2
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1 and words in lines[0] and "\n" not in lines[0]


LAYOUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images": (lambda f: (f / "Images_png").rename(f / "images"), "holds no folder Images_png"),
    "no table": (lambda f: (f / "DL_info.csv").unlink(), "DL_info.csv: cannot be read"),
    "another table": (lambda f: (f / "DL_info.csv").write_text("a,b\n1,2\n"), "has no column Patient_index"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_is_refused_in_one_line(published, capsys, name):
    fault, words = LAYOUTS[name]
    fault(published)
    code, _ = convert(published)
    said = capsys.readouterr().err
    assert code == 2 and words in said and len(said.strip().splitlines()) == 1
