"""nnU-Net itself takes a pre-trained encoder: planned, pre-trained, exported, loaded, and trained for an epoch."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from bundle_runs import ROOT, run_bundle, succeed
from scan_files import write_json

from desd_tools.pack.export import export

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
HELP = ROOT / "tests" / "helpers" / "nnunet_environment"
NAME = "Dataset004_Hippocampus"
CASES, ITERATIONS = 8, 8


@pytest.fixture
def nnunet(tmp_path):
    """Runs a command of nnU-Net's environment, the folder of whose commands DESD_NNUNET names."""
    commands = os.environ.get("DESD_NNUNET")
    if not commands or not (Path(commands) / "nnUNetv2_train").is_file():
        pytest.skip("DESD_NNUNET names no bin folder of an environment with nnunetv2 2.8.1: nnU-Net is left out")
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    more = {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELP)}

    def run(command, *words):
        line = [str(Path(commands) / command), *map(str, words)]
        done = subprocess.run(line, env={**os.environ, **folders, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run


def write_raw(source, target):
    """The first cases of a Decathlon folder in nnU-Net's raw form."""
    for file in sorted((source / "imagesTr").glob("*.nii.gz"))[:CASES]:
        for folder, name in (("imagesTr", file.name.replace(".nii.gz", "_0000.nii.gz")), ("labelsTr", file.name)):
            (target / folder).mkdir(parents=True, exist_ok=True)
            (target / folder / name).symlink_to(source / folder / file.name)
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
    write_json(target / "dataset.json", about)


def test_nnunet_starts_from_an_encoder_that_was_pre_trained_on_its_volumes(
    nnunet, real_data, tmp_path, record_property
):
    write_raw(real_data / "Task04_Hippocampus", tmp_path / "raw" / NAME)
    nnunet("nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "3d_fullres", "-np", 1, "-npfp", 1)
    plans = tmp_path / "preprocessed" / NAME / "nnUNetPlans.json"
    places = {"output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache", "page": False}
    settings = {"nnunet_plans": plans, "max_epochs": 2, "samples_per_epoch": 16, **places}
    succeed(run_bundle("desd_pretrain", "train small nnunet", "training", **settings))
    checkpoint = tmp_path / "desd.pth"
    export(str(tmp_path / "run" / "encoder.pt"), "nnunet", str(checkpoint), str(plans))
    seen = json.loads(nnunet("python", HELP / "first_epoch.py", plans.parent, checkpoint, ITERATIONS).splitlines()[-1])
    record_property("seen", json.dumps(seen))
    assert seen["tensors"] == seen["equal"] > 0
    assert all(math.isfinite(loss) for start in ("pretrained", "random") for loss in seen[start].values())
