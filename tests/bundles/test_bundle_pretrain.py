"""The pre-training bundle, through the command line, on tiny oblique volumes."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from bundle_runs import ROOT, config_files, error_line, history, run_bundle, run_files, succeed
from forked_runs import run_forked
from monai.bundle import ConfigParser, ConfigWorkflow
from scan_files import write_label, write_scan

from desd_components import encoder_from, read_manifest

NAME = "desd_pretrain"
SHAPES = [(24, 22, 20), (20, 26, 21), (22, 20, 24), (21, 23, 25), (26, 20, 20)]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scans"
    for number, shape in enumerate(SHAPES):
        write_scan(folder / "imagesTr" / f"case_{number}.nii.gz", shape, seed=number)
    write_label(folder / "labelsTr" / "case_0.nii.gz", SHAPES[0])
    return folder


def pretrain(scans, folder, configs="train smoke", **settings):
    defaults = {"dataset_dir": scans, "output_dir": folder / "run", "cache_dir": folder / "cache"}
    return run_bundle(NAME, configs, "training", **{**defaults, **settings})


def pretrain_in_two(scans, folder, run="run", **settings):
    settings = {"dataset_dir": scans, "cache_dir": folder / "cache", **settings}
    codes = run_forked(NAME, "train smoke multi_gpu_train", folder / run, processes=2, **settings)
    assert codes == [0, 0], (folder / f"{run}_0.txt").read_text()[-3000:]


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    done = succeed(pretrain(scans, folder))
    return folder / "run", done


def test_a_run_leaves_everything_in_its_folder_as_json_that_a_strict_reader_takes(trained):
    names = {path.name for path in trained[0].iterdir()}
    wanted = {"config.yaml", "environment.json", "data.json", "train.log", "history.jsonl", "tensorboard"}
    assert wanted | {"encoder.pt", "encoder.json", "state.pt"} <= names
    texts = [path.read_text() for path in trained[0].rglob("*.json")]
    lines = (trained[0] / "history.jsonl").read_text().splitlines()
    read = [json.loads(text, parse_constant=pytest.fail) for text in [*texts, *lines]]
    assert any(value is None for record in read for value in record.values())  # what so short a run cannot know


def test_the_start_tells_rate_half_life_ln_k_and_shapes(trained):
    said = trained[1].stdout + trained[1].stderr
    for words in ("4 optimiser steps", "half-life is 173 steps", "ln K = 4.1589", "stage 4         (2, 2, 2)"):
        assert words in said
    assert "1 label or mask files left out of 6" in said


def test_the_manifest_says_what_the_encoder_needs(trained):
    manifest = read_manifest(trained[0] / "encoder.pt")
    assert (manifest["kind"], manifest["half"], manifest["volumes"]) == ("encoder", "teacher", 5)
    assert manifest["architecture"]["depth"] == 10
    wanted = {"orientation": "RAS", "spacing": None, "intensity": "zscore", "hu_window": None}
    assert manifest["preprocessing"] == wanted
    assert encoder_from(trained[0] / "encoder.pt").stage_channels == (8, 16, 32, 64)


def test_the_history_has_training_that_moves_the_teacher_and_label_free_scores(trained):
    records = history(trained[0])
    steps = [r for r in records if "loss" in r]
    scores = [r for r in records if "val_retrieval_4" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert [r["teacher_temperature"] for r in steps] == pytest.approx([0.04, 0.04, 0.07, 0.07])
    assert all(r["teacher_movement"] > 0 and r["teacher_distance"] > 0 for r in steps[1:])
    assert len(scores) == 2
    assert all(0 <= scores[-1][f"val_{kind}_{stage}"] <= 1 for kind in ("retrieval", "rank") for stage in (1, 2, 3, 4))


def test_pretraining_goes_on_from_shipped_weights(trained, scans, tmp_path):
    done = succeed(pretrain(scans, tmp_path, init_checkpoint=trained[0] / "encoder.pt", learning_rate=0.0))
    assert "all 36 tensors loaded" in done.stdout + done.stderr
    first = torch.load(trained[0] / "encoder.pt", weights_only=True)
    again = torch.load(tmp_path / "run" / "encoder.pt", weights_only=True)
    torch.testing.assert_close(again, first, rtol=0, atol=1e-4)


def test_local_views_and_same_stage_targets_run_from_an_overlay(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    overlay = {
        "+views": [{"_target_": "desd_components.ViewRecipe", "size": [16, 16, 8]}],
        "distillation_def#teacher_target": "same_stage",
        "max_epochs": 1,
        "warmup_steps": 0,
    }
    path = tmp_path / "local.yaml"
    path.write_text(yaml.safe_dump(overlay))
    files = [*config_files(NAME, "train", "smoke"), str(path)]
    places = {"dataset_dir": scans, "output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
    workflow = ConfigWorkflow(files, workflow_type="train", **{name: str(place) for name, place in places.items()})
    workflow.initialize()
    workflow.run()
    prediction = workflow.parser.get_parsed_content("train#trainer").state.output["pred"]
    assert prediction.student_logits.shape == (4, 3, 2, 64)
    assert prediction.teacher_logits.shape == (4, 2, 2, 64)


def test_a_local_view_that_leaves_one_voxel_is_refused(scans, tmp_path):
    path = tmp_path / "local.yaml"
    small = {"_target_": "desd_components.ViewRecipe", "size": [4, 4, 4]}
    path.write_text(yaml.safe_dump({"+views": [small]}))
    files = [*config_files(NAME, "train", "smoke"), str(path)]
    done = run_files(files, "training", dataset_dir=scans, output_dir=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert "Views of (4, 4, 4) voxels leave a map of (1, 1, 1) at stage 4" in error_line(done)


def test_two_processes_teach_the_shallow_stages_alone(scans, tmp_path):
    shallow = {"distillation_def#student_stages": [1, 2], "distillation_def#teacher_target": "same_stage"}
    pretrain_in_two(scans, tmp_path, max_epochs=1, warmup_steps=0, **shallow)
    assert [r for r in history(tmp_path / "run") if "stage_2_loss" in r]


def test_two_channels_run_from_the_command_line(tmp_path):
    for number in range(2):
        write_scan(tmp_path / "scans" / f"case_{number}.nii.gz", (20, 20, 20, 2), seed=number)
    succeed(pretrain(tmp_path / "scans", tmp_path, in_channels=2, max_epochs=1, warmup_steps=0))
    assert read_manifest(tmp_path / "run" / "encoder.pt")["architecture"]["in_channels"] == 2


def test_one_process_and_two_learn_the_same(scans, tmp_path):
    common = {"distillation_def#head_norm": "none", "max_epochs": 20, "val_interval": 20}
    common["cache_dir"] = tmp_path / "cache"
    succeed(pretrain(scans, tmp_path, output_dir=tmp_path / "one", batch_size=4, **common))
    pretrain_in_two(scans, tmp_path, "two", batch_size=2, **common)
    one, two = (torch.load(tmp_path / run / "state.pt", weights_only=True)["objects"] for run in ("one", "two"))
    teacher = [name for name in one["network"] if name.startswith("teacher.")]
    assert len(teacher) > 40
    for name in teacher:
        torch.testing.assert_close(one["network"][name], two["network"][name], rtol=0, atol=1e-5, msg=name)
    torch.testing.assert_close(one["loss"]["center"], two["loss"]["center"], rtol=0, atol=1e-5)
    losses = [[r["loss"] for r in history(tmp_path / run) if "loss" in r] for run in ("one", "two")]
    assert len(losses[0]) == 20
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_gradients_that_travel_in_bfloat16_teach_nearly_the_same_and_such_a_run_goes_on(scans, tmp_path):
    common = {"batch_size": 2, "val_interval": None, "warmup_steps": 0}
    for run, rough in (("exact", False), ("rough", True)):
        pretrain_in_two(scans, tmp_path, run, max_epochs=4, **{"network#bf16_gradients": rough}, **common)
    exact, rough = ([r["loss"] for r in history(tmp_path / run) if "loss" in r] for run in ("exact", "rough"))
    assert len(exact) == 4 and exact[0] == rough[0]
    assert exact != rough and exact == pytest.approx(rough, rel=0.01)
    pretrain_in_two(scans, tmp_path, "rough", max_epochs=6, extend="keep", **{"network#bf16_gradients": True}, **common)
    assert [r["step"] for r in history(tmp_path / "rough") if "loss" in r] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup_steps": 4}, "The warm-up of 4 steps does not fit into a run of 4 steps"),
        ({"output_dir": "/proc/nowhere"}, "--output_dir"),
        ({"batch_size": 6}, "lower `batch_size`"),
    ],
)
def test_bad_settings_are_refused_in_one_line_before_training(scans, tmp_path, settings, words):
    done = pretrain(scans, tmp_path, **settings)
    assert words in error_line(done)
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_inference_writes_vectors_and_pictures_and_goes_on_after_a_bad_scan(trained, tmp_path):
    scans = tmp_path / "scans"
    write_scan(scans / "a" / "big.nii.gz", (30, 18, 25))
    write_scan(scans / "b" / "small.nii.gz", (9, 12, 10))
    (scans / "broken.nii.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    settings = {"dataset_dir": scans, "output_dir": tmp_path / "out", "checkpoint": trained[0] / "encoder.pt"}
    succeed(run_bundle(NAME, "inference", feature_maps=True, **settings))
    for name in ("a/big", "b/small"):
        vectors = np.load(tmp_path / "out" / f"{name}.npz")
        assert [vectors[f"stage_{stage}"].shape for stage in (1, 2, 3, 4)] == [(8,), (16,), (32,), (64,)]
        assert (tmp_path / "out" / f"{name}_features.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["segmented"]) == 2
    assert "broken.nii.gz" in report["failed"][0]["image"]


def test_every_number_of_the_method_names_its_origin():
    text = (ROOT / config_files(NAME, "train")[0]).read_text()
    for section in ("student and teacher", "loss", "optimiser and schedules, per optimiser step"):
        block = text.split(f"# {section}\n")[1].split("\n\n")[0]
        numbers = [line for line in block.splitlines() if re.search(r"[:,\[] ?\d", line.split(" #")[0])]
        unmarked = [line for line in numbers if not re.search(r"\[(authors' script|paper|ours)\]|lr: 0.0", line)]
        assert len(numbers) >= 3 and unmarked == [], section


def test_the_recipe_is_the_published_one():
    parser = ConfigParser()
    parser.read_config([str(ROOT / file) for file in config_files(NAME, "train")])
    published = {
        "max_epochs": 300,
        "batch_size": 32,
        "num_prototypes": 60000,
        "view_size": [96, 96, 16],
        "train#dataset#slab_depth": 24,
        "train#dataset#slab_stride": 12,
        "loss#student_temperature": 0.1,
        "loss#teacher_temperature": 0.04,
        "handlers#temperature#vc_kwargs#max_value": 0.07,
        "handlers#temperature#vc_kwargs#step_max_value": 20,
        "loss#center_momentum": 0.9,
        "distillation_def#student_stages": None,
        "loss#stage_weights": None,
        "teacher_momentum": 0.996,
        "learning_rate": 0.3,
        "warmup_steps": "$@steps.of_epochs(10)",
        "optimizer#params": "$desd_components.decay_groups(@distillation_def.student, 1.0e-6)",
        "frozen_prototype_epochs": 1,
        "amp": False,
    }
    assert {key: parser[key] for key in published} == published
    assert parser["final_learning_rate"] * 192 / 256 == pytest.approx(0.048)
