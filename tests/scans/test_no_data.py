"""Where there are no data yet, everything up to the run can be built; the run itself refuses in one line."""

from __future__ import annotations

import logging

import pytest
from scan_files import loading

from desd_components import (
    ContextDataset,
    EpochSampler,
    LabelledData,
    PreprocessedDataset,
    UserError,
    VolumeCache,
    find_labelled,
    find_scans,
    require_scans,
    target_spacing,
    usable_labelled,
    usable_records,
)


@pytest.mark.parametrize("find", [find_scans, find_labelled])
def test_a_folder_that_does_not_exist_gives_nothing_and_one_warning(tmp_path, caplog, find):
    found = find(tmp_path / "nowhere")
    assert found == ([] if find is find_scans else LabelledData([], [], [], origin="no data"))
    [(_, level, line)] = caplog.record_tuples
    assert level == logging.WARNING and "does not exist" in line and "with `--dataset_dir DIR`" in line


def test_the_classes_that_were_asked_for_are_known_without_data(tmp_path):
    assert find_labelled(tmp_path / "nowhere", ["liver"]).class_names == ["background", "liver"]


@pytest.mark.parametrize(
    ("dataset_dir", "words"), [("nowhere", "does not exist .* with `--dataset_dir DIR`"), ("", "is empty")]
)
def test_a_run_on_nothing_is_refused_with_what_may_stand_there(tmp_path, monkeypatch, dataset_dir, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"dataset_dir .*{words}"):
        require_scans(dataset_dir, find_scans(dataset_dir))


def test_scans_from_elsewhere_need_no_dataset_dir(tmp_path):
    require_scans(tmp_path / "nowhere", [{"image": "another.nii.gz"}])


def test_no_scans_of_a_folder_that_is_there_are_refused_too(tmp_path):
    with pytest.raises(UserError, match="there is no scan to work on: is dataset_dir right"):
        require_scans(tmp_path, [])


def test_datasets_and_samplers_of_nothing_have_no_length(tmp_path):
    contexts = ContextDataset([], VolumeCache(loading("image"), tmp_path / "cache"), [8, 8, 8], [1, 2])
    volumes = PreprocessedDataset([], VolumeCache(loading("image", "label"), tmp_path / "cache", ("image", "label")))
    assert (len(contexts), len(volumes)) == (0, 0)
    assert VolumeCache(loading("image"), tmp_path / "cache").prepare([]) == []
    sampler = EpochSampler(contexts, batch_size=4)
    assert (len(sampler), list(sampler)) == (0, [])
    with pytest.raises(IndexError):
        contexts[0]


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_of_nothing_nothing_is_left_out(tmp_path, choice):
    places = (VolumeCache(loading("image"), tmp_path / "cache"), choice, tmp_path / "run")
    assert usable_records([], *places) == []
    nothing = LabelledData(["background", "organ"], [], [])
    assert usable_labelled(nothing, *places) == nothing and not (tmp_path / "run").exists()


def test_the_median_spacing_of_nothing_is_no_change():
    assert target_spacing("median", []) is None
