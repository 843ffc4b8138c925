"""What is seen of a folder before anything is trained: grids in the patient's axes, values, boxes of classes, once."""

import json

import numpy as np
import pytest
from scan_files import write_json, write_nifti

from desd_components.scans.planning.machine import Machine
from desd_components.scans.planning.plan import planned_segmentation
from desd_components.scans.planning.survey import declared_modality, survey

SHAPE = (12, 10, 6)
MACHINE = Machine(510, 5e5, 16e9, "a CPU", 10, False)


def affine(order: tuple[int, int, int] = (0, 1, 2), spacing: tuple[float, ...] = (1.0, 2.0, 5.0)) -> np.ndarray:
    """A grid whose array axes run along the given axes of the patient."""
    found = np.zeros((4, 4))
    for axis, (patient_axis, size) in enumerate(zip(order, spacing, strict=True)):
        found[patient_axis, axis] = size
    found[3, 3] = 1
    return found


def scan(folder, name="a", order=(0, 1, 2)):
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 1:9, 3] = 1
    label[6:8, 4:5, 1:3] = 2
    return {
        "image": str(write_nifti(folder / f"{name}.nii.gz", image, affine(order))),
        "label": str(write_nifti(folder / f"{name}_label.nii.gz", label, affine(order))),
    }


def test_sizes_are_along_the_patients_axes_whatever_the_order_of_the_file(tmp_path):
    (seen,) = survey([scan(tmp_path, order=(2, 0, 1))], tmp_path, tmp_path / "cache").scans
    assert seen.shape == (10, 6, 12) and seen.spacing == pytest.approx((2, 5, 1))
    assert seen.boxes == {0: (8, 3, 6), 1: (8, 1, 3), 2: (1, 2, 2)}


def test_a_second_survey_opens_no_scan_and_says_the_same_until_one_changes(tmp_path, monkeypatch):
    scans = [scan(tmp_path, name) for name in ("a", "b")]
    first = survey(scans, tmp_path, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr("desd_components.scans.planning.survey.open_volume", None)
        assert survey(scans, tmp_path, tmp_path / "cache") == first
    (kept,) = (tmp_path / "cache" / "surveys").glob("*.json")
    assert json.loads(kept.read_text())[0]["shape"] == list(SHAPE)
    write_nifti(tmp_path / "a.nii.gz", np.full((4, 4, 40), 7.0, np.float32))
    assert sorted(survey(scans, tmp_path, tmp_path / "cache").scans[0].shape) == [4, 4, 40]


def test_a_scan_that_cannot_be_read_is_left_to_the_checks(tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    flat = write_nifti(tmp_path / "flat.nii.gz", np.ones((4, 5), np.float32), affine())
    nan = write_nifti(tmp_path / "nan.nii.gz", np.full(SHAPE, np.nan, np.float32), affine())
    rgb = write_nifti(tmp_path / "rgb.nii.gz", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), affine())
    odd = [{"image": str(path)} for path in (bad, flat, nan, rgb, tmp_path / "gone.nii.gz")]
    assert len(survey([*odd, scan(tmp_path)], tmp_path, tmp_path).scans) == 1
    assert planned_segmentation(survey(odd, tmp_path, tmp_path), MACHINE).numbers == {}


def test_voxels_are_read_of_a_sample_alone(tmp_path):
    scans = [scan(tmp_path, f"{number:02d}") for number in range(40)]
    seen = survey(scans, tmp_path, tmp_path / "cache").scans
    assert len(seen) == 40 and sum(one.values is not None for one in seen) == 24


@pytest.mark.parametrize(
    ("content", "modality"),
    [
        ({"modality": {"0": "MRI"}}, "MRI"),
        ({"channel_names": {"0": "CT"}}, "CT"),
        ({"modality": "PET"}, "PET"),
        ({"labels": {}}, None),
    ],
)
def test_the_modality_is_what_the_data_say(tmp_path, content, modality):
    write_json(tmp_path / "dataset.json", content)
    assert declared_modality(tmp_path) == modality
