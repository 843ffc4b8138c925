"""Promises of `desd_components.scans.read`: every format is the same volume at the same place."""

import gzip
import logging
import re
import struct
import sys
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import hounsfield, stored_grid, write_series
from itk_files import sitk, write_itk
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from scan_files import cached, oblique_affine, write_nifti

from desd_components import ScanDataset, ScanReader, UserError, VolumeCache
from desd_components.scans.cache.entries import read_meta
from desd_components.scans.read import open_volume
from desd_tools.__main__ import main

VOXELS = stored_grid(hounsfield((16, 14, 12)))
AFFINE = oblique_affine()


def written(folder: Path, name: str) -> Path:
    if name == "series":
        return write_series(folder / name, hounsfield((16, 14, 12)), AFFINE)
    return write_nifti(folder / name, VOXELS.astype(np.float32)) if ".nii" in name else write_itk(folder / name, VOXELS)


READERS = {"a.nii.gz": "NIfTI", "a.nii": "NIfTI", "a.nrrd": "NRRD", "a.nhdr": "NRRD", "a.mha": "MetaImage"}
READERS |= {"a.mhd": "MetaImage", "series": "DICOM"}
LOADING = Compose([LoadImaged("image", reader=ScanReader()), EnsureChannelFirstd("image")])


@pytest.mark.parametrize("name", READERS)
def test_every_format_is_the_same_volume_at_the_same_place_for_monai_too(tmp_path, name):
    path = written(tmp_path, name)
    volume, image = open_volume(path), LOADING({"image": str(path)})["image"]
    assert (volume.reader, volume.shape) == (READERS[name], VOXELS.shape)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(volume.read(), VOXELS)
    stock = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    expected = stock({"image": str(written(tmp_path, "plain.nii.gz"))})["image"]
    np.testing.assert_array_equal(image.numpy(), expected.numpy())
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)
    assert str(image.meta["space"]) == str(expected.meta["space"])


def test_channels_of_a_file_and_files_of_channels_give_channels(tmp_path):
    both = np.stack([VOXELS, VOXELS + 1], axis=-1)
    files = [str(write_itk(tmp_path / f"{n}.mha", VOXELS + n)) for n in range(2)]
    sitk.WriteImage(sitk.JoinSeries(list(map(sitk.ReadImage, files))), str(tmp_path / "fourth.nrrd"))
    vector = sitk.GetImageFromArray(both.astype(np.float32).transpose(2, 1, 0, 3), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / "vector.nii.gz"))
    for image in (
        files,
        str(tmp_path / "fourth.nrrd"),
        str(tmp_path / "vector.nii.gz"),
        str(write_itk(tmp_path / "both.nrrd", both)),
        str(write_nifti(tmp_path / "both.nii", both)),
    ):
        np.testing.assert_array_equal(LOADING({"image": image})["image"].numpy(), both.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("axes", [(1, 2), (2, 1), (1, 1, 2)])
def test_channels_of_a_nifti_may_stand_behind_axes_of_one_voxel_as_itk_writes_them(tmp_path, axes):
    both = np.stack([VOXELS, VOXELS + 1], axis=-1).astype(np.float32)
    path = write_nifti(tmp_path / "both.nii.gz", both.reshape(*VOXELS.shape, *axes))
    cached({"image": str(path)}, tmp_path, in_channels=2)
    np.testing.assert_array_equal(LOADING({"image": str(path)})["image"].numpy(), both.transpose(3, 0, 1, 2))


def test_what_is_refused_is_not_handed_to_another_reader(tmp_path):
    folder = write_series(tmp_path / "gap", hounsfield(), AFFINE, leave_out=(2, 3, 4, 5))
    with pytest.raises(UserError, match="too wide to be filled"):
        LOADING.transforms[0]({"image": str(folder)})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.nii.gz", r"cannot be read as NIfTI \(it is neither compressed by gzip nor a NIfTI\)"),
        ("a.nrrd", "cannot be read as NRRD"),
        ("a.mha", "cannot be read as MetaImage"),
        ("a.png", "is not a scan: give .nii, .nii.gz, .nrrd"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_or_no_scan_is_refused_in_one_line(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"neither of them" * 20)
    with pytest.raises(UserError, match=f"{name}: {words}") as refusal:
        open_volume(tmp_path / name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Invalid thread pool!"), r"a.nii.gz: could not be read \(Invalid thread pool!\)"),
        (OSError(5, "Input/output error"), r"a.nii.gz: could not be read \(Input/output error\)"),
        (MemoryError("Unable to allocate 4 GiB"), r"a.nii.gz: could not be read \(Unable to allocate 4 GiB\)"),
        (EOFError("it ends"), r"a.nii.gz: is truncated or damaged \(it ends\)"),
    ],
    ids=["torch", "disk", "memory", "content"],
)
def test_only_what_a_file_holds_is_called_damage(tmp_path, monkeypatch, error, words):
    path = written(tmp_path, "a.nii.gz")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("desd_components.scans.read.gzip.open", fail)
    if isinstance(error, RuntimeError):
        monkeypatch.setattr(ScanReader, "get_data", fail)
    with pytest.raises(UserError, match=words):
        cached({"image": str(path)}, tmp_path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_of_less_than_the_file_holds_is_refused_and_padding_is_none(tmp_path, name):
    path = write_nifti(tmp_path / name, VOXELS.astype(np.float32))
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "rb") as stream:
        content = bytearray(stream.read())
    with opened(path, "wb") as stream:
        stream.write(content + bytes(512))
    np.testing.assert_array_equal(open_volume(path).read(), VOXELS)
    content[70:72] = struct.pack("<h", 4)  # that its type is int16, and only half of the bytes belong to it
    with opened(path, "wb") as stream:
        stream.write(content)
    with pytest.raises(UserError, match=r"more follows its \(16, 14, 12\) voxels of int16"):
        open_volume(path).read()


@pytest.mark.parametrize(("name", "other"), [("a.nii", "b.nii.gz"), ("a.nii.gz", "b.nii")])
def test_the_remedy_for_a_nifti_of_the_wrong_suffix_works(tmp_path, name, other):
    wrong = Path(written(tmp_path, name)).rename(tmp_path / other)
    with pytest.raises(UserError, match=r"rename it to (b\.nii\S*)\.$") as refusal:
        open_volume(wrong)
    right = wrong.rename(tmp_path / str(refusal.value).rsplit(" ", 1)[1].removesuffix("."))
    assert open_volume(right).shape == VOXELS.shape


@pytest.mark.parametrize("offset", [0.0, 16.0, 348.0])
def test_a_header_that_takes_itself_for_voxels_is_refused(tmp_path, offset):
    path = Path(written(tmp_path, "a.nii"))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 108, offset)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.nii: cannot be read as NIfTI"):
        open_volume(path).read()


@pytest.mark.parametrize("has_sform", [False, True])
def test_a_voxel_without_width_is_refused_where_no_sform_tells_it(tmp_path, has_sform):
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.set_sform(AFFINE, int(has_sform))
    image.set_qform(AFFINE, 1)
    path = tmp_path / "a.nii"
    path.write_bytes(b"".join([(whole := image.to_bytes())[:84], bytes(4), whole[88:]]))  # pixdim[2], a float
    if has_sform:
        np.testing.assert_allclose(open_volume(path).affine, AFFINE, atol=1e-5)
    else:
        with pytest.raises(UserError, match=r"a.nii: says its voxels are 0.8 x 0 x 2.5 mm, and has no sform: mend its"):
            open_volume(path)


def deflated(folder: Path, name: str) -> tuple[Path, Path]:
    """A scan and its compressed file, whose stream holds the voxels as they are: its checksum alone tells damage."""
    path = written(folder, name)
    beside = path.with_suffix(".raw")
    content = path.read_bytes()
    if name == "a.nii.gz":
        path.write_bytes(gzip.compress(gzip.decompress(content), 0))
    elif name == "a.nrrd":
        header, _, stream = content.partition(b"\n\n")
        path.write_bytes(header + b"\n\n" + gzip.compress(gzip.decompress(stream), 0))
    elif name == "a.nhdr":
        path.write_bytes(content.replace(b"encoding: raw", b"encoding: gzip"))
        beside.write_bytes(gzip.compress(beside.read_bytes(), 0))
    else:
        header, mark, voxels = content.partition(b"LOCAL\n")
        stream = zlib.compress(voxels if mark else beside.read_bytes(), 0)
        size = b"CompressedData = True\nCompressedDataSize = %d" % len(stream)
        path.write_bytes(header.replace(b"CompressedData = False", size) + mark + (stream if mark else b""))
        if not mark:
            beside.write_bytes(stream)
    return path, beside if beside.exists() else path


COMPRESSED = ["a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_bit_that_has_flipped_is_told_by_the_checksum(tmp_path, name):
    path, file = deflated(tmp_path, name)
    np.testing.assert_array_equal(open_volume(path).read(), VOXELS)
    flip_a_bit(file)
    scan, damage = {"image": str(path)}, rf"{name}: is truncated or damaged \(.*\): copy or download it again"
    with pytest.raises(UserError, match=damage):
        cached(scan, tmp_path)
    assert re.search(damage, ScanDataset([scan], LOADING)[0]["error"])


def test_a_small_damaged_file_is_told_as_damaged_though_nibabel_cannot_tell_its_type(tmp_path):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(VOXELS[:4, :4, :4].astype(np.uint8), AFFINE), path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.nii.gz: is truncated or damaged \(CRC check failed"):
        open_volume(path)


@pytest.mark.parametrize("lost", [1, 4, 8, 3000])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_stream_that_ends_too_soon_is_refused_even_within_its_checksum(tmp_path, name, lost):
    path, file = deflated(tmp_path, name)
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(UserError, match=rf"{name}: is truncated or damaged"):
        open_volume(path).read()


@pytest.mark.parametrize("flipped", [False, True])
def test_streams_may_follow_one_another_and_bytes_may_be_swapped(tmp_path, flipped):
    path = written(tmp_path, "a.nrrd")
    header, _, stream = path.read_bytes().partition(b"\n\n")
    voxels = np.frombuffer(gzip.decompress(stream), "<f4").astype(">f4").tobytes()
    header = header.replace(b"endian: little", b"endian: big")
    path.write_bytes(header + b"\n\n" + gzip.compress(voxels[:2000], 0) + gzip.compress(voxels[2000:], 0))
    if flipped:
        flip_a_bit(path)
        with pytest.raises(UserError, match="truncated or damaged"):
            open_volume(path).read()
    else:
        np.testing.assert_array_equal(open_volume(path).read(), VOXELS)


def test_a_stream_of_which_simpleitk_reads_a_part_is_refused(tmp_path):
    path, _ = deflated(tmp_path, "a.mha")
    path.write_bytes(re.sub(rb"CompressedDataSize = \d+\n", b"", path.read_bytes()))
    with pytest.raises(UserError, match="SimpleITK reads other voxels than it holds"):
        open_volume(path).read()


def test_without_simpleitk_the_remedy_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, "a.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(UserError, match=r"reading NRRD needs SimpleITK.*pip install pydicom"):
        open_volume(path)


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_a_header_without_its_voxels_says_so_and_one_with_a_part_of_them_is_damaged(tmp_path, name):
    path = write_itk(tmp_path / name, VOXELS)
    path.with_suffix(".raw").write_bytes(path.with_suffix(".raw").read_bytes()[:100])
    damaged = r"is truncated or damaged \(a.raw ends before its last voxel\): copy or download it again"
    with pytest.raises(UserError, match=damaged):
        open_volume(path).read()
    path.with_suffix(".raw").unlink()
    with pytest.raises(UserError, match=rf"{name}: its voxels, a.raw, are not there: copy all of its files"):
        open_volume(path)


def test_labels_may_have_another_format_than_images(tmp_path):
    image = str(write_itk(tmp_path / "image.mha", VOXELS))
    label = write_nifti(tmp_path / "label.nii.gz", (VOXELS > 0).astype(np.uint8))
    cached({"image": image, "label": str(label)}, tmp_path, class_count=2)
    label = write_itk(tmp_path / "moved.nrrd", VOXELS > 0, AFFINE + 5.0 * np.eye(4, k=3))
    with pytest.raises(UserError, match=r"its affine places a corner 5.00 mm away"):
        cached({"image": image, "label": str(label)}, tmp_path)


def test_the_cache_keeps_how_a_series_was_read_and_says_what_was_interpolated(tmp_path, caplog):
    folder = write_series(tmp_path / "series", hounsfield(), AFFINE, leave_out=(3,))
    cache = VolumeCache(LOADING, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        meta = read_meta(cache.prepare([{"image": str(folder)}])[0])["image"]
    assert (meta["reader"], meta["shape"]) == ("DICOM", [1, 7, 6, 8])
    assert meta["warnings"] == "1 of 8 slices are missing (after slice 3): interpolated"
    assert f"{folder}: 1 of 8 slices are missing" in caplog.text


def test_check_reads_every_format_and_remarks_how(tmp_path, capsys, known_speed):
    write_nifti(tmp_path / "data" / "a.nii.gz", VOXELS)
    for number, name in enumerate(("b.nrrd", "c.mha"), 1):
        write_itk(tmp_path / "data" / name, VOXELS + 10 * number)
    write_series(tmp_path / "data" / "series", hounsfield((9, 9, 12), seed=5), np.diag([1, 1, 2, 1.0]), leave_out=(4,))
    code = main(["check", str(tmp_path / "data")])
    said = capsys.readouterr().out
    assert code == 0 and "4 images and 0 labels read; 0 with faults" in said
    assert "series | 1 of 12 slices are missing (after slice 4): interpolated" in said
