"""Where there are no data yet, everything up to the run can be built; the run itself refuses in one line."""

import logging

import pytest

from desd_components import LabelledData, UserError, find_labelled, find_scans, require_scans


@pytest.mark.parametrize("find", [find_scans, find_labelled])
def test_a_folder_that_does_not_exist_gives_nothing_and_one_warning(tmp_path, caplog, find):
    found = find(tmp_path / "nowhere")
    assert found == ([] if find is find_scans else LabelledData([], [], [], origin="no data"))
    [(_, level, line)] = caplog.record_tuples
    assert level == logging.WARNING and "does not exist" in line and "with `--dataset_dir DIR`" in line


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
