"""MONAI Label and MONAI Deploy themselves with the packed bundle, where interpreters have them: see docs/sharing.md."""

import json
import os
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bundle_runs import ROOT

from desd_tools.pack.pack import pack
from desd_tools.pack.pack_checks import foreign_environment, last_words, run_command, run_foreign, write_volumes

HELPERS = ROOT / "tests" / "helpers"
CASES = ("tiny_0.nii.gz", "tiny_1.nii.gz")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def python_of(variable, what):
    return os.environ.get(variable) or pytest.skip(f"{variable} names no interpreter that has {what}")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack(str(ROOT / "bundles" / "desd_seg_finetune"), output=str(folder))
    return folder / "desd_seg_finetune"


@pytest.fixture(scope="module")
def data(packed):
    return write_volumes(packed, packed.parent / "data")


@pytest.fixture(scope="module")
def plain(packed, data):
    """What the bundle's own inference writes."""
    out = packed.parent / "plain"
    settings = {"dataset_dir": data / "imagesTr", "output_dir": out}
    done = run_foreign(run_command([str(packed / "configs" / "inference.json")], settings), data)
    assert done.returncode == 0, last_words(done)
    return [nibabel.load(out / case) for case in CASES]


def run(*command):
    done = subprocess.run(list(map(str, command)), env=foreign_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def voxels(image):
    return np.asanyarray(image.dataobj)


def test_an_annotator_segments_labels_trains_and_segments_again(packed, data, plain, tmp_path):
    python = python_of("DESD_LABEL_PYTHON", "MONAI Label")
    said = run(python, HELPERS / "label_session.py", packed, data / "imagesTr", data / "labelsTr", tmp_path)
    seen = json.loads(said.splitlines()[-1])
    assert seen["models"] == ["desd_seg_finetune"]
    assert seen["labels"] == {"anterior": 1, "posterior": 2}
    before = [nibabel.load(tmp_path / "before" / case) for case in CASES]
    for ours, theirs in zip(plain, before, strict=True):
        np.testing.assert_array_equal(voxels(theirs), voxels(ours))
        np.testing.assert_array_equal(theirs.affine, ours.affine)
    assert seen["trainings"] == ["DONE", "DONE"]
    split = json.loads(Path(seen["run"], "split.json").read_text())
    assert [len(split[section]) for section in ("train", "validation")] == [2, 2]  # not gone on from the first training
    *_, last, validation = map(json.loads, Path(seen["run"], "history.jsonl").read_text().splitlines())
    assert validation["val_mean_dice"] > 0.5, "its own scans were not validated: of three classes a third is luck"
    assert (last["epoch"], last["step"], last["learning_rate"] < 1e-4) == (1, 50, True), "a schedule of other epochs"
    assert (voxels(nibabel.load(tmp_path / "after" / CASES[0])) != voxels(before[0])).any()


def test_a_deployed_application_makes_the_same_labels(packed, data, plain, tmp_path):
    python = python_of("DESD_DEPLOY_PYTHON", "the MONAI Deploy App SDK")
    run(python, HELPERS / "deploy_app.py", packed, data / "imagesTr" / CASES[0], tmp_path / "pred.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "pred.npy"), voxels(plain[0]))
