"""Files and pairs that cannot be trained on are refused in one line: by their headers, or when voxels are read."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scan_files import SPACING, cached, oblique_affine, write_label, write_nifti, write_scan

from desd_components import UserError, check_records
from desd_components.scans.cache.entries import open_array

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"


def pair(folder: Path, label: Path | None = None) -> dict[str, str]:
    label = label or write_label(folder / "a_seg.nii.gz")
    return {"image": str(write_scan(folder / "a.nii.gz")), "label": str(label)}


def refused(scan: dict[str, Any], folder: Path, words: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        cached(scan, folder, **settings)
    assert "\n" not in str(refusal.value)


def of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def flat(path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nibabel.save(nibabel.Nifti1Image(NOISE, None, header), path)  # with no affine given, nibabel writes the header's


def spoilt(value: float) -> Callable[[Path], object]:
    return lambda path: write_nifti(path, np.where(np.arange(210).reshape(6, 7, 5) < 2, np.float32(value), NOISE))


def cut_short(path: Path) -> None:
    write_scan(path, (20, 20, 20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NOISE = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
RGB = np.zeros((6, 7, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
FOUR = r"is 4D \(6, 7, 5, 3\), and its last dimension is not 1 channel: split it .* `--in_channels 3`"
FLOAT32 = r"its values, \S+ to \S+, are not to be told apart, or too large, in float32"
BAD: dict[str, tuple[Callable[[Path], object], str, dict[str, Any]]] = {
    "missing": (lambda path: None, "does not exist: mend the data list", {}),
    "fetched by nobody": (lambda path: path.symlink_to("key"), "is a link to key, not there: fetch that", {}),
    "empty": (of(b""), r"is empty \(0 bytes\): copy or download it again", {}),
    "git-LFS": (of(LFS_POINTER), "git-LFS pointer, not the scan itself: fetch it with `git lfs pull`", {}),
    "no NIfTI": (of(gzip.compress(b"not a volume" * 50)), "cannot be read as NIfTI", {}),
    "4D": (lambda path: write_scan(path, (6, 7, 5, 3)), FOUR, {}),
    "3D": (write_scan, "one channel, but in_channels is 2", {"in_channels": 2}),
    "RGB": (lambda path: write_nifti(path, RGB), "holds RGB voxels, not one value per voxel", {}),
    "2D": (lambda path: write_scan(path, (6, 7)), r"has 2 dimensions \(6, 7\), not a 3D volume", {}),
    "flat affine": (flat, "its affine is not a grid in space", {}),
    "NaN": (spoilt(np.nan), "2 of 210 voxels are NaN or infinite", {}),
    "infinite": (spoilt(np.inf), "2 of 210 voxels are NaN or infinite", {}),
    "constant": (lambda path: write_nifti(path, NOISE * 0), "every voxel has the same value", {}),
    "on a high plateau": (lambda path: write_nifti(path, 1e5 + 1e-4 * NOISE.astype(float)), FLOAT32, {}),
    "enormous": (lambda path: write_nifti(path, 1e200 * NOISE.astype(float)), FLOAT32, {}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, name):
    make, words, settings = BAD[name]
    make(tmp_path / "a.nii.gz")
    refused({"image": str(tmp_path / "a.nii.gz")}, tmp_path, f"{tmp_path}/a.nii.gz: .*{words}", **settings)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_truncated_file_is_refused(tmp_path, name):
    cut_short(tmp_path / name)
    refused({"image": str(tmp_path / name)}, tmp_path, f"{name}: is truncated or damaged")


def test_as_many_files_as_channels_pass_and_another_number_is_refused(tmp_path):
    cached({"image": str(write_scan(tmp_path / "a.nii.gz", (6, 7, 5, 3)))}, tmp_path, in_channels=3)
    scan = {"image": [str(write_scan(tmp_path / f"a_{name}.nii.gz")) for name in ("t1", "t2")]}
    cached(scan, tmp_path, in_channels=2)
    told = r"comes with 2 files \(a_t1.nii.gz, a_t2.nii.gz\), but in_channels is 3"
    refused(scan, tmp_path / "anew", told, in_channels=3)


def moved(by: np.ndarray | float) -> Callable[[Path], Path]:
    return lambda path: write_nifti(path, np.ones((6, 7, 5), np.uint8), oblique_affine() + by)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: write_label(path, (6, 7, 6)), r"has shape \(6, 7, 6\), but .*a.nii.gz has \(6, 7, 5\)"),
        (moved(3.0 * np.eye(4, k=3)), "its affine places a corner 3.00 mm away"),
    ],
)
def test_a_label_on_another_grid_is_refused_naming_both(tmp_path, make, words):
    refused(pair(tmp_path, make(tmp_path / "b_seg.nii.gz")), tmp_path, f"b_seg.nii.gz: {words}")


def test_an_affine_that_differs_by_rounding_passes(tmp_path):
    check_records([pair(tmp_path, moved(1e-3 * min(SPACING))(tmp_path / "b.nii.gz"))])


def odd(*values: float, kind: type = np.uint8, shape: tuple[int, ...] = (6, 7, 5)) -> np.ndarray:
    """A label map of zeros but for its first voxels."""
    voxels = np.zeros(shape, kind)
    voxels.flat[: len(values)] = values
    return voxels


NEAR = np.where(np.arange(210).reshape(6, 7, 5) % 2, np.float32(0.99999994), np.float32(2.0001))
FIVE = r"binary mask coded \{0, 5\}: rewrite 5 as 1, or add MapLabelValued\(orig_labels=\[0, 5\], target_labels"
ODD_LABELS = {
    "values of no class": (
        odd(-1, 3, 7, kind=np.int16),
        r"values \[-1, 3, 7\], but the classes are 0 to 2: name all",
        3,
    ),
    "a mask of 5": (odd(5, 5), FIVE, 2),
    "a mask of -1": (odd(-1, kind=np.int16), r"rewrite -1 as 1, .*orig_labels=\[0, -1\], target_labels=\[0, 1\]", 2),
    "a full mask": (odd() + np.uint8(9), r"rewrite 9 as 1, .*orig_labels=\[9\], target_labels=\[1\]", 2),
    "interpolated": (odd(0.5, kind=np.float32), r"is not integer-valued \(a voxel holds 0.5\).*nearest neighbour", 2),
    "next to whole numbers": (NEAR, r"holds the label values \[2\], but the classes are 0 to 1", 2),
    "a map for each class": (odd(shape=(6, 7, 5, 3)), "is a 4D label .* save its argmax", 3),
    "six dimensions": (odd(shape=(6, 7, 5, 1, 2, 2)), "has 6 dimensions", 3),
}


def test_an_image_that_is_its_own_label_is_refused_by_whatever_name(tmp_path):
    image = write_label(tmp_path / "a.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(image)
    for label in (image, tmp_path / "link.nii.gz"):
        refused({"image": str(image), "label": str(label)}, tmp_path, "is image and label in one")


@pytest.mark.parametrize("name", ODD_LABELS)
def test_an_odd_label_is_refused_with_what_to_do(tmp_path, name):
    voxels, words, class_count = ODD_LABELS[name]
    scan = pair(tmp_path, write_nifti(tmp_path / "b_seg.nii.gz", voxels))
    refused(scan, tmp_path, words, class_count=class_count)


def test_channels_of_which_one_has_a_trailing_axis_of_one_are_read_together(tmp_path):
    files = [str(write_scan(tmp_path / f"a_{number}.nii.gz", (6, 7, 5) + (1,) * number)) for number in range(2)]
    image = open_array(cached({"image": files}, tmp_path, in_channels=2), "image")
    assert image.shape == (2, 6, 7, 5) and np.array_equal(image[0], image[1])


def test_all_bad_files_are_listed_up_to_ten_and_then_counted(tmp_path):
    good = [{"image": str(write_scan(tmp_path / "good.nii.gz"))}]
    bad = [{"image": str(tmp_path / f"bad_{number:02d}.nii.gz")} for number in range(13)]
    with pytest.raises(UserError) as refusal:
        check_records(good + bad)
    lines = str(refusal.value).splitlines()
    assert lines[0] == "13 of 14 scans cannot be used:"
    assert [f"bad_{number:02d}" in line for number, line in enumerate(lines[1:11])] == [True] * 10
    assert lines[11:] == ["  and 3 more"]
