"""Promises of `desd_components.segmentation.results`: a result lies on its scan, whoever reads the two."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from itk_files import sitk, write_itk
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, SaveImaged, Spacingd
from scan_files import oblique_affine

from desd_components import Preprocessing, ScanLayout, ScanReader, ScanWriter, UserError, find_scans
from desd_components.scans.read import open_volume
from desd_components.segmentation.results import write_by_class

AFFINE = oblique_affine()
SHEARED = AFFINE @ np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ELSEWHERE = np.diag([-1.0, 1, 1, 1]) @ AFFINE + np.outer([100, 50, -20, 0], [0, 0, 0, 1])
#: sform, qform: affine and code each; then units of space and time, and axes
HEADERS: dict[str, tuple[Any, ...]] = {
    "neither": ((None, 0), (None, 0), 2, (9, 8, 7)),
    "an sform alone": ((AFFINE, 2), (None, 0), 2, (9, 8, 7)),
    "a sheared sform": ((SHEARED, 2), (AFFINE, 1), 2, (9, 8, 7)),
    "a qform alone": ((None, 0), (AFFINE, 1), 10, (9, 8, 7)),
    "one unlike the other": ((AFFINE, 4), (ELSEWHERE, 1), 2, (9, 8, 7)),
    "one unlike the other, the other way round": ((ELSEWHERE, 1), (AFFINE, 3), 2, (9, 8, 7)),
    "microns": ((np.diag([1000, 1100, 2500, 1.0]), 1), (np.diag([1000, 1100, 2500, 1.0]), 1), 3, (9, 8, 7)),
    "meters and seconds": ((np.diag([1e-3, 1e-3, 2e-3, 1]), 1), (np.diag([1e-3, 1e-3, 2e-3, 1]), 2), 9, (9, 8, 7)),
    "no unit": ((AFFINE, 1), (AFFINE, 1), 0, (9, 8, 7)),
    "a fourth axis of one voxel": ((AFFINE, 1), (AFFINE, 1), 2, (9, 8, 7, 1)),
    "five axes": ((AFFINE, 1), (AFFINE, 1), 2, (9, 8, 7, 1, 1)),
    "one slice": ((AFFINE, 1), (AFFINE, 1), 2, (9, 8, 1)),
}


def written(path: Path, said: tuple[Any, ...], kind: Any = nibabel.Nifti1Image, order: str = "<") -> Path:
    (sform, sform_code), (qform, qform_code), units, shape = said
    header = kind.header_class(endianness=order)
    image = kind(np.random.default_rng(0).normal(size=shape).astype(order + "f4"), None, header)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    if sform is not None:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    image.header["xyzt_units"] = units
    nibabel.save(image, path)
    return path


@pytest.fixture
def small_files():
    """A system that lets no file grow beyond 4 kB, as a disk does that fills."""
    resource = pytest.importorskip("resource", reason="this system sets no limits of that kind")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("by_class", [False, True])
def test_of_a_result_that_does_not_fit_on_the_disk_nothing_is_left(tmp_path, small_files, name, by_class):
    path, voxels = tmp_path / name, torch.randn(1, 20, 20, 20)
    path.write_bytes(b"the result of before")
    writer = ScanWriter(output_dtype=np.float32)
    writer.set_data_array(voxels)
    writer.set_metadata({"affine": AFFINE})
    with pytest.raises(UserError, match=r"cannot be written \(File too large\)\. Mend that, or give another place"):
        write_by_class(path, voxels, (*voxels.shape[1:], 1), AFFINE, "") if by_class else writer.write(path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the result of before"]


def segmented(scan: Path, folder: Path, channels: int = 1) -> Path:
    """The path of what an inference writes of a scan whose first voxel alone is found."""
    preprocessing = Preprocessing("image", [1.0, 1.0, 1.0], "zscore")
    sample = preprocessing({"image": str(scan)})
    sample["pred"] = sample["image"].clone().repeat(channels, 1, 1, 1)
    layout = ScanLayout(folder)
    save = SaveImaged("pred", folder_layout=layout, writer=ScanWriter, output_dtype="float32", resample=False,
                      print_log=False)  # fmt: skip
    Compose([Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False), save])(sample)
    return Path(layout.filename(scan))


def corners(path: Path) -> dict[str, np.ndarray]:
    """Where nibabel and SimpleITK place the first voxel and the last; the latter reads no second version of NIfTI."""
    found = nibabel.load(path)
    voxels = np.array([[0, 0, 0, 1], [*(size - 1 for size in found.shape[:3]), 1]])
    places = {"nibabel": voxels @ np.asarray(found.affine).T}
    if isinstance(found, nibabel.Nifti2Image):
        return places
    image = sitk.ReadImage(str(path))
    ends = [[0] * image.GetDimension(), [size - 1 for size in image.GetSize()]]
    return places | {"SimpleITK": np.array([image.TransformIndexToPhysicalPoint(end)[:3] for end in ends])}


def assert_same_corners(result: Path, scan: Path) -> None:
    found = corners(result)
    for program, places in corners(scan).items():
        np.testing.assert_array_equal(found[program], places, err_msg=program)


@pytest.mark.parametrize("said", HEADERS)
def test_a_result_has_its_scans_header_and_axes(tmp_path, said):
    scan = written(tmp_path / "a.nii.gz", HEADERS[said])
    result = segmented(scan, tmp_path / "out")
    ours, theirs = (nibabel.load(path).header for path in (result, scan))
    for name in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b", "qoffset_z", "dim"):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours.get_data_dtype() == np.float32
    assert_same_corners(result, scan)


@pytest.mark.parametrize(("kind", "order"), [(nibabel.Nifti2Image, "<"), (nibabel.Nifti1Image, ">")])
def test_versions_and_byte_orders_change_nothing(tmp_path, kind, order):
    scan = written(tmp_path / "a.nii", HEADERS["one unlike the other"], kind, order)
    result = segmented(scan, tmp_path / "out")
    assert type(nibabel.load(result)) is kind
    assert_same_corners(result, scan)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_result_of_another_format_lies_on_its_scan_in_mm(tmp_path, name):
    scan = write_itk(tmp_path / name, np.random.default_rng(0).normal(size=(9, 8, 7)))
    result = segmented(scan, tmp_path / "out")
    header, image = nibabel.load(result).header, sitk.ReadImage(str(scan))
    assert (header["sform_code"], header["qform_code"], header.get_xyzt_units()[0]) == (1, 1, "mm")
    np.testing.assert_allclose(sitk.ReadImage(str(result)).GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(sitk.ReadImage(str(result)).GetDirection(), image.GetDirection(), atol=1e-5)


def test_a_result_of_a_sheared_scan_says_nothing_that_places_it_elsewhere(tmp_path):
    scan = write_itk(tmp_path / "a.nrrd", np.random.default_rng(0).normal(size=(9, 8, 7)), SHEARED)
    found = nibabel.load(segmented(scan, tmp_path / "out"))
    np.testing.assert_allclose(found.get_sform(), SHEARED, atol=1e-4)
    assert (found.header["sform_code"], found.header["qform_code"]) == (1, 0)


@pytest.mark.parametrize("axes", [(9, 8, 7), (9, 8, 7, 1)])
def test_probabilities_have_a_fourth_axis_for_the_classes(tmp_path, axes):
    scan = written(tmp_path / "a.nii", ((AFFINE, 4), (ELSEWHERE, 1), 3, axes))
    result = segmented(scan, tmp_path / "out", channels=3)
    ours, theirs = (nibabel.load(path) for path in (result, scan))
    assert ours.shape == (9, 8, 7, 3)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert [int(ours.header[name]) for name in ("sform_code", "qform_code", "xyzt_units")] == [4, 1, 3]


def test_voxels_on_another_grid_than_the_scan_keep_their_own(tmp_path):
    scan = written(tmp_path / "a.nii", HEADERS["one unlike the other"])
    turn = Orientationd("image", "LPS", labels=None)
    sample = Compose([LoadImaged("image", ScanReader()), EnsureChannelFirstd("image"), turn])({"image": str(scan)})
    layout = ScanLayout(tmp_path / "out")
    SaveImaged("image", folder_layout=layout, writer=ScanWriter, resample=False, print_log=False)(sample)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out" / "a.nii").affine, sample["image"].affine, atol=1e-4)


def test_spacing_is_in_mm_whatever_the_unit(tmp_path):
    scan = written(tmp_path / "a.nii", HEADERS["microns"])
    np.testing.assert_allclose(open_volume(scan).affine, np.diag([1, 1.1, 2.5, 1]), rtol=1e-6)
    load = Compose([LoadImaged("image", ScanReader()), EnsureChannelFirstd("image"), Spacingd("image", (1, 1.1, 2.5))])
    assert load({"image": str(scan)})["image"].shape == torch.Size([1, 9, 8, 7])


@pytest.mark.parametrize(("dtype", "found"), [("uint8", 1), ("int16", 1), ("float32", 2)])
def test_a_label_map_says_what_it_is_wherever_it_is_copied_to(tmp_path, dtype, found):
    scan = written(tmp_path / "a.nii.gz", HEADERS["neither"])
    writer = ScanWriter(output_dtype=dtype)
    writer.set_data_array(torch.ones(1, 9, 8, 7))
    writer.set_metadata({"filename_or_obj": str(scan)}, resample=False)
    writer.write(tmp_path / "elsewhere.nii.gz")
    assert len(find_scans(tmp_path)) == found
