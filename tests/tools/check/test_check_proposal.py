"""What ``check`` proposes: views that fit, strides that keep two voxels, overlays that the bundles run with."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from bundle_runs import config_files, run_files, succeed
from scan_files import write_json, write_nifti

from desd_components import ResNet3DEncoder
from desd_components.runs.config import is_known
from desd_tools.__main__ import main
from desd_tools.check.proposal import context_scales, encoder_settings, sizes_of, strides, view_size, window_size
from desd_tools.check.timing import bundle_config
from desd_tools.check.volume import Facts

ONE_MM = np.ones(3)
EXTENTS = [(33, 46, 29), (135, 135, 28), (40, 49, 14), (320, 320, 24), (12, 12, 12), (500, 40, 7)]


def facts(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Facts:
    return Facts(shape, np.diag([*spacing, 1.0]), shape, spacing)


def test_small_crops_of_a_brain_get_views_of_20_to_24_voxels():
    view = view_size(np.array([33, 46, 29]), ONE_MM, 32**3)
    assert all(20 <= size <= 24 for size in view)


@pytest.mark.parametrize("small", EXTENTS)
@pytest.mark.parametrize("voxels", [32**3, 96 * 96 * 16])
def test_a_view_is_really_smaller_than_the_volumes_and_within_its_budget(small, voxels):
    view = view_size(np.array(small), ONE_MM, voxels)
    assert all(size * 1.4 <= extent for size, extent in zip(view, small, strict=True))
    assert math.prod(view) <= voxels


@pytest.mark.parametrize("small", EXTENTS)
def test_the_box_of_both_views_lies_within_the_volumes_and_is_larger_than_a_view(small):
    view = view_size(np.array(small), ONE_MM, 32**3)
    for size, extent, (low, high) in zip(view, small, context_scales(view, np.array(small)), strict=True):
        assert 1.0 < low <= high and round(high * size) <= extent


@pytest.mark.parametrize("size", [2, 3, 4, 6, 8, 12, 20, 24, 32, 44, 63, 64, 96])
def test_stage_4_keeps_at_least_two_voxels_along_each_axis(size):
    stem, stages = strides([size, 20, 6])
    encoder = ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=stem, stem_pool=False, stage_strides=stages)
    assert min(encoder.stage_shapes([size, 20, 6])[3]) >= 2


@pytest.mark.parametrize("small", EXTENTS)
def test_a_crop_is_no_smaller_than_a_view_and_stage_4_keeps_two_voxels_of_it(small):
    view = view_size(np.array(small), ONE_MM, 32**3)
    window = window_size(view, np.array(small), 32**3)
    encoder = ResNet3DEncoder(**encoder_settings(view, "encoder").plain())
    assert all(side >= size for side, size in zip(window, view, strict=True))
    assert min(encoder.stage_shapes(window)[3]) >= 2


def test_a_view_is_a_cube_in_mm_where_the_volumes_allow_it():
    x, y, z = view_size(np.array([80, 80, 40]), np.array([1.0, 1.0, 2.0]), 96**3)
    assert x == y == 2 * z


def test_scans_of_equal_spacing_are_not_resampled():
    assert sizes_of([facts((35, 50, 36), (1.0, 1.0, 1.0)), facts((31, 40, 26), (1.02, 1.0, 1.0))]).spacing is None


def test_scans_of_unequal_spacing_are_resampled_to_the_median_of_each_axis():
    sizes = sizes_of([facts((10, 10, 10), (1.0, 1.0, z)) for z in (1.0, 2.0, 4.0)])
    assert sizes.spacing == [1.0, 1.0, 2.0]
    assert sizes.extents[1:, 2].tolist() == [10, 19]  # 9 steps of 4 mm are 18 of 2 mm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Four labelled scans, hardly larger than views of 20 voxels."""
    root = tmp_path_factory.mktemp("proposal") / "data"
    for number, shape in enumerate([(30, 32, 28), (28, 36, 31), (33, 30, 29), (29, 31, 34)]):
        voxels = np.random.default_rng(number).gamma(2.0, 100.0, size=shape).astype(np.float32)
        labels = np.zeros(shape, np.uint8)
        labels[8:18, 9 + number : 20, 7:16] = 1
        write_nifti(root / "imagesTr" / f"case_{number}.nii.gz", voxels, np.eye(4))
        write_nifti(root / "labelsTr" / f"case_{number}.nii.gz", labels, np.eye(4))
    write_json(root / "dataset.json", {"labels": {"0": "background", "1": "organ"}})
    return root


@pytest.fixture(scope="module")
def proposed(folder) -> dict[str, Path]:
    """Both overlays, and the JSON."""
    files = {name: folder.parent / f"proposed_{name}" for name in ("pretrain.yaml", "finetune.yaml", "check.json")}
    flags = [f"--overlay={files['pretrain.yaml']}", f"--finetune-overlay={files['finetune.yaml']}", "--steps=1"]
    assert main(["check", str(folder), f"--output={files['check.json']}", *flags]) == 0
    return files


def test_every_line_of_an_overlay_says_why(proposed):
    for name in ("pretrain.yaml", "finetune.yaml"):
        lines = proposed[name].read_text().splitlines()
        assert all(line.startswith("#") or len(line.partition("  # ")[2]) > 5 for line in lines)


def test_the_command_above_an_overlay_can_be_copied_whatever_the_folder_is_called(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "my scans; (1)")
    flags = [f"--output={tmp_path / 'c.json'}", f"--overlay={tmp_path / 'p.yaml'}", "--steps=0"]
    assert main(["check", str(place), *flags]) == 0
    [line] = [line for line in (tmp_path / "p.yaml").read_text().splitlines() if "--dataset_dir" in line]
    assert shlex.split(line.removeprefix("#"))[-1] == str(place)


def test_an_overlay_names_only_settings_that_the_bundle_has(proposed):
    for name, bundle in (("pretrain.yaml", "desd_pretrain"), ("finetune.yaml", "desd_seg_finetune")):
        config = bundle_config(bundle, {})
        assert all(is_known(config, setting) for setting in yaml.safe_load(proposed[name].read_text()))


def test_both_overlays_agree_on_encoder_and_preprocessing(proposed):
    first, second = (yaml.safe_load(proposed[name].read_text()) for name in ("pretrain.yaml", "finetune.yaml"))
    assert first["network_def#scratch_architecture"] == second["network_def#encoder#scratch_architecture"]
    assert (first["spacing"], first["intensity"]) == (second["spacing"], second["intensity"]) == (None, "zscore")


def test_the_time_of_an_epoch_is_estimated_and_called_an_estimate(proposed):
    estimates = json.loads(proposed["check.json"].read_text())["proposal"]["estimates"]
    assert estimates["pretrain_epoch_seconds"] >= estimates["pretrain_step_seconds"] > 0
    assert estimates["peak_bytes"] > 1e8
    assert "# Estimates, from 1 steps of each network on random voxels" in proposed["pretrain.yaml"].read_text()


def test_the_bundles_run_with_the_proposed_overlays_one_after_the_other(proposed, folder, tmp_path):
    common = {"dataset_dir": folder, "cache_dir": tmp_path / "cache", "max_epochs": 1}
    pretrain = [*config_files("desd_pretrain", "train", "small"), str(proposed["pretrain.yaml"])]
    succeed(run_files(pretrain, "training", output_dir=tmp_path / "first", **common))
    finetune = [*config_files("desd_seg_finetune", "train", "small"), str(proposed["finetune.yaml"])]
    encoder = {"encoder_checkpoint": tmp_path / "first" / "encoder.pt", "samples_per_epoch": 4}
    succeed(run_files(finetune, "training", output_dir=tmp_path / "second", **common, **encoder))
    manifest = json.loads((tmp_path / "second" / "model.json").read_text())
    overlay = yaml.safe_load(proposed["pretrain.yaml"].read_text())
    assert manifest["architecture"]["width"] == overlay["network_def#scratch_architecture"]["width"]
    assert manifest["encoder"] == "encoder.pt"


def proposal_for(data: Path, folder: Path) -> dict:
    flags = [f"--overlay={folder / 'p.yaml'}", f"--output={folder / 'check.json'}", "--steps=0"]
    assert main(["check", str(data), *flags]) == 0
    return yaml.safe_load((folder / "p.yaml").read_text())


def test_the_real_hippocampus_gets_zscore_small_views_and_its_own_spacing(real_data, tmp_path):
    proposal = proposal_for(real_data / "Task04_Hippocampus", tmp_path)
    assert (proposal["intensity"], proposal["spacing"]) == ("zscore", None)
    assert all(20 <= size <= 24 for size in proposal["view_size"])


def test_real_ct_gets_a_window_in_hounsfield_units(real_data, tmp_path):
    proposal = proposal_for(real_data / "ct_tcia_2p5mm", tmp_path)
    assert (proposal["intensity"], proposal["hu_window"]) == ("hu", [-1024.0, 1024.0])
