"""Promises of `desd_components.segmentation.unlabelled`: which scans teach without labels, and which are refused."""

import logging
import shutil

import numpy as np
import pytest
from scan_files import oblique_affine, write_json, write_label, write_nifti, write_pairs, write_scan

from desd_components import UserError, find_labelled, find_unlabelled
from desd_components.scans.names import stem

CASES = [f"case_{number}" for number in range(6)]
SPLIT = {"train": CASES[:3], "validation": CASES[3:4], "test": CASES[4:5]}


@pytest.fixture
def folder(tmp_path):
    write_pairs(tmp_path / "data", CASES, shape=(8, 8, 8))
    return tmp_path / "data"


def labelled(folder, **more):
    split = write_json(folder.parent / "split.json", more.pop("split", SPLIT))
    return find_labelled(folder, ["a", "b"], data_split=split, **more)


def found(data, folder, unlabelled_dir=None):
    return sorted(stem(scan["image"]) for scan in find_unlabelled(data, unlabelled_dir, folder.parent / "cache"))


def test_by_default_they_are_what_num_labels_leaves_out_and_images_without_a_label(folder):
    for name in ("alone", "judged"):
        write_scan(folder / "imagesTr" / f"{name}.nii.gz", (8, 8, 8), seed=len(name))
    data = labelled(folder, num_labels=1, split={**SPLIT, "test": ["case_4", "judged"]})
    [kept] = data.training
    assert found(data, folder) == ["alone", *sorted({"case_0", "case_1", "case_2"} - {stem(kept["image"])})]


def test_labelled_cases_that_no_section_names_are_not_among_them(folder):
    """So that a training which is told only its own cases never sees those of the test."""
    data = labelled(folder, split={"train": CASES[:2]}, val_fraction=0, num_labels=1)
    assert {stem(scan["image"]) for scan in (*data.training, *data.unlabelled)} == set(CASES[:2])


def test_a_folder_of_them_may_hold_labelled_scans_which_are_left_out(folder, caplog):
    shutil.copytree(folder / "imagesTr", folder.parent / "all")
    for name in ("case_3", "case_4"):
        (folder.parent / "all" / f"{name}.nii.gz").unlink()
    with caplog.at_level(logging.INFO):
        assert found(labelled(folder), folder, folder.parent / "all") == ["case_5"]
    assert "3 of 4 unlabelled scans are labelled ones, and left out" in caplog.text


@pytest.mark.parametrize("case", ["case_3", "case_4"])
def test_validation_and_test_cases_among_them_are_refused_by_name_whatever_they_are_called(folder, case):
    write_scan(folder.parent / "more" / "another.nii.gz", (8, 8, 8), seed=9)
    shutil.copyfile(folder / "imagesTr" / f"{case}.nii.gz", folder.parent / "more" / "renamed.nii.gz")
    with pytest.raises(UserError, match=r"renamed\.nii\.gz: 1 of 2 unlabelled scans are validation or test cases"):
        found(labelled(folder), folder, folder.parent / "more")


@pytest.mark.parametrize(("place", "words"), [(None, "num_labels leaves none out"), ("nowhere", "does not exist")])
def test_without_any_the_run_is_refused(folder, place, words):
    with pytest.raises(UserError, match=words):
        found(labelled(folder), folder, place)


def ct(seed=0):
    """Air, fat and soft tissue, in Hounsfield units."""
    volume = np.random.default_rng(seed).normal(40, 20, size=(16, 16, 16)).astype(np.float32)
    volume[:6], volume[6:8] = -1000, -100
    return volume


def test_another_modality_is_refused_by_name(folder):
    write_nifti(folder.parent / "more" / "ct.nii.gz", ct())
    with pytest.raises(UserError, match=r"ct\.nii\.gz: unlabelled scans that are CT, unlike the labelled"):
        found(labelled(folder), folder, folder.parent / "more")


def test_mr_beside_labelled_ct_is_refused_too(tmp_path):
    write_nifti(tmp_path / "data" / "imagesTr" / "a.nii.gz", ct())
    write_label(tmp_path / "data" / "labelsTr" / "a.nii.gz", (16, 16, 16))
    write_scan(tmp_path / "more" / "mr.nii.gz", (8, 8, 8))
    data = find_labelled(tmp_path / "data", ["a", "b"], val_fraction=0)
    with pytest.raises(UserError, match=r"mr\.nii\.gz: unlabelled scans that are no CT in Hounsfield units"):
        found(data, tmp_path / "data", tmp_path / "more")


def test_a_foreign_spacing_is_told_by_name(folder, caplog):
    volume = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    write_nifti(folder.parent / "more" / "thick.nii.gz", volume, oblique_affine((1.0, 1.0, 30.0)))
    assert found(labelled(folder), folder, folder.parent / "more") == ["thick"]
    assert "foreign spacing: 1 of 1 unlabelled scans" in caplog.text and "thick.nii.gz" in caplog.text
