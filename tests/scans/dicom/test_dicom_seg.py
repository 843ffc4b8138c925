"""Promises of `desd_components.scans.dicom.seg`: segments on the right slices of the right series."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import change, hounsfield, read_back, write_enhanced, write_series
from monai.data import MetaTensor
from pydicom.dataset import Dataset
from scan_files import oblique_affine

from desd_components import SaveDicomSegd, ScanLayout, UserError
from desd_components.scans.dicom.seg import write_dicom_seg
from desd_components.scans.read import open_volume
from desd_components.scans.volume import to_ras

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed: DICOM-SEG is not tried")

NAMES = ["background", "liver", "tumour"]
VOXELS, AFFINE = hounsfield((9, 7, 8)), oblique_affine()


def some_labels(shape: tuple[int, ...] = VOXELS.shape) -> np.ndarray:
    labels = np.zeros(shape, np.int64)
    labels[1:6, 2:5, 1:6] = 1
    labels[2:4, 3:4, 2:4] = 2
    labels[8, 6, 7] = 2  # one voxel in a corner
    return labels


def frames(segmentation: Dataset) -> list[tuple[str, str, np.ndarray]]:
    """(class name, instance of the slice that a frame refers to, pixels (rows, columns))."""
    found = []
    names = {int(segment.SegmentNumber): segment.SegmentLabel for segment in segmentation.SegmentSequence}
    for groups, pixels in zip(segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True):
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        found.append((names[number], str(source.ReferencedSOPInstanceUID), pixels))
    return found


@pytest.fixture
def series(tmp_path: Path) -> Path:
    order = np.random.default_rng(2).permutation(VOXELS.shape[2])  # the file names say nothing about places
    return write_series(tmp_path / "in" / "series", VOXELS, AFFINE, names=lambda number: f"{order[number]}.dcm")


def by_place(folder: Path) -> list[Dataset]:
    """The source slices in the order of the volume's third axis."""
    slices = [read_back(file) for file in folder.iterdir()]
    return sorted(slices, key=lambda one: int(one.InstanceNumber))


def test_it_refers_to_the_series_and_shares_its_frame_of_reference(series, tmp_path):
    write_dicom_seg(some_labels(), AFFINE, str(series), tmp_path / "seg.dcm", NAMES)
    written, source = read_back(tmp_path / "seg.dcm"), by_place(series)[0]
    assert written.Modality == "SEG"
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    for name in ("FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "PatientName"):
        assert written[name].value == source[name].value, name
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    referred = {
        item.ReferencedSOPInstanceUID for item in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {one.SOPInstanceUID for one in by_place(series)}


def test_segments_bear_the_names_of_the_classes_even_where_nothing_was_found(tmp_path):
    series = write_series(tmp_path / "series", VOXELS, AFFINE, leave_out=(3,))
    for value, count in ((1, VOXELS.shape[2] - 1), (0, None)):  # a slice that was missing gets no frame
        write_dicom_seg(np.full(VOXELS.shape, value), AFFINE, str(series), tmp_path / "seg.dcm", NAMES)
        segments = highdicom.seg.segread(tmp_path / "seg.dcm").SegmentSequence
        assert [(int(one.SegmentNumber), one.SegmentLabel) for one in segments] == [(1, "liver"), (2, "tumour")]
        assert {one.SegmentAlgorithmType for one in segments} == {"AUTOMATIC"}
        assert count is None or len(frames(read_back(tmp_path / "seg.dcm"))) == count


def test_every_frame_lies_on_the_slice_that_was_labelled(series, tmp_path):
    labels = some_labels()
    write_dicom_seg(labels, AFFINE, str(series), tmp_path / "seg.dcm", NAMES)
    sources = [str(one.SOPInstanceUID) for one in by_place(series)]
    seen = np.zeros_like(labels)
    for name, instance, pixels in frames(read_back(tmp_path / "seg.dcm")):
        seen[:, :, sources.index(instance)][pixels.T > 0] = NAMES.index(name)
    np.testing.assert_array_equal(seen, labels)


def in_the_world(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    places = np.argwhere(voxels) @ affine[:3, :3].T + affine[:3, 3]
    return np.array(sorted(map(tuple, np.round(places, 3))))


@pytest.mark.parametrize("enhanced", [False, True])
def test_highdicom_finds_it_at_the_same_place_in_the_world(series, tmp_path, enhanced):
    scan = series
    if enhanced:
        scan = write_enhanced(tmp_path / "in" / "scan.dcm", VOXELS, AFFINE, order=[3, 0, 7, 1, 6, 2, 5, 4])
    write_dicom_seg(some_labels(), AFFINE, str(scan), tmp_path / "seg.dcm", NAMES)
    found = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    for value in (1, 2):
        there = in_the_world(found.array == value, to_ras(found.affine))
        np.testing.assert_allclose(there, in_the_world(some_labels() == value, AFFINE), atol=2e-3)


def test_labels_of_a_turned_grid_come_to_the_same_slices(series, tmp_path):
    """As after a preprocessing that was not undone: other axes, the same world."""
    turn = np.array([[0, 0, 1, 0], [-1, 0, 0, VOXELS.shape[1] - 1], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    labels = some_labels()
    turned = labels.transpose(1, 2, 0)[::-1]
    # turned[i, j, k] = labels[k, Y - 1 - i, j]
    affine = AFFINE @ turn
    write_dicom_seg(labels, AFFINE, str(series), tmp_path / "a.dcm", NAMES)
    write_dicom_seg(turned, affine, str(series), tmp_path / "b.dcm", NAMES)
    straight, turned_back = (frames(read_back(tmp_path / name)) for name in ("a.dcm", "b.dcm"))
    assert [frame[:2] for frame in straight] == [frame[:2] for frame in turned_back]
    for one, other in zip(straight, turned_back, strict=True):
        np.testing.assert_array_equal(one[2], other[2])


def test_a_leaning_series_is_segmented_on_its_own_slices(tmp_path):
    series = write_series(tmp_path / "leaning", VOXELS, np.diag([1.0, 1.0, 2.0, 1.0]), lean=1.0)
    volume = open_volume(series)
    labels = np.zeros(volume.shape, np.int64)
    labels[4, 9, :] = 1  # a vertical line, which crosses the rows of a stack that leans
    write_dicom_seg(labels, volume.affine, str(series), tmp_path / "seg.dcm", NAMES)
    positions = {str(one.SOPInstanceUID): int(one.InstanceNumber) for one in by_place(series)}
    rows = {
        positions[instance]: np.flatnonzero(pixels.any(axis=1))
        for _, instance, pixels in frames(read_back(tmp_path / "seg.dcm"))
    }
    steps = np.diff([rows[number][0] for number in sorted(rows)])
    assert len(rows) > 3 and set(np.abs(steps)) == {1}  # mm of lean per slice, in pixels of 1 mm


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (change(without=["PatientName"]), r"series: highdicom makes no DICOM-SEG of it \(.*PatientName.*\)"),
        (change(SeriesInstanceUID=""), r"series: has no SeriesInstanceUID .* a DICOM-SEG cannot refer to it"),
    ],
)
def test_headers_that_do_not_serve_are_refused_in_one_line(tmp_path, fault, words):
    series = write_series(tmp_path / "series", VOXELS, AFFINE, change=fault)
    with pytest.raises(UserError, match=words) as refusal:
        write_dicom_seg(some_labels(), AFFINE, str(series), tmp_path / "seg.dcm", NAMES)
    assert "\n" not in str(refusal.value)


def test_several_files_of_frames_get_no_segmentation_and_are_told_so(tmp_path):
    for name, order in {"a.dcm": [0, 2, 4, 6], "b.dcm": [7, 5, 3, 1]}.items():
        write_enhanced(tmp_path / "in" / name, VOXELS, AFFINE, order=order, uid="1.2.3")
    with pytest.raises(UserError, match="consists of several multi-frame files, to which no DICOM-SEG is written"):
        write_dicom_seg(some_labels(), AFFINE, str(tmp_path / "in"), tmp_path / "seg.dcm", NAMES)


def test_scans_that_are_no_dicom_are_passed_over_with_a_word(tmp_path, caplog):
    meta = {"filename_or_obj": str(tmp_path / "a.nii.gz"), "reader": "NIfTI"}
    labels = MetaTensor(torch.ones(1, 3, 3, 3), meta=meta)
    layout = ScanLayout(tmp_path / "out", tmp_path, extension=".dcm")
    with caplog.at_level(logging.WARNING):
        SaveDicomSegd("pred", layout, NAMES)({"pred": labels})
    assert "a.nii.gz: is no DICOM series" in caplog.text
    assert not (tmp_path / "out").exists()


def test_names_of_classes_in_any_script_are_kept(series, tmp_path):
    names = ["background", "\u809d\u810f", "\u043e\u043f\u0443\u0445\u043e\u043b\u044c"]
    write_dicom_seg(some_labels(), AFFINE, str(series), tmp_path / "seg.dcm", names)
    assert [segment.SegmentLabel for segment in read_back(tmp_path / "seg.dcm").SegmentSequence] == names[1:]
