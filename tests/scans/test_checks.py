from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged
from scan_files import SPACING, oblique_affine, write_label, write_nifti, write_scan

from desd_components import ScanReader, UserError, check_records, require_writable

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"


def pair(folder: Path) -> dict[str, str]:
    return {"image": str(write_scan(folder / "a.nii.gz")), "label": str(write_label(folder / "a_seg.nii.gz"))}


def test_a_good_pair_passes(tmp_path):
    check_records([pair(tmp_path)], class_count=3, voxels=True)


def test_a_float_label_that_holds_whole_numbers_passes(tmp_path):
    label = write_label(tmp_path / "b_seg.nii.gz", kind=np.float32)
    check_records([{**pair(tmp_path), "label": str(label)}], class_count=3, voxels=True)


def test_no_records_are_refused():
    with pytest.raises(UserError, match="there is no scan to work on"):
        check_records([])


def refused(path: Path, words: str, **options: object) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        check_records([{"image": str(path)}], **options)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.nii.gz", "does not exist: mend the data list")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    refused(tmp_path / "a.nii.gz", r"is empty \(0 bytes\): copy or download it again")


def test_a_git_lfs_pointer_is_refused_with_the_command(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(LFS_POINTER)
    refused(tmp_path / "a.nii.gz", "git-LFS pointer, not the scan itself: fetch it with `git lfs pull`")


def test_a_file_that_is_no_nifti_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not a volume" * 50))
    refused(tmp_path / "a.nii.gz", "cannot be read as NIfTI")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused_when_its_voxels_are_read(tmp_path, suffix):
    path = write_scan(tmp_path / f"a{suffix}", (20, 20, 20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "is truncated or damaged", voxels=True)


def test_a_4d_file_is_refused_with_both_remedies(tmp_path):
    refused(
        write_scan(tmp_path / "a.nii.gz", (6, 7, 5, 3)),
        r"is 4D \(6, 7, 5, 3\), and its last dimension is not 1 channel: split it .* `--in_channels 3`",
    )


def test_a_4d_file_whose_last_dimension_holds_the_channels_passes(tmp_path):
    check_records([{"image": str(write_scan(tmp_path / "a.nii.gz", (6, 7, 5, 3)))}], in_channels=3)


def test_a_3d_file_is_refused_where_several_channels_are_asked(tmp_path):
    refused(write_scan(tmp_path / "a.nii.gz"), "one channel, but in_channels is 2", in_channels=2)


def test_as_many_files_as_channels_pass_and_another_number_is_refused(tmp_path):
    scan = {"image": [str(write_scan(tmp_path / f"a_{name}.nii.gz")) for name in ("t1", "t2")]}
    check_records([scan], in_channels=2)
    with pytest.raises(UserError, match=r"comes with 2 files \(a_t1.nii.gz, a_t2.nii.gz\), but in_channels is 3"):
        check_records([scan], in_channels=3)


def test_rgb_voxels_are_refused(tmp_path):
    voxels = np.zeros((6, 7, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(write_nifti(tmp_path / "a.nii.gz", voxels), "holds RGB voxels, not one value per voxel")


def test_a_picture_of_two_dimensions_is_refused(tmp_path):
    refused(write_scan(tmp_path / "a.nii.gz", (6, 7)), r"has 2 dimensions \(6, 7\), not a 3D volume")


def test_a_degenerate_affine_is_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    header = nibabel.Nifti1Header()
    header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    # With no affine given, nibabel writes the header's own.
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(6, 7, 5)), None, header), path)
    refused(path, "its affine is not a grid in space")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused_with_their_count(tmp_path, value):
    voxels = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
    voxels[2, 3, 1:3] = value
    refused(write_nifti(tmp_path / "a.nii.gz", voxels), "2 of 210 voxels are NaN or infinite", voxels=True)


def test_a_constant_volume_is_refused(tmp_path):
    refused(write_nifti(tmp_path / "a.nii.gz", np.full((6, 7, 5), 3.0)), "every voxel has the same value", voxels=True)


def test_a_label_of_another_shape_is_refused_naming_both(tmp_path):
    scan = {**pair(tmp_path), "label": str(write_label(tmp_path / "b_seg.nii.gz", (6, 7, 6)))}
    with pytest.raises(UserError, match=r"b_seg.nii.gz: has shape \(6, 7, 6\), but .*a.nii.gz has \(6, 7, 5\)"):
        check_records([scan])


def test_a_label_of_another_affine_is_refused_with_the_distance(tmp_path):
    shifted = oblique_affine()
    shifted[0, 3] += 3.0
    scan = {**pair(tmp_path), "label": str(write_nifti(tmp_path / "b.nii.gz", np.ones((6, 7, 5), np.uint8), shifted))}
    with pytest.raises(UserError, match=r"b.nii.gz: its affine places a corner 3.00 mm away"):
        check_records([scan])


def test_an_affine_that_differs_by_rounding_passes(tmp_path):
    rounded = oblique_affine() + 1e-3 * min(SPACING)
    scan = {**pair(tmp_path), "label": str(write_nifti(tmp_path / "b.nii.gz", np.ones((6, 7, 5), np.uint8), rounded))}
    check_records([scan])


def label_refused(folder: Path, voxels: np.ndarray, words: str, class_count: int = 3) -> None:
    scan = {**pair(folder), "label": str(write_nifti(folder / "b_seg.nii.gz", voxels))}
    with pytest.raises(UserError, match=words):
        check_records([scan], class_count=class_count, voxels=True)


def test_label_values_outside_the_classes_are_named(tmp_path):
    voxels = np.zeros((6, 7, 5), np.int16)
    voxels[0, 0, :3] = (-1, 3, 7)
    label_refused(
        tmp_path, voxels, r"holds the label values \[-1, 3, 7\], but the classes are 0 to 2: name all", class_count=3
    )


def test_a_mask_coded_0_and_5_gets_its_remedy(tmp_path):
    voxels = np.zeros((6, 7, 5), np.uint8)
    voxels[2:4] = 5
    remedy = r"binary mask coded \{0, 5\}: rewrite 5 as 1, or add MapLabelValued\(orig_labels=\[0, 5\], target_labels"
    label_refused(tmp_path, voxels, remedy, class_count=2)


def test_a_label_that_was_interpolated_is_refused(tmp_path):
    voxels = np.zeros((6, 7, 5), np.float32)
    voxels[3, 3, 3] = 0.5
    label_refused(tmp_path, voxels, r"is not integer-valued \(a voxel holds 0.5\).*nearest neighbour", class_count=2)


def test_a_label_next_to_whole_numbers_passes_as_they_are(tmp_path):
    near = np.where(np.arange(210).reshape(6, 7, 5) % 2, np.float32(0.99999994), 2.0001).astype(np.float32)
    label_refused(tmp_path, near, r"holds the label values \[2\], but the classes are 0 to 1", class_count=2)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((6, 7, 5, 3), "is a 4D label .* save its argmax"), ((6, 7, 5, 1, 2, 2), "has 6 dimensions")],
    ids=str,
)
def test_a_label_of_a_map_for_each_class_is_refused_with_what_to_save(tmp_path, shape, words):
    label_refused(tmp_path, np.zeros(shape, np.uint8), words)


def test_channels_of_which_one_has_a_trailing_axis_of_one_are_read_together(tmp_path):
    files = [str(write_scan(tmp_path / f"a_{number}.nii.gz", (6, 7, 5) + (1,) * number)) for number in range(2)]
    check_records([{"image": files}], in_channels=2, voxels=True)
    image = LoadImaged("image", ScanReader(), ensure_channel_first=True)({"image": files})["image"]
    assert image.shape == (2, 6, 7, 5) and torch.equal(image[0], image[1])


def test_all_bad_files_are_listed_up_to_ten_and_then_counted(tmp_path):
    good = [{"image": str(write_scan(tmp_path / "good.nii.gz"))}]
    bad = [{"image": str(tmp_path / f"bad_{number:02d}.nii.gz")} for number in range(13)]
    with pytest.raises(UserError) as refusal:
        check_records(good + bad)
    lines = str(refusal.value).splitlines()
    assert lines[0] == "13 of 14 scans cannot be used:"
    assert [f"bad_{number:02d}" in line for number, line in enumerate(lines[1:11])] == [True] * 10
    assert lines[11:] == ["  and 3 more"]


def test_a_writable_folder_is_made(tmp_path):
    assert require_writable(tmp_path / "a" / "b").is_dir()


def test_a_folder_below_a_file_is_refused_with_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*: give another folder with `--output_dir DIR`"):
        require_writable(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="cannot be written to"):
        require_writable(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("git_lfs_pointer_image.nii.gz", "git-LFS pointer"),
        ("rgb_dtype_not_a_scalar_volume.nii.gz", "RGB voxels"),
    ],
)
def test_real_bad_images_are_refused(real_data, name, words):
    refused(real_data / "dirty" / "other" / name, words)


def test_the_real_mask_coded_0_and_5_is_refused_with_its_remedy(real_data):
    label = real_data / "dirty" / "other" / "label_value_5_only_where_1_expected.nii.gz"
    scan = {"image": str(real_data / "totalseg_refs" / "ct_sm" / "example_ct_sm.nii.gz"), "label": str(label)}
    with pytest.raises(UserError, match="rewrite 5 as 1"):
        check_records([scan], class_count=2, voxels=True)


def test_the_real_label_of_another_data_set_is_refused(real_data):
    image, label = (
        real_data / "dirty" / path for path in ("images/hippocampus_118.nii.gz", "labels/hippocampus_281.nii.gz")
    )
    with pytest.raises(UserError, match=r"hippocampus_281.nii.gz: has shape \(512, 512, 94\)"):
        check_records([{"image": str(image), "label": str(label)}])


def test_the_real_hippocampus_pairs_pass(real_data):
    from desd_components import find_labelled

    data = find_labelled(real_data / "Task04_Hippocampus", num_labels=None)
    check_records(data.training + data.validation, class_count=3)
