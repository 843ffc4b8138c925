"""nnU-Net's plans and preprocessed cases are read as they are, and those of something else are refused."""

import json

import numpy as np
import pytest
from nnunet_files import PLAIN, RESIDUAL, write_case, write_plans
from scan_files import write_scan

from desd_components import NnunetPlans, Preprocessing, UserError, VolumeCache, build_encoder
from desd_components.scans.cache.entries import open_array
from desd_components.scans.read import open_volume

NAME = "Dataset004_Hippocampus"


@pytest.fixture
def plans(tmp_path):
    return write_plans(tmp_path / NAME)


@pytest.mark.parametrize("suffix", [".b2nd", ".npy", ".npz"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_case_is_read_whole_on_the_grid_of_the_plans(plans, suffix, channels):
    pytest.importorskip("blosc2" if suffix == ".b2nd" else "numpy")
    folder = plans.parent / "nnUNetPlans_3d_fullres"
    data = write_case(folder, "case_1", suffix, channels)
    volume = open_volume(folder / f"case_1{suffix}")
    assert volume.shape == ((20, 22, 24) if channels == 1 else (20, 22, 24, 2))
    np.testing.assert_array_equal(volume.read().reshape(20, 22, 24, channels), np.moveaxis(data, 0, -1))
    assert np.diag(volume.affine).tolist() == [2.5, 1.0, 0.5, 1.0]


@pytest.mark.parametrize(("suffix", "lost"), [(".b2nd", 15_000), (".npz", 1)])  # blosc2 keeps no checksum
def test_a_case_that_was_damaged_is_refused_in_one_line(plans, suffix, lost):
    pytest.importorskip("blosc2" if suffix == ".b2nd" else "numpy")
    folder = plans.parent / "nnUNetPlans_3d_fullres"
    write_case(folder, "case_1", suffix)
    path = folder / f"case_1{suffix}"
    content = bytearray(path.read_bytes())
    content[20_000 : 20_000 + lost] = bytes(255 - byte for byte in content[20_000 : 20_000 + lost])
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"case_1\{suffix}: is truncated or damaged"):
        open_volume(path).read()


def test_an_array_whose_spacing_no_plans_tell_is_refused(tmp_path):
    write_case(tmp_path / "cases", "a")
    with pytest.raises(UserError, match=r"a\.npz: is not a scan, nor a case of nnU-Net's"):
        open_volume(tmp_path / "cases" / "a.npz")


def test_the_cache_keeps_the_values_as_nnunet_left_them(plans, tmp_path):
    found = NnunetPlans(plans)
    data = write_case(plans.parent / "nnUNetPlans_3d_fullres", "case_1")
    preprocessing = Preprocessing("image", None, "nnunet", plans=found.identity)
    cache = VolumeCache(preprocessing, tmp_path / "cache")
    [entry] = cache.prepare(found.scans(found.folder))
    np.testing.assert_array_equal(open_array(entry, "image"), data)
    assert preprocessing.settings["plans"]["dataset_name"] == NAME


def test_another_scan_is_not_taken_for_one_that_nnunet_preprocessed(tmp_path):
    cache = VolumeCache(Preprocessing("image", None, "nnunet"), tmp_path / "cache")
    with pytest.raises(UserError, match="was not preprocessed by nnU-Net"):
        cache.prepare([{"image": str(write_scan(tmp_path / "case.nii.gz", (12, 12, 12)))}])


@pytest.mark.parametrize("architecture", [PLAIN, RESIDUAL])
def test_the_encoder_is_the_one_that_the_plans_name(tmp_path, architecture):
    pytest.importorskip("dynamic_network_architectures")
    found = NnunetPlans(write_plans(tmp_path / NAME, architecture, channels=2))
    encoder = build_encoder(**found.encoder)
    assert (encoder.in_channels, encoder.stage_channels) == (2, (4, 6, 8))
    assert encoder.stage_shapes((12, 24, 24)) == [(12, 24, 24), (12, 12, 12), (6, 6, 6)]


def test_a_view_is_of_whole_cells_within_a_patch(plans):
    found = NnunetPlans(plans)
    assert found.view_size() == [12, 12, 16]  # the median is 1.4 times as large
    assert found.view_size([11, 13, 16]) == [12, 16, 16]
    assert found.view_size([40, 40, 40]) == [12, 24, 24]
    assert NnunetPlans(plans, "3d_lowres").identity["spacing"] == [5.0, 2.0, 1.0]


def test_cases_are_found_without_segmentations_the_newest_form_of_each(plans, tmp_path):
    folder = plans.parent / "nnUNetPlans_3d_fullres"
    for name, suffix in (("a", ".npz"), ("a", ".npy"), ("b", ".npz")):
        write_case(folder, name, suffix)
    found = NnunetPlans(plans)
    assert [scan["image"].rpartition("/")[2] for scan in found.scans(folder)] == ["a.npy", "b.npz"]
    (tmp_path / "split.json").write_text(json.dumps({"train": ["b"], "test": ["a"]}))
    assert len(found.scans(folder, tmp_path / "split.json")) == 1


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (f"{NAME}/nnUNetPlans_3d_lowres", "of another configuration than nnUNetPlans.json"),
        ("Dataset005_Prostate/nnUNetPlans_3d_fullres", "'Dataset005_Prostate', of another data set than"),
        (f"{NAME}/nnUNetPlans_3d_fullres", r"no preprocessed case: run `nnUNetv2_preprocess -d 004 -c 3d_fullres`"),
    ],
)
def test_a_folder_of_something_else_is_refused(plans, tmp_path, folder, words):
    with pytest.raises(UserError, match=words):
        NnunetPlans(plans).scans(tmp_path / folder)


@pytest.mark.parametrize(
    ("change", "configuration", "words"),
    [
        ({}, "3d_cascade", "has no configuration '3d_cascade': choose one of 2d, 3d_fullres"),
        ({}, "2d", "2d plans a PlainConvUNet of 2 dimensions: take a 3D one of PlainConvUNet or"),
        ({"network_class_name": "dna.primus.Primus"}, "3d_fullres", "plans a Primus of 3 dimensions"),
    ],
)
def test_plans_without_such_an_encoder_are_refused(tmp_path, change, configuration, words):
    path = write_plans(tmp_path / NAME, {**PLAIN, **change})
    with pytest.raises(UserError, match=words):
        NnunetPlans(path, configuration)
    content = json.loads(path.read_text())
    del content["configurations"]["3d_fullres"]["architecture"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"before 2\.3: plan again"):
        NnunetPlans(path)


def test_a_file_that_is_no_plans_and_none_at_all_are_refused(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="is no plans of nnU-Net's"):
        NnunetPlans(tmp_path / "dataset.json")
    with pytest.raises(UserError, match=r"--nnunet_plans DATASET/nnUNetPlans\.json"):
        NnunetPlans(None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 5, 6), np.float32), r"shape \(4, 5, 6\), not \(C, X, Y, Z\)"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as nnU-Net's array"),  # pickled values are not executed
    ],
)
def test_an_array_that_is_no_case_is_refused(plans, values, words):
    array = plans.parent / "nnUNetPlans_3d_fullres" / "a.npy"
    array.parent.mkdir()
    np.save(array, values, allow_pickle=True)
    with pytest.raises(UserError, match=words):
        open_volume(array)
