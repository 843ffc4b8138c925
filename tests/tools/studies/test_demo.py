"""The demo: its plan of commands, what it refuses, and the whole of it with the smoke overlays."""

import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runs import ROOT, succeed
from forks import desd, forked_commands

from desd_components.base.errors import UserError
from desd_tools.studies import demo, machine
from desd_tools.studies.phantom import phantom
from desd_tools.studies.steps import keys


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    return phantom.write_family(tmp_path_factory.mktemp("data") / "family", 8, 3, seed=2, size=24)


def _plan(tmp_path: Path, family: Path, **changes: object) -> demo.Plan:
    settings = {"data": str(family), "output": str(tmp_path / "demo"), "bundles": "", "num_labels": 3, "seed": 5}
    plan = demo.prepare(**{**settings, "smoke": True, **changes})  # type: ignore[arg-type]
    (plan.output / "steps").mkdir(parents=True, exist_ok=True)
    demo.write_lists(plan)
    return plan


def test_child_processes_take_the_cores_that_are_free_and_sleep_while_they_wait(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    for load, threads in ((0.2, "2"), (2.1, "2"), (3.0, "1"), (9.0, "1")):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert machine.child_environment(2) == {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.child_environment(2)["OMP_NUM_THREADS"] == "3", "the user's own setting stays"


def test_the_two_arms_differ_in_the_checkpoint_and_their_folder_alone(tmp_path, family):
    steps = {step.name: step.command for step in demo.training_steps(_plan(tmp_path, family))}
    encoder, scratch = steps["finetune-encoder"], steps["finetune-scratch"]
    place = encoder.index("--encoder_checkpoint")
    assert encoder[place + 1].endswith("pretrain/encoder.pt")
    rest = encoder[:place] + encoder[place + 2 :]
    assert [word.replace("finetune_encoder", "finetune_scratch") for word in rest] == scratch


def test_pretraining_sees_no_test_image_and_no_label(tmp_path, family):
    plan = _plan(tmp_path, family)
    images = [Path(record["image"]) for record in json.loads(plan.scans.read_text())["training"]]
    splits = json.loads((family / "splits.json").read_text())
    names = {path.name.removesuffix(".nii.gz") for path in images}
    assert names == {*splits["train"], *splits["validation"], "phantom_008", "phantom_009", "phantom_010"}
    assert all(path.parent.name in ("imagesTr", "imagesTs") and path.is_file() for path in images)


def test_a_changed_scan_changes_the_key_of_every_training_step(tmp_path, family):
    own = tmp_path / "own"
    shutil.copytree(family, own)
    before = keys(demo.training_steps(_plan(tmp_path, own)))
    assert keys(demo.training_steps(_plan(tmp_path, own))) == before
    image = own / "imagesTr" / "phantom_000.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), image)
    after = keys(demo.training_steps(_plan(tmp_path, own)))
    assert all(before[name] != after[name] for name in before)


def test_another_folder_of_bundles_is_used_when_it_is_named(tmp_path, family):
    shutil.copytree(ROOT / "bundles", tmp_path / "mine")
    plan = _plan(tmp_path, family, bundles=str(tmp_path / "mine"))
    assert all(str(tmp_path / "mine") in " ".join(step.command) for step in demo.training_steps(plan))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "/no/such/folder"}, "no such folder"),
        ({"bundles": "/no/such/bundles"}, "no bundle is there"),
        ({"output": "OTHER"}, "no earlier demo"),
    ],
)
def test_folders_that_are_not_there_or_hold_other_things_are_refused_and_left_alone(tmp_path, family, changes, words):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    changes = {name: value.replace("OTHER", str(tmp_path / "thesis")) for name, value in changes.items()}
    with pytest.raises(UserError, match=words):
        _plan(tmp_path, family, **changes)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["thesis", "thesis.txt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str, str]:
    """The smoke demo, run twice as people run it: its folder and what both runs printed."""
    output, bundles = (tmp_path_factory.mktemp("whole") / name for name in ("demo", "bundles"))
    shutil.copytree(ROOT / "bundles", bundles)  # a config that is edited meanwhile would rightly be run again
    with forked_commands():
        first, again = (succeed(desd("demo", "--smoke", "--output", output, "--bundles", bundles)) for _ in range(2))
    return output, first.stdout, again.stdout


def test_the_whole_demo_ends_with_the_dice_of_both_arms_and_the_page(finished):
    output, printed, _ = finished
    for arm, words in demo.ARMS.items():
        mean = json.loads((output / f"finetune_{arm}" / "metrics.json").read_text())["mean"]["dice"]["mean"]
        assert f"Dice {words}: {mean:.3f}" in printed
    assert printed.splitlines()[-1] == f"page: {output / 'index.html'}"
    assert printed.count("  python -m ") == len(list((output / "logs").glob("*.log"))) == 8, "of each step"


def test_the_page_of_the_whole_demo_shows_everything_and_asks_for_nothing(finished):
    html = (finished[0] / "index.html").read_text()
    for title in (
        "Result",
        "What it looks like",
        "Pre-training",
        "Fine-tuning",
        "How it was made",
        "Where every file is",
    ):
        assert f"<h2>{title}</h2>" in html
    assert html.count("<svg") >= 1 + 2 + 4 + 1, "bars, slices, health of the pre-training, fine-tuning"
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", html) and html.count("<script") <= 1
    assert "This was a smoke run" in html


def test_new_scans_are_segmented_on_their_own_grid(finished):
    output = finished[0]
    tests = json.loads((output / "data" / "splits.json").read_text())["test"]
    for arm in demo.ARMS:
        for name in tests:
            image = nib.nifti1.load(output / "data" / "imagesTr" / f"{name}.nii.gz")
            [found] = (output / f"new_scans_{arm}").rglob(f"{name}.nii.gz")
            label = nib.nifti1.load(found)
            assert label.shape == image.shape
            np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)


def test_a_second_run_skips_every_finished_step(finished):
    _, first, second = finished
    assert first.count("already done, skipped") == 0 and first.count("done in") == 8
    assert second.count("already done, skipped") == 8 and "done in" not in second
