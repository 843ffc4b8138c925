"""Both bundles, killed and stopped in the middle, end bit for bit like a run that was never disturbed."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import ENVIRONMENT, ROOT, config_files, run_files, succeed
from forked_runs import overlay, run_forked
from scan_files import write_pairs
from states import ends_like

from desd_components.runs.state import read_state

BUNDLES = ("desd_pretrain", "desd_seg_finetune")
CONFIGS = {"desd_pretrain": "train smoke", "desd_seg_finetune": "train small smoke"}
KILL, TERM, INT = -9, 143, 130
EVERY_STEP = {"run_folder#save_minutes": 0}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scans"
    write_pairs(folder, [f"case_{number}" for number in range(8)], shape=(16, 17, 16))
    return folder


@pytest.fixture(scope="module")
def settings(scans, tmp_path_factory):
    common = {"dataset_dir": scans, "cache_dir": tmp_path_factory.mktemp("cache")}
    pretrain = {**common}
    finetune = {**common, "class_names": ["one", "two"], "samples_per_epoch": 8, "val_fraction": 0.5}
    return {"desd_pretrain": pretrain, "desd_seg_finetune": finetune}


@pytest.fixture(scope="module")
def train(settings):
    def run(bundle: str, output_dir: Path, *overlays: Path, configs: str = "", **others: Any) -> list[int]:
        names = f"{CONFIGS[bundle]} {configs}"
        return run_forked(bundle, names, output_dir, *overlays, **{**settings[bundle], **EVERY_STEP, **others})

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """An undisturbed run of each bundle."""
    folders = {bundle: tmp_path_factory.mktemp(bundle) / "whole" for bundle in BUNDLES}
    for bundle, folder in folders.items():
        assert train(bundle, folder) == [0], folder.with_name("whole_0.txt").read_text()[-3000:]
    return folders


SignalAt, KillWhileSaving = "interruptions.SignalAt", "interruptions.KillWhileSaving"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_killed_within_epochs_and_while_saving_ends_like_the_undisturbed_one(train, whole, tmp_path, bundle):
    run = tmp_path / "run"
    assert train(bundle, run, overlay(tmp_path / "a.yaml", {"_target_": SignalAt, "iteration": 3})) == [KILL]
    assert read_state(run / "state.pt")["iteration"] == 2
    # the third saving of the second process is that after the fifth batch
    assert train(bundle, run, overlay(tmp_path / "b.yaml", {"_target_": KillWhileSaving, "saving": 3})) == [KILL]
    assert read_state(run / "state.pt")["iteration"] == 4
    assert train(bundle, run) == [0]
    assert ends_like(whole[bundle], run)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_loader_processes_go_on_at_the_same_batch(train, whole, tmp_path, bundle):
    run = tmp_path / "run"
    for iteration in (2, 6):
        stop = overlay(tmp_path / "a.yaml", {"_target_": SignalAt, "iteration": iteration, "name": "SIGTERM"})
        assert train(bundle, run, stop, num_workers=2) == [TERM]
        assert read_state(run / "state.pt")["iteration"] == iteration
    assert train(bundle, run, num_workers=2) == [0]
    # begun with them, too: initial weights are a function of the seed alone, which MONAI's loader reseeds with none
    assert ends_like(whole[bundle], run)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_state_of_another_folder_brings_the_weights_along(train, whole, tmp_path, bundle):
    assert train(bundle, tmp_path / "run", resume=whole[bundle] / "state.pt") == [0]
    [weights] = [path for path in whole[bundle].glob("*.pt") if not path.name.startswith("state")]
    assert (tmp_path / "run" / weights.name).read_bytes() == weights.read_bytes()


#: of both bundles, some settings of each kind: knobs, parts of components, entries of lists of components, sizes of
#: tensors, and the length of an epoch
CHANGES: dict[str, dict[str, Any]] = {
    "desd_pretrain": {
        "train#dataset#slab_depth": 16,
        "distillation_def#student_stages": [2, 3, 4],
        "loss#stage_weights": [0.4, 0.3, 0.3],
        "amp": True,
        "views#1#gamma": [0.5, 1.5],
        "optimizer#momentum": 0.5,
        "loss#terms": [{"_target_": "desd_components.CodingRateTerm", "weight": 0.4}],
        "distillation_def#head_hidden": 16,
        "batch_size": 4,
    },
    "desd_seg_finetune": {
        "samples_per_epoch": 7,
        "val_interval": 2,
        "handlers#early_stop#patience": 3,
        "validate#inferer#inferer#overlap": 0.5,
        "train#augmentation#transforms#1#num_samples": 2,
        "optimizer#betas": [0.8, 0.9],
        "network_def#decoder_width": 4,
        "batch_size": 4,
    },
}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_changed_settings_are_refused_by_their_names_and_the_folder_stays_as_it_was(train, whole, tmp_path, bundle):
    run = tmp_path / "run"
    shutil.copytree(whole[bundle], run)
    assert train(bundle, run, **CHANGES[bundle]) == [1]
    said = (tmp_path / "run_0.txt").read_text()
    for name in CHANGES[bundle]:
        named = "batches of an epoch" if name == "batch_size" else name + "(#0#weight)?"
        assert re.search(f"cannot go on, for (.*; )?{named} was ", said), f"{name}: {said[-2000:]}"
    assert "start anew with resume: never" in said
    assert contents(run) == contents(whole[bundle])


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_finished_run_is_not_begun_again_and_what_only_shows_or_ends_a_run_may_change(train, whole, tmp_path, bundle):
    run = tmp_path / "run"
    shutil.copytree(whole[bundle], run)
    free = {"handlers#skip#max_skipped_steps": 9, "run_folder#save_minutes": 1}
    free |= {"run_folder#record_interval": 3, "on_collapse": "stop"} if bundle == "desd_pretrain" else {}
    assert train(bundle, run, **free) == [0]
    assert ends_like(whole[bundle], run)
    assert "going on after epoch 2" in (tmp_path / "run_0.txt").read_text()


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_whose_optimizer_was_not_fused_goes_on(train, tmp_path, bundle):
    stop = overlay(tmp_path / "a.yaml", {"_target_": SignalAt, "iteration": 2, "name": "SIGTERM"})
    assert train(bundle, tmp_path / "run", stop, **{"optimizer#fused": False}) == [TERM]
    assert train(bundle, tmp_path / "run") == [0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, but for its log, to which each start adds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "train.log"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_both_of_two_processes_stop_at_the_same_step_when_one_is_told(train, tmp_path):
    two = {"configs": "multi_gpu_train", "processes": 2, "batch_size": 1}
    assert train("desd_pretrain", tmp_path / "whole", **two) == [0, 0]
    told = overlay(tmp_path / "a.yaml", {"_target_": SignalAt, "iteration": 7, "name": "SIGTERM", "rank": 1})
    assert train("desd_pretrain", tmp_path / "run", told, **two) == [TERM, TERM]
    assert read_state(tmp_path / "run" / "state.pt")["iteration"] == 7
    assert train("desd_pretrain", tmp_path / "run", **two) == [0, 0]
    assert ends_like(tmp_path / "whole", tmp_path / "run")


def test_ctrl_c_ends_the_command_with_one_plain_line_and_130(settings, whole, train, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(ROOT / "tests" / "helpers"))
    stop = overlay(tmp_path / "a.yaml", {"_target_": SignalAt, "iteration": 2, "name": "SIGINT"})
    files = config_files("desd_pretrain", "train", "smoke")

    own = {"own_process": True, "output_dir": tmp_path / "run", **settings["desd_pretrain"]}
    done = run_files([*files, str(stop)], "training", **own)
    said = done.stdout + done.stderr
    assert done.returncode == INT, said[-3000:]
    assert "Traceback" not in said and "ERROR" not in said
    [line] = [line for line in said.splitlines() if "stopped by SIGINT" in line]
    assert "in epoch 1 after 2 of its 4 batches" in line
    assert train("desd_pretrain", tmp_path / "run") == [0]
    assert ends_like(whole["desd_pretrain"], tmp_path / "run")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_run_repeats_from_the_config_that_it_wrote(bundle, whole, tmp_path):
    succeed(run_files([str(whole[bundle] / "config.yaml")], "training", output_dir=tmp_path / "again"))
    assert ends_like(whole[bundle], tmp_path / "again")
