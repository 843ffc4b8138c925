"""Promises of `desd_components.scans.preprocess`."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from bundle_runs import ROOT, config_files
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    Spacingd,
    SpatialResample,
)
from scan_files import loading, oblique_affine, write_label, write_nifti, write_scan

from desd_components import Preprocessing, UserError, VolumeCache
from desd_components.base.classes import IGNORE
from desd_components.base.errors import innermost_user_error
from desd_components.scans.cache.entries import open_array
from desd_components.scans.preprocess import SeparableResample, preprocessing_settings, target_spacing, windowed


def written(path: Path, zooms: tuple[float, float, float], swap: bool = False) -> dict:
    affine = np.diag([*zooms, 1.0])
    if swap:  # the file's axes are A, R, S
        affine = affine[[1, 0, 2, 3]]
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine), path)
    return {"image": str(path)}


def labelled(folder: Path, values: np.ndarray) -> VolumeCache:
    """A cache whose preprocessing ignores label value 3, and a scan for it."""
    keys = ["image", "label"]
    write_scan(folder / "a.nii"), write_nifti(folder / "l.nii", values)
    return VolumeCache(Preprocessing(keys, [1.0, 1.0, 1.0], "zscore", ignore=3), folder / "cache", keys, class_count=2)


def test_labels_are_rounded_and_what_is_to_be_ignored_is_marked(tmp_path, caplog) -> None:
    values = np.zeros((6, 7, 5), np.float32)
    values[2:4], values[4:] = 0.99999994, 2.9999998
    cache = labelled(tmp_path, values)
    for _ in range(2):
        [entry] = cache.prepare([{"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "l.nii")}])
    assert sorted(np.unique(open_array(entry, "label"))) == [IGNORE, 0, 1]
    assert caplog.text.count("1 of 1 labels hold numbers next to whole ones, which are rounded: l.nii") == 1


def test_a_label_to_be_ignored_as_a_whole_is_refused(tmp_path) -> None:
    cache = labelled(tmp_path, np.full((6, 7, 5), 3, np.uint8))
    with pytest.raises(UserError, match="holds the label value to ignore alone"):
        cache.prepare([{"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "l.nii")}])


def test_median_spacing_is_taken_along_anatomical_axes(tmp_path: Path) -> None:
    scans = [
        written(tmp_path / "a.nii", (1.0, 2.0, 3.0)),
        written(tmp_path / "b.nii", (1.5, 2.0, 4.0)),
        written(tmp_path / "c.nii", (9.0, 2.5, 7.0), swap=True),  # 2.5 mm along R, 9 mm along A
    ]
    assert target_spacing("median", scans) == pytest.approx([1.5, 2.0, 4.0])


@pytest.fixture
def one_bad(tmp_path: Path) -> list[dict]:
    """Two good scans and one that is no NIfTI file."""
    (tmp_path / "bad.nii").write_bytes(b"not a header, by any means")
    good = [written(tmp_path / f"good_{number}.nii", (1.0, 2.0, 3.0)) for number in range(2)]
    return [*good, {"image": str(tmp_path / "bad.nii")}]


def test_a_header_that_cannot_be_read_is_named_in_one_line_or_skipped_unless_it_is_the_only_one(one_bad) -> None:
    for scans, choice in ((one_bad, "stop"), (one_bad[2:], "skip")):
        with pytest.raises(UserError, match=r"bad\.nii: cannot be read as NIfTI .*download it again") as told:
            target_spacing("median", scans, choice)
        assert "\n" not in str(told.value)
    assert target_spacing("median", one_bad, on_bad_volume="skip") == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("bundle", "more"), [("desd_pretrain", {}), ("desd_seg_finetune", {"class_names": ["one"], "val_fraction": 0})]
)
def test_both_bundles_take_the_median_and_name_a_bad_header(tmp_path, monkeypatch, bundle, more) -> None:
    for number in range(2):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            written(tmp_path / folder / f"case_{number}.nii", (1.0, 2.0, 3.0))
    monkeypatch.chdir(ROOT)
    config = {"dataset_dir": str(tmp_path), "spacing": "median", **more}
    assert parsed(bundle, "preprocessing", config).settings["spacing"] == [1.0, 2.0, 3.0]
    (tmp_path / "images" / "case_1.nii").write_bytes(b"not a header, by any means")
    with pytest.raises(RuntimeError) as ended:
        parsed(bundle, "preprocessing", config)
    assert "case_1.nii: cannot be read as NIfTI" in str(innermost_user_error(ended.value))


def parsed(bundle: str, item: str, settings: dict) -> Any:
    parser = ConfigParser()
    parser.read_config(config_files(bundle, "train"))
    parser.update(settings)
    return parser.get_parsed_content(item)


@pytest.mark.parametrize(("intensity", "window"), [("hu", [-100.0, 300.0]), ("zscore", None)])
def test_preprocessing_is_to_rounding_the_written_out_list_of_stock_transforms(tmp_path, intensity, window):
    image, label = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    scan = {"image": str(write_scan(image, (12, 10, 8))), "label": str(write_label(label, (12, 10, 8)))}
    keys, spacing = ["image", "label"], [1.5, 1.0, 2.0]
    scaled = (
        ScaleIntensityRanged("image", -100.0, 300.0, -1.0, 1.0, clip=True)
        if window
        else NormalizeIntensityd("image", channel_wise=True)
    )
    by_hand = Compose(
        [
            *loading(*keys),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=spacing, mode=["bilinear", "nearest"]),
            scaled,
        ]
    )
    ours, wanted = Preprocessing(keys, spacing, intensity, window)(scan), by_hand(scan)
    for key in keys:
        torch.testing.assert_close(ours[key].as_tensor(), wanted[key].as_tensor(), rtol=0, atol=1e-5 * (key == "image"))
        torch.testing.assert_close(ours[key].affine, wanted[key].affine)


def test_axes_out_of_parallel_are_resampled_as_monai_does():
    tilted = torch.eye(4, dtype=torch.float64)
    tilted[1, 2] = 0.3
    image, target = torch.rand(1, 8, 7, 6), torch.diag(torch.tensor([2.0, 1, 1, 1], dtype=torch.float64))
    ours, stock = (
        kind()(MetaTensor(image, affine=tilted), target, (4, 7, 6), mode="bilinear")
        for kind in (SeparableResample, SpatialResample)
    )
    assert torch.equal(ours.as_tensor(), stock.as_tensor())


def test_a_window_is_monai_s_bit_for_bit_and_leaves_its_image_alone():
    image = 3000 * torch.rand(1, 9, 8, 7) - 1000
    before = image.clone()
    stock = ScaleIntensityRange(-160, 240, -1, 1, clip=True)
    assert torch.equal(windowed(image, -160, 240), stock(image)) and torch.equal(image, before)


def test_what_it_did_can_be_undone_on_the_scan_s_own_grid_where_labels_may_have_stayed(tmp_path):
    scan = {"image": str(write_scan(tmp_path / "a.nii.gz")), "label": str(write_label(tmp_path / "b.nii.gz"))}
    preprocessing = Preprocessing(["image", "label"], [2.0, 2.0, 2.0], "zscore", turn_labels=False)
    sample = preprocessing(scan)
    assert sample["label"].shape == (1, 6, 7, 5) != sample["image"].shape
    sample["pred"] = sample["image"].clone()
    restored = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(sample)["pred"]
    assert restored.shape == (1, 6, 7, 5)
    np.testing.assert_allclose(restored.affine, oblique_affine(), atol=1e-5)


def test_minmax_takes_each_volume_from_0_to_1_and_settings_build_a_preprocessing_again(tmp_path) -> None:
    preprocessing = Preprocessing("image", [1.0, 2.0, 3.0], "minmax", [-1024.0, 1024.0])
    image = preprocessing({"image": str(write_scan(tmp_path / "a.nii"))})["image"]
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert preprocessing.settings["hu_window"] is None
    assert Preprocessing("image", **preprocessing.settings).settings == preprocessing.settings


@pytest.mark.parametrize(("given", "expected"), [(None, None), (2, [2, 2, 2]), ([1, 1, 3.5], [1, 1, 3.5])], ids=str)
def test_spacing_may_be_one_number_three_or_none(given: object, expected: object) -> None:
    assert target_spacing(given, []) == expected


@pytest.mark.parametrize("given", [[1, 1], 0, -1, "mean", [1, 1, "x"]], ids=str)
def test_a_spacing_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="spacing="):
        target_spacing(given, [])


@pytest.mark.parametrize(
    ("intensity", "window", "words"),
    [("percentiles", [0, 1], "zscore"), ("hu", [9, -9], "lower and the upper"), ("hu", None, "lower and the upper")],
)
def test_an_intensity_that_is_none_is_refused(intensity: str, window: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        preprocessing_settings(None, intensity, window)


def test_settings_may_be_arrays_and_what_is_no_number_is_refused(tmp_path) -> None:
    assert target_spacing(np.array([1, 2, 3.5]), []) == [1, 2, 3.5] and target_spacing(np.float32(2), []) == [2, 2, 2]
    assert Preprocessing("image", None, "hu", np.array([-10, 20])).settings["hu_window"] == [-10, 20]
    for window in ([float("nan"), 1], [-10, float("inf")], 5, "abc"):
        with pytest.raises(UserError, match="give the lower and the upper end in HU"):
            Preprocessing("image", None, "hu", window)
    with pytest.raises(UserError, match="give mm"):
        target_spacing([1, 1, float("inf")], [])
