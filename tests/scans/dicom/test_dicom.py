"""Promises of `desd_components.scans.dicom.series` and `desd_components.scans.dicom.volume`."""

import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import change, hounsfield, localizer, pydicom, stored_grid, two_times, write_series
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import MPEG4HP42STEREO, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLosslessSV1
from scan_files import oblique_affine

from desd_components import UserError, find_scans
from desd_components.scans.find import scan_paths
from desd_components.scans.read import open_volume, parts

VOXELS, AFFINE = hounsfield(), oblique_affine()


def written(folder: Path, **faults) -> Path:
    return write_series(folder / "series", VOXELS, AFFINE, **faults)


def test_every_slice_is_rescaled_by_its_own_slope_and_intercept_and_lies_where_it_was(tmp_path):
    volume = open_volume(written(tmp_path))
    assert (volume.reader, volume.shape, volume.warnings) == ("DICOM", VOXELS.shape, ())
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(volume.read(), stored_grid(VOXELS))


def test_the_position_along_the_normal_decides_and_neither_number_nor_name(tmp_path):
    order = np.random.default_rng(1).permutation(VOXELS.shape[2])

    def backwards(dataset: Dataset, number: int) -> None:
        dataset.InstanceNumber, dataset.SeriesInstanceUID = str(100 - number), ""  # one series without its uid, too

    volume = open_volume(written(tmp_path, change=backwards, names=lambda number: f"IM{order[number]:04d}"))
    np.testing.assert_array_equal(volume.read(), stored_grid(VOXELS))


def test_a_tree_gives_its_series_and_neither_localizer_nor_segmentation(tmp_path, caplog):
    write_series(tmp_path / "a" / "CT 5mm", VOXELS, AFFINE)
    write_series(tmp_path / "a" / "scout", VOXELS[:, :, :2], AFFINE, change=localizer)
    write_series(tmp_path / "a" / "results", VOXELS, AFFINE, change=change(Modality="SEG"))
    write_series(tmp_path / "b" / "CT 1.25mm", VOXELS, AFFINE, names="{}".format)  # no suffix at all
    write_series(tmp_path / "b" / "report", VOXELS[:, :, :1], AFFINE)
    (tmp_path / "b" / "notes.txt").write_text("not a slice")
    with caplog.at_level(logging.INFO):
        scans = find_scans(tmp_path)
    assert [scan["image"] for scan in scans] == [f"{tmp_path}/a/CT 5mm", f"{tmp_path}/b/CT 1.25mm"]
    assert "2 DICOM files left out: localizers" in caplog.text
    assert "1 single images left out" in caplog.text


def test_two_series_in_one_folder_are_two_scans_named_by_their_first_files(tmp_path):
    other = hounsfield(seed=1)
    write_series(tmp_path / "all", VOXELS, AFFINE, names="a{}.dcm".format)
    write_series(tmp_path / "all", other, AFFINE, names="b{}.dcm".format)
    write_series(tmp_path / "all", VOXELS[:, :, :1], AFFINE, names="c{}.dcm".format, change=localizer)
    assert [path.name for path in scan_paths(tmp_path)] == ["a0.dcm", "b0.dcm"]
    np.testing.assert_array_equal(open_volume(tmp_path / "all" / "b0.dcm").read(), stored_grid(other))
    with pytest.raises(UserError, match=r"all: mixes 2 series: series 3 thorax \(8 slices, a0.dcm\), .*name one by a"):
        open_volume(tmp_path / "all")


def test_slices_that_are_missing_are_reported_and_interpolated(tmp_path):
    volume = open_volume(written(tmp_path, leave_out=(3, 5)))
    assert volume.warnings == ("2 of 8 slices are missing (after slice 3, 4): interpolated",)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    expected = stored_grid(VOXELS)
    for lost in (3, 5):
        expected[:, :, lost] = (expected[:, :, lost - 1] + expected[:, :, lost + 1]) / 2
    np.testing.assert_allclose(volume.read(), expected, atol=1e-3)


def test_a_gap_that_is_too_wide_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a gap of 12.5 mm after slice 2 of 4 \(2.5 mm apart elsewhere\) is too wide"):
        open_volume(written(tmp_path, leave_out=(2, 3, 4, 5)))


def test_uneven_slices_are_interpolated_to_an_even_grid(tmp_path):
    def later(dataset: Dataset, number: int) -> None:
        if number == 4:  # 1 mm of 2.5
            place = np.array(dataset.ImagePositionPatient, float) + np.array([-1, -1, 1]) * AFFINE[:3, 2] / 2.5
            dataset.ImagePositionPatient = [float(value) for value in place]

    volume = open_volume(written(tmp_path, change=later))
    assert volume.shape == VOXELS.shape
    assert volume.warnings == ("slices are 1.5 to 3.5 mm apart: interpolated to 2.5 mm",)
    expected = stored_grid(VOXELS)
    between = expected[:, :, 3] + (expected[:, :, 4] - expected[:, :, 3]) * 2.5 / 3.5
    np.testing.assert_allclose(volume.read()[:, :, 4], between, atol=1e-2)


def ramp(points: np.ndarray) -> np.ndarray:
    """HU as a linear function of world coordinates, which interpolation reproduces."""
    return points @ np.array([2.0, 3.0, 1.0])


def test_a_leaning_stack_is_resampled_to_an_upright_grid_with_a_warning(tmp_path):
    affine, shape, lean = np.diag([-2.0, -2.0, 3.0, 1.0]), (12, 14, 6), 1.0
    x, y, z = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    leaning = affine.copy()
    leaning[1, 2] = -lean  # down a column is posterior, RAS -y
    voxels = np.round(ramp(np.stack([x, y, z, np.ones_like(x)], -1) @ leaning.T[:, :3]))
    volume = open_volume(write_series(tmp_path / "tilted", voxels, affine, lean=lean))
    assert volume.shape == (12, 14 + 3, 6)  # 5 mm more, of 2 mm each
    assert volume.warnings[0].startswith("the stack leans by 18.4 degrees (gantry tilt)")
    np.testing.assert_allclose(np.abs(volume.affine[:3, :3]), np.diag([2.0, 2.0, 3.0]), atol=1e-6)
    inside = volume.read()[:, 3:14]  # what every slice covers
    x, y, z = np.meshgrid(np.arange(12), np.arange(3, 14), np.arange(6), indexing="ij")
    expected = ramp(np.stack([x, y, z, np.ones_like(x)], -1) @ volume.affine.T[:, :3])
    np.testing.assert_allclose(inside, expected, atol=2.0)  # stored as whole HU, odd slices in steps of two


def two_sizes(dataset: Dataset, number: int) -> None:
    if number > 5:
        dataset.Rows, dataset.Columns = 3, 7
        dataset.PixelData = dataset.PixelData[: 3 * 7 * 2]


def stretched(dataset: Dataset, number: int) -> None:
    dataset.ImageOrientationPatient = [2 * value for value in dataset.ImageOrientationPatient]


def video(dataset: Dataset, number: int) -> None:
    compressed(dataset, number)
    dataset.file_meta.TransferSyntaxUID = MPEG4HP42STEREO


def last_compressed(dataset: Dataset, number: int) -> None:
    if number == 7:
        compressed(dataset, number)


def compressed(dataset: Dataset, number: int) -> None:
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x02\x00\x00\x00\x00\x00"


LOST, COLORS = r"8 of 8 slices .* do not say where they lie", r"holds pixels of colours"
NO_DECODER = r"is compressed \(JPEG Lossless.*\), and no decoder for it is installed"
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
NO_VOLUME = {
    "no pixels": (change((2, 4), ["PixelData"]), r"2 of 8 slices \(first: 2.dcm\) hold no pixel data"),
    "two sizes": (two_sizes, r"mixes slices of several sizes \(6 of 6 x 7, 2 of 3 x 7\)"),
    "two times": (two_times, r"4 of 8 slices lie where another one lies"),
    "two directions": (
        change((7,), ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        r"mixes slices of several orientations",
    ),
    "no position": (change(without=["ImagePositionPatient"]), LOST),
    "no direction": (change(without=["ImageOrientationPatient", "PixelSpacing"]), LOST),
    "a position that is no number": (
        change((3,), ImagePositionPatient=[0.0, float("nan"), 1.0]),
        r"1 of 8 .*3.dcm\) do not",
    ),
    "skewed": (change(ImageOrientationPatient=[1, 0, 0, 0.5, 0.866, 0]), LOST),
    "stretched": (stretched, LOST),
    "colours": (change(**RGB), COLORS),
    "a palette": (change(PhotometricInterpretation="PALETTE COLOR"), COLORS),
    "video": (video, r"is stored as MPEG-4.*, for which there is no decoder: export it again"),
    "a slice without rescaling": (
        change((4,), ["RescaleSlope", "RescaleIntercept"]),
        r"1 of 8 slices \(first: 4.dcm\) say no rescale slope",
    ),
    "its last slice compressed": (last_compressed, NO_DECODER),
    "compressed": (compressed, rf"{NO_DECODER}: pip install pylibjpeg"),
}


@pytest.mark.parametrize("name", NO_VOLUME)
def test_what_is_no_volume_is_refused_in_one_line_that_names_it(tmp_path, name):
    fault, words = NO_VOLUME[name]
    folder = written(tmp_path, change=fault)
    with pytest.raises(UserError, match=words) as refusal:
        open_volume(folder)
    assert str(refusal.value).startswith(f"{folder}: ") and "\n" not in str(refusal.value)


def test_slices_of_one_instance_that_lie_apart_are_no_copies(tmp_path):
    folder = written(tmp_path, change=change(SOPInstanceUID="1.2.3"))
    volume = open_volume(folder)
    assert volume.shape == open_volume(written(tmp_path / "own")).shape and not volume.warnings


def test_a_slice_with_an_empty_transfer_syntax_is_read_as_one_without(tmp_path):
    folder = written(tmp_path)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ""
        dataset.save_as(path, enforce_file_format=False, implicit_vr=False, little_endian=True)
    np.testing.assert_array_equal(open_volume(folder).read(), open_volume(written(tmp_path / "own")).read())


def test_a_transfer_syntax_of_a_manufacturer_s_own_is_refused_in_one_line(tmp_path):
    folder, own = written(tmp_path), b"1.2.840.113619.5.200"
    content = (folder / "7.dcm").read_bytes()
    (folder / "7.dcm").write_bytes(content.replace(f"{ExplicitVRLittleEndian}\0".encode(), own))  # as long
    with pytest.raises(UserError, match=f"is stored as {own.decode()}, for which there is no decoder"):
        open_volume(folder)


def test_torn_pixels_are_refused_and_a_torn_file_beside_a_series_is_named(tmp_path):
    folder = written(tmp_path)
    (folder / "4.dcm").write_bytes((folder / "4.dcm").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"4.dcm: its pixels cannot be decoded"):
        open_volume(folder).read()
    (folder / "4.dcm").write_bytes((folder / "4.dcm").read_bytes()[:100])
    (folder / "4.dcm").rename(folder / "5 (torn).dcm")
    missing, unread = open_volume(folder).warnings[::-1]
    assert unread == "1 files beside it cannot be read as DICOM (first: 5 (torn).dcm)"
    assert missing.startswith("1 of 8 slices are missing")


def test_a_header_of_fewer_pixels_than_a_slice_holds_is_refused_and_padding_is_none(tmp_path):
    padded = written(
        tmp_path / "padded", change=lambda slice_, _: slice_.update({"PixelData": slice_.PixelData + bytes(8)})
    )
    np.testing.assert_allclose(open_volume(padded).read(), stored_grid(VOXELS))
    folder = written(tmp_path / "narrow", change=change(Columns=VOXELS.shape[0] - 1))
    with pytest.raises(UserError, match=r"0.dcm: its pixels cannot be decoded \(more follows its pixels"):
        open_volume(folder).read()


def without_preamble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[132:])


def without_its_group(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    with file.open("wb") as stream:
        raw = DicomFileLike(stream)
        raw.is_implicit_VR, raw.is_little_endian = dataset.original_encoding
        write_dataset(raw, dataset)


@pytest.mark.parametrize("strip", [without_preamble, without_its_group])
@pytest.mark.parametrize("name", ["{}.dcm", "IM{}"])
def test_files_of_old_archives_without_preamble_are_a_series_like_any_other(tmp_path, name, strip):
    folder = written(tmp_path, names=name.format)
    for file in folder.iterdir():
        strip(file)
    assert scan_paths(tmp_path) == [folder]
    np.testing.assert_array_equal(open_volume(folder).read(), stored_grid(VOXELS))


def test_a_deflated_series_is_read_and_a_slice_that_was_cut_off_is_told(tmp_path):
    def deflated(dataset: Dataset, number: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    folder = written(tmp_path, change=deflated)
    np.testing.assert_array_equal(open_volume(folder).read(), stored_grid(VOXELS))
    (folder / "torn.dcm").write_bytes((folder / "3.dcm").read_bytes()[:-9])
    assert open_volume(folder).warnings == ("1 files beside it cannot be read as DICOM (first: torn.dcm)",)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("RescaleSlope", 0, "slope is 0"),
        ("RescaleSlope", None, "slope is None"),
        ("RescaleIntercept", None, "None, wh"),
    ],
)
def test_half_of_a_rescaling_is_refused(tmp_path, name, value, told):
    with pytest.raises(UserError, match=rf"dcm: its rescale .*{told}.*gives no values: export it again"):
        open_volume(written(tmp_path, change=change(**{name: value}))).read()


def test_copies_are_passed_over_and_low_values_that_are_shown_white_taken_as_stored_which_is_told(tmp_path):
    folder = written(tmp_path, change=change([2], PhotometricInterpretation="MONOCHROME1"))
    shutil.copy(folder / "5.dcm", folder / "5 (copy).dcm")
    volume = open_volume(folder)
    np.testing.assert_array_equal(volume.read(), stored_grid(VOXELS))
    assert volume.warnings == (
        "1 files are copies of others and were passed over",
        "1 of 8 slices (first: 2.dcm) show low values white (MONOCHROME1): taken as stored",
    )


def test_a_slice_stands_for_its_series_and_a_folder_without_one_is_refused(tmp_path):
    folder = written(tmp_path)
    assert open_volume(folder / "5.dcm").shape == VOXELS.shape
    assert [Path(file).name for file in parts(str(folder))] == [f"{number}.dcm" for number in range(8)]
    with pytest.raises(UserError, match="holds no DICOM series"):
        open_volume(tmp_path)


def test_a_real_series_agrees_with_its_segmentation_in_the_world(real_data):
    """The segmentation was written by another program, with its rows turned round: the world is the same."""
    series = open_volume(real_data / "totalseg_refs" / "ct_dicom" / "series")
    labels = nibabel.load(real_data / "totalseg_refs" / "ct_dicom" / "example_seg_dicom.nii.gz")
    assert (series.shape, series.warnings) == ((512, 512, 20), ())
    voxels, liver = series.read(), np.argwhere(np.asarray(labels.dataobj) == 5)
    assert (voxels.min(), voxels.max()) == (-1024, 1839)
    world = nibabel.affines.apply_affine(labels.affine, liver)
    places = np.rint(nibabel.affines.apply_affine(np.linalg.inv(series.affine), world)).astype(int)
    assert 0 < np.median(voxels[tuple(places.T)]) < 200  # soft tissue, and neither air nor bone
    assert np.abs(places - nibabel.affines.apply_affine(np.linalg.inv(series.affine), world)).max() < 1e-3
