"""Fine-tuning with unlabelled scans beside labelled ones, through the bundle."""

import pytest
import torch
from bundle_runs import error_line, history, run_bundle
from forked_runs import overlay, run_forked
from labelled_volumes import CLASSES, write_cases
from scan_files import write_json
from states import ends_like

from desd_components.runs.state import read_state

NAME, CONFIGS = "desd_seg_finetune", "train small smoke self_train"
TERM = 143


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = write_cases(tmp_path_factory.mktemp("data") / "scans")
    split = {"train": ["case_0", "case_1", "case_2", "case_3"], "validation": ["case_4"]}
    return {
        "dataset_dir": folder,
        "data_split": write_json(folder.parent / "split.json", split),
        "cache_dir": folder.parent / "cache",
        "class_names": ["organ", "tumour"],
        "num_labels": 2,
        "samples_per_epoch": 8,
        "run_folder#save_minutes": 0,
    }


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert run_forked(NAME, CONFIGS, run, **settings) == [0], run.with_name("run_0.txt").read_text()[-3000:]
    return run


def test_the_teacher_is_the_result_and_the_weight_of_unlabelled_voxels_rises(whole):
    state = read_state(whole / "state.pt")["objects"]
    teacher, student = state["self_training"]["teacher"], state["network"]
    weights = torch.load(whole / "model.pt", weights_only=True)
    assert set(weights) == set(teacher) and all(torch.equal(weights[name], teacher[name]) for name in weights)
    assert any(not torch.equal(weights[name], student[name]) for name in weights)
    risen = [record["unlabelled_weight"] for record in history(whole) if "unlabelled_weight" in record]
    assert risen[-1] == pytest.approx(0.5)  # after 3 of 8 steps it begins, and rises over 3
    assert "8 steps are few" in (whole / "train.log").read_text()
    assert state["self_training"]["step"] == 8 and state["self_training"]["watch"]["crops"] == 5


def test_a_run_stopped_within_self_training_ends_like_the_undisturbed_one(settings, whole, tmp_path):
    stop = overlay(tmp_path / "a.yaml", {"_target_": "interruptions.SignalAt", "iteration": 5, "name": "SIGTERM"})
    run = tmp_path / "run"
    assert run_forked(NAME, CONFIGS, run, stop, num_workers=2, **settings) == [TERM]
    assert read_state(run / "state.pt")["iteration"] == 5
    assert run_forked(NAME, CONFIGS, run, num_workers=2, **settings) == [0]
    assert ends_like(whole, run)


def test_two_processes_stop_and_go_on_alike(settings, tmp_path):
    two = {**settings, "processes": 2}
    configs = f"{CONFIGS} multi_gpu_train"
    assert run_forked(NAME, configs, tmp_path / "whole", **two) == [0, 0]
    stop = {"_target_": "interruptions.SignalAt", "iteration": 3, "name": "SIGTERM", "rank": 1}
    assert run_forked(NAME, configs, tmp_path / "run", overlay(tmp_path / "a.yaml", stop), **two) == [TERM, TERM]
    assert run_forked(NAME, configs, tmp_path / "run", **two) == [0, 0]
    assert ends_like(tmp_path / "whole", tmp_path / "run")


def test_regions_sigmoids_and_bfloat16_are_as_good(settings, tmp_path):
    other = {"regions": [[1, 2], [2]], "activation": "sigmoid", "amp": True, "flip_axes": [0]}
    assert run_forked(NAME, CONFIGS, tmp_path / "run", **settings, **other) == [0]
    assert all(torch.isfinite(torch.tensor(record["loss"])) for record in history(tmp_path / "run") if "loss" in record)


def run(settings, place, **more):
    return run_bundle(
        NAME, CONFIGS, "training", output_dir=place / "run", **{**settings, "class_names": CLASSES, **more}
    )


def test_without_unlabelled_scans_it_is_refused_in_a_line_whose_remedy_works(settings, tmp_path):
    line = error_line(run(settings, tmp_path, num_labels=4))
    assert line.startswith("there is no unlabelled scan to learn from") and "--unlabelled_dir DIR" in line
    judged = error_line(run(settings, tmp_path, num_labels=4, unlabelled_dir=settings["dataset_dir"] / "imagesTr"))
    assert judged.startswith("case_4.nii.gz: 1 of 5 unlabelled scans are validation or test cases")
