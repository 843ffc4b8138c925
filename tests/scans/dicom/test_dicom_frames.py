"""Enhanced DICOM: one file of many frames is the same volume as a series of as many files, or is refused alike."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import change, hounsfield, localizer, stored_grid, two_times, write_enhanced, write_series
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from scan_files import oblique_affine

from desd_components import UserError, find_scans
from desd_components.scans.read import open_volume, parts

VOXELS, AFFINE = hounsfield(), oblique_affine()
ORDER = [3, 0, 7, 1, 6, 2, 5, 4]  # the frames of a file stand in any order
EVERYTHING_PER_FRAME: tuple[str, ...] = ()


@pytest.mark.parametrize("order", [None, ORDER])
@pytest.mark.parametrize("shared", [("PlaneOrientationSequence", "PixelMeasuresSequence"), EVERYTHING_PER_FRAME])
def test_it_is_the_volume_that_the_same_slices_are_as_a_series(tmp_path, order, shared):
    enhanced = open_volume(write_enhanced(tmp_path / "one" / "a.dcm", VOXELS, AFFINE, order=order, shared=shared))
    classic = open_volume(write_series(tmp_path / "many", VOXELS, AFFINE))
    assert (enhanced.reader, enhanced.shape, enhanced.warnings) == ("DICOM", VOXELS.shape, ())
    np.testing.assert_allclose(enhanced.affine, classic.affine, atol=1e-9)
    np.testing.assert_array_equal(enhanced.read(), classic.read())
    np.testing.assert_array_equal(enhanced.read(), stored_grid(VOXELS))


def test_a_rescaling_that_is_shared_holds_for_all_frames(tmp_path):
    alike = change(RescaleSlope=2.0, RescaleIntercept=-500.0)
    shared = ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
    enhanced = open_volume(write_enhanced(tmp_path / "a.dcm", VOXELS, AFFINE, shared=shared, change=alike))
    classic = open_volume(write_series(tmp_path / "many", VOXELS, AFFINE, change=alike))
    np.testing.assert_array_equal(enhanced.read(), classic.read())


def test_frames_that_are_compressed_are_decoded_one_by_one(tmp_path):
    file = write_enhanced(
        tmp_path / "a.dcm", VOXELS, AFFINE, order=ORDER, whole=lambda data: data.compress(RLELossless)
    )
    np.testing.assert_array_equal(open_volume(file).read(), stored_grid(VOXELS))


def test_a_tree_gives_each_file_of_frames_as_a_scan_and_no_localizer(tmp_path):
    write_enhanced(tmp_path / "alone" / "a.dcm", VOXELS, AFFINE)
    for name in ("b.dcm", "c"):
        write_enhanced(tmp_path / "two" / name, VOXELS, AFFINE)
    write_enhanced(tmp_path / "scout" / "d.dcm", VOXELS, AFFINE, whole=lambda data: localizer(data, 0))
    found = [Path(scan["image"]).relative_to(tmp_path).as_posix() for scan in find_scans(tmp_path)]
    assert found == ["alone", "two/b.dcm", "two/c"]
    assert parts(str(tmp_path / "alone")) == [str(tmp_path / "alone" / "a.dcm")]


def test_a_series_of_several_files_of_frames_is_one_volume(tmp_path):
    for name, order in {"a.dcm": [0, 2, 4, 6], "b.dcm": [7, 5, 3, 1]}.items():
        write_enhanced(tmp_path / name, VOXELS, AFFINE, order=order, uid="1.2.3")
    np.testing.assert_array_equal(open_volume(tmp_path).read(), stored_grid(VOXELS))


@pytest.mark.parametrize(("left_out", "lean"), [((3,), 0.0), ((), 1.0)], ids=["missing", "tilt"])
def test_frames_that_are_missing_and_a_tilt_are_treated_as_in_a_series(tmp_path, left_out, lean):
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    classic = open_volume(write_series(tmp_path / "many", VOXELS, affine, leave_out=left_out, lean=lean))
    order = [number for number in range(8) if number not in left_out]
    enhanced = open_volume(write_enhanced(tmp_path / "a.dcm", VOXELS, affine, order=order, lean=lean))
    assert len(enhanced.warnings) == 1 and enhanced.warnings == classic.warnings
    np.testing.assert_allclose(enhanced.affine, classic.affine, atol=1e-9)
    np.testing.assert_array_equal(enhanced.read(), classic.read())


def far_apart(dataset: Dataset, number: int) -> None:
    two_times(dataset, number)
    dataset.ImagePositionPatient = [0.0, 0.0, 2.5 * number + 100 * (number > 3)]


def nowhere(data: Dataset) -> None:
    for groups in data.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence


def torn(data: Dataset) -> None:
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:5]


def of_old(data: Dataset) -> None:
    del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence


def no_spacing(data: Dataset) -> None:
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.0, 0.0]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"change": two_times}, r"4 of 8 slices lie where another one lies .*convert this file of several stacks"),
        (
            {
                "change": change(range(4, 8), ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
                "shared": EVERYTHING_PER_FRAME,
            },
            r"mixes slices of several orientations: convert this file of several stacks .*dcm2niix",
        ),
        ({"change": far_apart}, r"a gap of 102.5 mm after slice 4 of 8 .* or convert this file of several stacks"),
        ({"whole": nowhere}, r"8 of 8 slices \(first: a.dcm\) do not say where they lie"),
        ({"whole": torn}, r"3 of 8 slices \(first: a.dcm\) do not say where they lie"),
        ({"whole": of_old}, r"8 of 8 slices \(first: a.dcm\) do not say where they lie"),
        ({"whole": no_spacing}, r"8 of 8 slices \(first: a.dcm\) do not say where they lie"),
        ({"whole": lambda data: data.pop("PixelData")}, r"8 of 8 slices \(first: a.dcm\) hold no pixel data"),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else "",
)
def test_what_is_no_volume_is_refused_in_one_line_that_names_the_folder(tmp_path, faults, words):
    file = write_enhanced(tmp_path / "a.dcm", VOXELS, AFFINE, **faults)
    with pytest.raises(UserError, match=words) as refusal:
        open_volume(file)
    assert str(refusal.value).startswith(f"{file.parent}: ") and "\n" not in str(refusal.value)
