"""Promises of `desd_components.scans.itk`: whatever a header calls its files, they lie in its folder, and all count."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import EnsureChannelFirstd, LoadImaged

from desd_components import ScanReader, UserError, VolumeCache, data_fingerprint
from desd_components.scans.planning.survey import survey
from desd_components.scans.read import open_volume, parts

pytest.importorskip("SimpleITK", reason="SimpleITK is not installed: NRRD and MetaImage are not tried")

VOXELS = np.arange(120, dtype="<i2").reshape(4, 5, 6)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 6 5 4\n"
    "ElementType = MET_SHORT\n"
)
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
SPACED = NRRD + "space: left-posterior-superior\nspace directions: (20,0,0) (0,30,0) (0,0,40)\nspace origin: (5,6,7)\n"
WAYS = {
    "a file": ("a.mhd", META + "ElementDataFile = {0}all.raw\n"),
    "a file, under a name of files without": ("a.mha", META + "ElementDataFile = {0}all.raw\n"),
    "a file, after a colon": ("a.mhd", META + "  ElementDataFile : {0}all.raw\n"),
    "a file, far behind": ("a.mhd", META + "".join(f"Note{n} = {'x' * 90}\n" for n in range(999))
                           + "ElementDataFile = {0}all.raw\n"),
    "a list": ("a.mhd", META + "ElementDataFile = LIST\n{0}s0.raw\n{0}s1.raw\n{0}s2.raw\n{0}s3.raw\n"),
    "a list with its dimension": ("a.mhd", META + "ElementDataFile = LIST 2\n{0}s0.raw\n{0}s1.raw\n"
                                  "{0}s2.raw\n{0}s3.raw"),
    "a list, as Windows writes it": ("a.mhd", META + "ElementDataFile = LIST\r\n{0}s0.raw\r\n{0}s1.raw\r\n{0}s2.raw\r\n"
                                     "{0}s3.raw\r\n"),
    "a pattern": ("a.mhd", META + "ElementDataFile = {0}s%01d.raw 0 3 1\n"),
    "a file of NRRD": ("a.nhdr", NRRD + "data file: {0}all.raw\n"),
    "a file of NRRD, under the name of one without": ("a.nrrd", NRRD + "DATAFILE: {0}all.raw\n"),
    "a list of NRRD": ("a.nhdr", NRRD + "data file: LIST\n{0}s0.raw\n{0}s1.raw\n{0}s2.raw\n{0}s3.raw\n"),
    "a pattern of NRRD": ("a.nhdr", NRRD + "data file: {0}s%d.raw 0 3 1 2\n"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """Voxels beside the headers, as one file and as four, and the same in another folder."""
    for place in (tmp_path / "scans", tmp_path / "elsewhere"):
        place.mkdir()
        (place / "all.raw").write_bytes(VOXELS.tobytes())
        for number, plane in enumerate(VOXELS):
            (place / f"s{number}.raw").write_bytes(plane.tobytes())
    return tmp_path / "scans"


def header(folder: Path, name: str, text: str, place: str = "") -> Path:
    (folder / name).write_bytes(text.replace("{0}", place).encode())
    return folder / name


@pytest.mark.parametrize("way", WAYS)
def test_voxels_are_read_from_the_headers_own_folder_alone(folder, way):
    np.testing.assert_array_equal(open_volume(header(folder, *WAYS[way])).read().T, VOXELS)
    for place in ("../elsewhere/", f"{folder.parent / 'elsewhere'}/", "./../elsewhere/"):
        with pytest.raises(UserError, match="outside of its folder: put them beside it"):
            open_volume(header(folder, *WAYS[way], place))
    with pytest.raises(UserError, match=r"its voxels, not_\w+\.raw, are not there: copy all of its files"):
        open_volume(header(folder, *WAYS[way], "not_"))


@pytest.mark.parametrize("way", WAYS)
def test_a_header_of_less_than_the_files_hold_is_refused_and_padding_is_none(folder, way):
    volume = open_volume(header(folder, *WAYS[way]))
    for file in parts(volume.path)[1:]:
        Path(file).write_bytes(Path(file).read_bytes() + bytes(64))
    np.testing.assert_array_equal(volume.read().T, VOXELS)
    Path(file).write_bytes(Path(file).read_bytes() + b"more")
    with pytest.raises(UserError, match=r"damaged \(more follows its \(6, 5, 4\) voxels of int16"):
        volume.read()


def test_a_header_that_says_what_to_skip_is_heeded(folder):
    (folder / "all.raw").write_bytes(b"of another" + VOXELS.tobytes())
    for name, text in (("a.mhd", f"{META}HeaderSize = 10\nElementDataFile = all.raw\n"),
                       ("a.nhdr", f"{NRRD}byte skip: 10\ndata file: all.raw\n")):  # fmt: skip
        np.testing.assert_array_equal(open_volume(header(folder, name, text)).read().T, VOXELS)
    with pytest.raises(UserError, match="more follows"):
        open_volume(header(folder, "a.mhd", f"{META}ElementDataFile = all.raw\n")).read()


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_changes_changes_what_is_kept_of_its_scan(folder, way):
    scan = {"image": str(header(folder, *WAYS[way]))}
    cache = VolumeCache([LoadImaged("image", ScanReader()), EnsureChannelFirstd("image")], folder.parent / "cache")
    voxels = [Path(part) for part in parts(scan["image"])[1:]]
    assert len(voxels) in (1, 4)
    for file in voxels:
        before = cache.path(scan)
        file.touch()
        assert cache.path(scan) != before


def test_a_survey_sees_a_slice_that_has_changed(folder, tmp_path):
    scan = {"image": str(header(folder, *WAYS["a list"]))}
    first = survey([scan], folder, tmp_path / "cache").scans[0].values
    (folder / "s3.raw").write_bytes((VOXELS[3] + 1000).tobytes())
    second = survey([scan], folder, tmp_path / "cache").scans[0].values
    assert first and second and second.high == first.high + 1000


BZIP2 = "is compressed with bzip2, which SimpleITK does not read: write it with gzip"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ElementDataFile = LIST\ns0.raw\ns1.raw\ns2.raw\n", "names 3 files for 4 slices"),
        ("ElementDataFile = LIST 3\nall.raw\n", "names 1 files for 4 slices"),
        ("ElementDataFile = s%d.raw\n", "'s%d.raw' is no pattern of files with the first number"),
        ("ElementDataFile = %s%n.raw 0 3 1\n", "is no pattern of files"),
        ("a word\nElementDataFile = all.raw\nElementDataFile = ../elsewhere/all.raw\n", "b'a word' is no field"),
        ("Comment = a\rElementDataFile = ../elsewhere/all.raw\nElementDataFile = all.raw\n", "is no field"),
        ("elementdatafile = all.raw\nElementDataFile = ../elsewhere/all.raw\n", "outside of its folder"),
        (f'{SPACED}space units: "mm" "mm" "um"\ndata file: all.raw\n', "counts in several units, .* write it in mm"),
        (f"{NRRD.replace('raw', 'bzip2')}data file: all.raw\n", BZIP2),
    ],
)
def test_what_would_be_read_otherwise_than_it_looks_or_not_at_all_is_refused(folder, text, words):
    name, start = ("a.nhdr", "") if text.startswith("NRRD") else ("a.mhd", META)
    with pytest.raises(UserError, match=words) as refusal:
        open_volume(header(folder, name, start + text))
    assert "\n" not in str(refusal.value)


UNITS = {
    "microns of NRRD": ("a.nhdr", SPACED, 'space units: "um" "um" "um"', 1e-3, "counts in .*, 0.001 mm; ITK and 3D Sl"),
    "of its axes": ("a.nhdr", f"{NRRD}spacings: 20 30 40\n", 'units: "cm" "cm" "cm"', 10.0, "10 mm"),
    "of MetaImage": (
        "a.mhd",
        f"{META}ElementSpacing = 20 30 40\nOffset = 5 6 7\n",
        "DistanceUnits = \u00b5m",
        1e-3,
        "0.001 mm",
    ),
    "none that is known": ("a.nhdr", SPACED, 'space units: "ell" "ell" "ell"', 1.0, "taken for mm"),
    "mm": ("a.nhdr", SPACED, 'space units: "mm" "mm" "mm"', 1.0, ""),
    "nothing": ("a.mhd", f"{META}ElementSpacing = 20 30 40\nOffset = 5 6 7\n", "DistanceUnits = ?", 1.0, ""),
}


@pytest.mark.parametrize("case", UNITS)
def test_the_unit_that_a_header_names_is_heeded_and_told(folder, case):
    name, start, line, unit, told = UNITS[case]
    named = "data file: all.raw\n" if name == "a.nhdr" else "ElementDataFile = all.raw\n"
    plain = open_volume(header(folder, name, start + named))
    volume = open_volume(header(folder, name, f"{start}{line}\n{named}"))
    np.testing.assert_allclose(volume.affine[:3], plain.affine[:3] * unit)
    counts = [warning for warning in volume.warnings if warning.startswith("counts in")]
    assert len(counts) == bool(told) and re.search(told, " ".join(counts))


def test_a_header_that_cannot_be_read_has_its_own_file_alone(folder):
    path = str(header(folder, "a.mha", "nothing of the kind\n"))
    assert parts(path) == [path]
    assert data_fingerprint({"train": [{"image": path}]}).startswith("1 scans")


def test_voxels_outlive_the_image_that_they_were_read_from(folder):
    voxels = open_volume(header(folder, *WAYS["a file"])).read()
    for _ in range(20):  # freed memory of that size would be theirs
        np.testing.assert_array_equal(open_volume(folder / "a.mhd").read() * 2, 2 * VOXELS.T)
    voxels += 1
    np.testing.assert_array_equal(voxels, VOXELS.T + 1)


def test_a_slice_that_ends_early_is_refused_where_itk_fills_it_up(tmp_path):
    for number in range(3):
        (tmp_path / f"s{number}.raw").write_bytes(bytes(2 * 64 * 64 if number < 2 else 100))
    sizes = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 64 64 3\nElementType = MET_SHORT\n"
    path = header(tmp_path, "a.mhd", f"{sizes}ElementSpacing = 1 1 2\nElementDataFile = LIST\ns0.raw\ns1.raw\ns2.raw\n")
    with pytest.raises(UserError, match=r"damaged \(s2.raw ends before its last voxel"):
        open_volume(path).read()


def test_a_stream_of_more_voxels_than_its_header_says_is_refused(folder):
    stream = gzip.compress(VOXELS.tobytes() + VOXELS[0].tobytes())
    (folder / "a.nrrd").write_bytes(NRRD.replace("raw", "gzip").encode() + b"\n" + stream)
    with pytest.raises(UserError, match="more voxels than its header says"):
        open_volume(folder / "a.nrrd").read()


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("a.nhdr", "space: 3D-left-handed\n", "(3D-left-handed) names no direction"),
        ("a.nhdr", "", "(none) names no direction"),
        ("a.nhdr", "space: RAS\n", ""),
        ("a.nhdr", "space: left-posterior-superior\n", ""),
        ("a.nhdr", "space: RAS\nold min: 0\n", "how to rescale its values"),
        ("a.mhd", "ElementToIntensityFunctionOffset = -1024\n", "how to rescale its values"),
    ],
)
def test_what_a_header_leaves_open_or_itk_passes_over_is_told(folder, name, line, told):
    directions = "space directions: (1,0,0) (0,1,0) (0,0,2)\n" if "space" in line else "spacings: 1 1 2\n"
    sizes = META + "ElementSpacing = 1 1 2\n" if name == "a.mhd" else NRRD
    end = "ElementDataFile = all.raw\n" if name == "a.mhd" else f"{directions}data file: all.raw\n"
    warnings = open_volume(header(folder, name, f"{sizes}{line}{end}")).warnings
    assert len(warnings) == bool(told) and told in " ".join(warnings)


def test_a_header_without_the_size_of_voxels_is_told(folder):
    for start, told in ((NRRD, True), (SPACED, False), (f"{NRRD}spacings: 1 1 2\n", False)):
        volume = open_volume(header(folder, "a.nhdr", f"{start}data file: all.raw\n"))
        assert any("taken for 1 mm" in warning for warning in volume.warnings) is told
