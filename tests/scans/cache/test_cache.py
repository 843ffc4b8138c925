import errno
import json
import logging
import math
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    Orientationd,
    RandFlipd,
    ScaleIntensityRanged,
    Spacingd,
)
from scan_files import cached, loading, oblique_affine, write_label, write_nifti, write_scan

from desd_components import UserError, VolumeCache, find_scans
from desd_components.scans.cache.entries import open_array, read_box, read_meta, write_entry
from desd_components.scans.cache.fingerprint import describe
from desd_components.scans.cache.making import EntryMaker
from desd_components.scans.fingerprint import data_fingerprint


def preprocessing(spacing: tuple[float, ...] = (1.0, 1.0, 1.0), top: float = 1.0) -> Compose:
    return Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=spacing),
            ScaleIntensityRanged("image", a_min=-2, a_max=2, b_min=0, b_max=top, clip=True),
        ]
    )


def written(folder: Path, count: int = 3) -> list[dict]:
    return [{"image": str(write_scan(folder / f"{number}.nii.gz", seed=number))} for number in range(count)]


def test_an_entry_holds_what_the_transforms_make_and_where_it_comes_from(tmp_path):
    (scan,) = written(tmp_path / "data", 1)
    (entry,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare([scan])
    expected, stored, meta = preprocessing()(scan)["image"], open_array(entry, "image"), read_meta(entry)["image"]
    np.testing.assert_array_equal(stored, expected.numpy())
    assert stored.dtype == np.float32 and meta["source"] == [scan["image"]]
    np.testing.assert_allclose(meta["affine"], expected.affine)
    np.testing.assert_allclose(meta["original_affine"], oblique_affine(), atol=1e-5)


def test_a_second_call_preprocesses_nothing(tmp_path):
    scans = written(tmp_path / "data")
    folders = VolumeCache(preprocessing(), tmp_path / "cache").prepare(scans)
    before = [os.stat(path).st_mtime_ns for path in folders]
    assert VolumeCache(preprocessing(), tmp_path / "cache").prepare(scans) == folders
    assert [os.stat(path).st_mtime_ns for path in folders] == before


def test_a_scan_changed_in_place_gets_a_new_entry(tmp_path):
    scan = {"image": str(write_scan(tmp_path / "a.nii"))}
    size = os.path.getsize(scan["image"])
    (before,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare([scan])
    write_scan(tmp_path / "a.nii", seed=9)
    assert os.path.getsize(scan["image"]) == size
    (after,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare([scan])
    assert before != after
    assert not np.array_equal(open_array(before, "image"), open_array(after, "image"))


def test_a_changed_transform_gets_new_entries():
    described = [
        json.dumps(describe(transform), sort_keys=True)
        for transform in (preprocessing(), preprocessing((1, 1, 2)), preprocessing(top=2.0), preprocessing())
    ]
    assert described[0] == described[3]
    assert len(set(described)) == 3


@pytest.mark.parametrize(
    "other",
    [lambda x: np.log1p(x) * 3, lambda x: np.sqrt(x) * 2, lambda x, y=1: np.log1p(x) * 2],
    ids=["constant", "name", "default"],
)
def test_a_changed_function_inside_a_transform_changes_its_description(other):
    def described(function):
        function.__qualname__ = "f"  # where it stands is not what it does
        return json.dumps(describe(Lambdad("image", func=function)), sort_keys=True)

    assert described(lambda x: np.log1p(x) * 2) == described(lambda x: np.log1p(x) * 2)
    assert described(lambda x: np.log1p(x) * 2) != described(other)


def test_the_description_is_the_same_after_use(tmp_path):
    (scan,) = written(tmp_path, 1)
    transform = preprocessing()
    before = json.dumps(describe(transform), sort_keys=True)
    transform(scan)
    assert json.dumps(describe(transform), sort_keys=True) == before


def test_threads_make_the_same_entries(tmp_path):
    scans = written(tmp_path / "data", 5)
    alone = VolumeCache(preprocessing(), tmp_path / "one").prepare(scans)
    threaded = VolumeCache(preprocessing(), tmp_path / "two", num_workers=3).prepare(scans)
    for first, second in zip(alone, threaded, strict=True):
        np.testing.assert_array_equal(open_array(first, "image"), open_array(second, "image"))


def test_no_two_threads_share_a_reader(tmp_path):
    """MONAI's readers keep the names of the files that they are reading, so that a shared one may mix up two scans."""
    cache, together = VolumeCache(preprocessing(), tmp_path), threading.Barrier(3)

    def loader(_: int) -> object:
        together.wait(timeout=20)
        return cache.maker.steps()[0]

    with ThreadPoolExecutor(3) as pool:
        assert len({id(each) for each in list(pool.map(loader, range(3)))}) == 3


def test_half_precision_takes_half_the_disk(tmp_path):
    scans = written(tmp_path / "data", 1)
    (full,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare(scans)
    (half,) = VolumeCache(preprocessing(), tmp_path / "cache", dtype="float16").prepare(scans)
    assert open_array(half, "image").nbytes * 2 == open_array(full, "image").nbytes
    np.testing.assert_allclose(open_array(half, "image"), open_array(full, "image"), atol=1e-3)


@pytest.mark.parametrize(("largest", "kind"), [(255, "uint8"), (256, "int16"), (40000, "int32")])
def test_labels_are_stored_in_the_smallest_whole_number_type(tmp_path, largest, kind):
    label = write_nifti(tmp_path / "a_seg.nii.gz", largest * np.eye(6, 7, dtype=np.float32)[..., None].repeat(5, -1))
    entry = cached({"image": str(write_scan(tmp_path / "a.nii.gz")), "label": str(label)}, tmp_path)
    assert open_array(entry, "label").dtype == kind
    assert read_meta(entry)["label"]["values"] == [0, largest]


def test_a_box_is_what_the_array_holds_there_and_z_is_slowest_in_memory(tmp_path):
    (path,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare(written(tmp_path / "data", 1))
    box = (slice(1, 4), slice(2, 3), slice(0, 3))
    found = read_box(path, "image", box)
    np.testing.assert_array_equal(found, open_array(path, "image")[(slice(None), *box)])
    assert found.strides[3] == max(found.strides[1:])


def test_reading_a_box_does_not_read_the_file(tmp_path):
    """Made to claim 64 GB (a sparse file), an entry gives a box of it at once."""
    path, shape = tmp_path / "a.safetensors", (1, 2000, 4000, 2000)
    write_entry(path, {"image": np.zeros((1, 1, 1, 1), np.float32)}, {})
    head = json.loads(path.read_bytes()[8:-4])
    head["image"] |= {"shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
    text = json.dumps(head).encode()
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(stream.tell() + 4 * math.prod(shape))
    box = read_box(path, "image", (slice(3000, 3004), slice(5, 9), slice(7, 12)))
    assert box.shape == (1, 4, 4, 5) and not box.any()


def test_an_entry_is_a_safetensors_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    (path,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare(written(tmp_path / "data", 1))
    stored = safetensors.load_file(path)["image"]  # (C, Z, X, Y)
    np.testing.assert_array_equal(stored.transpose(0, 2, 3, 1), open_array(path, "image"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda whole: whole[:-3],
        lambda whole: b"",
        lambda whole: b"\0" * len(whole),
        lambda whole: whole.replace(b'"layout": "3"', b'"layout": "2"'),
    ],
    ids=["torn", "empty", "zeros", "another layout"],
)
def test_an_entry_that_is_not_whole_is_made_again_and_never_read(tmp_path, harm):
    scans = written(tmp_path / "data", 1)
    (path,) = VolumeCache(preprocessing(), tmp_path / "cache").prepare(scans)
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    with pytest.raises(UserError, match=r"cannot be read any more .*; it makes what is missing or damaged"):
        read_box(path, "image", (slice(0, 1),) * 3)
    assert VolumeCache(preprocessing(), tmp_path / "cache").prepare(scans) == [path]
    assert path.read_bytes() == whole


def test_a_disk_that_fills_is_told_in_one_line_and_blames_no_scan(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = VolumeCache(preprocessing(), tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"safetensors: cannot be written \(No space left on device\)\. Make room"):
        cache.attempt(written(tmp_path / "data"), skip=True)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cache.transform_hash]
    assert not list((tmp_path / "cache" / cache.transform_hash).iterdir())


def test_two_runs_that_make_one_cache_at_the_same_time_lose_nothing(tmp_path):
    scans, together = written(tmp_path / "data", 4), threading.Barrier(2)

    def run(_: int) -> list[Path]:
        cache = VolumeCache(preprocessing(), tmp_path / "cache")
        together.wait(timeout=20)
        return cache.prepare(scans)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second
    for path, scan in zip(first, scans, strict=True):
        np.testing.assert_array_equal(open_array(path, "image"), preprocessing()(scan)["image"].numpy())
    assert set((tmp_path / "cache").rglob("*.*")) == set(first)


def test_wide_slices_are_stored_without_their_borders(tmp_path):
    scans = [{"image": str(write_scan(tmp_path / "wide.nii", (40, 12, 5)))}]
    scans.append({"image": str(write_scan(tmp_path / "narrow.nii", (30, 26, 5)))})
    cache = VolumeCache(loading("image"), tmp_path / "cache", trim_wider_than=30)
    wide, narrow = cache.prepare(scans)
    whole = LoadImaged("image", image_only=True)(scans[0])["image"]
    np.testing.assert_array_equal(open_array(wide, "image")[0], whole[4:36, 1:11])
    corner = np.array(read_meta(wide)["image"]["affine"])[:3, 3]
    np.testing.assert_allclose(corner, (whole.affine @ torch.tensor([4.0, 1, 0, 1], dtype=torch.float64))[:3])
    assert open_array(narrow, "image").shape == (1, 30, 26, 5)
    assert cache.maker.estimated_bytes(scans[0]) == 32 * 10 * 5 * 4


def test_the_disk_need_is_said_beforehand_from_the_target_spacing(tmp_path, caplog):
    scans = written(tmp_path / "data", 2)
    cache = VolumeCache(preprocessing((0.5, 0.5, 0.5)), tmp_path / "cache")
    with caplog.at_level(logging.INFO):
        stored = open_array(cache.prepare(scans)[0], "image").nbytes
    assert cache.maker.estimated_bytes(scans[0]) == pytest.approx(stored, rel=0.05)
    assert "preprocessing 2 volumes into" in caplog.text and "of disk needed" in caplog.text


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    scans = written(tmp_path / "data", 2)
    cache = VolumeCache(preprocessing(), tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(UserError, match=r"need about .* kB, but 100 bytes are free: set `cache_dir`"):
        cache.prepare(scans)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_bad_files_are_all_named_and_the_good_ones_are_kept(tmp_path):
    scans = written(tmp_path / "data", 4)
    truncated, constant = Path(scans[1]["image"]), Path(scans[2]["image"])
    write_scan(truncated, (20, 20, 20)).write_bytes(truncated.read_bytes()[:9000])
    write_nifti(constant, np.ones((6, 7, 5), np.float32))
    cache = VolumeCache(preprocessing(), tmp_path / "cache", num_workers=2)
    with pytest.raises(UserError) as refusal:
        cache.prepare(scans)
    lines = str(refusal.value).splitlines()
    assert lines[0] == "2 of 4 scans cannot be used:"
    assert "1.nii.gz: is truncated or damaged" in lines[1]
    assert "2.nii.gz: every voxel has the same value" in lines[2]
    assert [cache.path(scan).exists() for scan in scans] == [True, False, False, True]


NOISE = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
INFINITE, LARGE = NOISE.copy(), np.arange(210, dtype=np.float32).reshape(6, 7, 5) * 1e4
INFINITE[0, 0, 0] = np.inf
BEYOND = ScaleIntensityRanged("image", a_min=1000, a_max=2000, b_min=0, b_max=1, clip=True)
#: what is said of voxels, transforms and settings of the cache
REFUSED = {
    "a.nii.gz: 1 of 210 voxels are NaN or infinite": (INFINITE, preprocessing(), {}),  # before they are clipped
    r"same value.*\(seen after the preprocessing\)": (NOISE, [*loading("image"), BEYOND], {}),
    r"a.nii.gz: reaches 2.09e\+06, too much for float16: set cache#dtype: float32": (
        LARGE,
        loading("image"),
        {"dtype": "float16"},
    ),
    r"is \(6, 7, 5\) after the preprocessing.*add EnsureChannelFirstd": (NOISE, [LoadImaged("image")], {}),
    r"RandFlipd is random and stands in the preprocessing, .*`augmentation`": (
        NOISE,
        [*loading("image"), RandFlipd("image")],
        {},
    ),
    "1 scans lack one of": (NOISE, loading("image", "label"), {"keys": ("image", "label")}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_kept_is_refused(tmp_path, words):
    voxels, transform, settings = REFUSED[words]
    path = write_nifti(tmp_path / "a.nii.gz", voxels)
    with pytest.raises(UserError, match=words):
        VolumeCache(transform, tmp_path / "cache", **settings).prepare([{"image": str(path)}])


def test_label_values_are_checked_against_entries_of_an_earlier_run_too(tmp_path):
    scan = {"image": str(write_scan(tmp_path / "a.nii.gz")), "label": str(write_label(tmp_path / "l.nii.gz"))}
    transform, keys = loading("image", "label"), ("image", "label")
    VolumeCache(transform, tmp_path / "cache", keys, class_count=3).prepare([scan])
    with pytest.raises(UserError, match=r"l.nii.gz: holds the label values \[2\], but the classes are 0 to 1"):
        VolumeCache(transform, tmp_path / "cache", keys, class_count=2).prepare([scan])


def test_memory_does_not_grow_with_the_number_of_volumes(tmp_path):
    """Forty volumes of 4 MB pass; were they all held, 160 MB would remain."""
    import tracemalloc

    scans = written(tmp_path / "data", 1)
    for number in range(40):
        path = tmp_path / "data" / f"more_{number}.nii"
        write_nifti(path, np.random.default_rng(number).normal(size=(100, 100, 100)).astype(np.float32))
        scans.append({"image": str(path)})
    cache = VolumeCache(loading("image"), tmp_path / "cache", num_workers=2)
    tracemalloc.start()
    cache.prepare(scans)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6


class CountingMaker(EntryMaker):
    """Counts the entries that this process makes, and takes its time over each when told to."""

    made, seconds = 0, 0.0

    def make(self, path, scan):
        time.sleep(self.seconds)
        self.made += 1
        return super().make(path, scan)


def _prepare_on_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patched:
        if rank:  # all but the first process may read nothing
            patched.setattr(os, "walk", None)
            patched.setattr(os.path, "getsize", None)
        good = find_scans(Path(folder, "good"))
        fingerprint = data_fingerprint({"training": good})
    bad = [{"image": str(path)} for path in sorted(Path(folder, "bad").glob("*.nii.gz"))]
    cache = VolumeCache(loading("image"), Path(folder, "cache"))
    maker = cache.maker
    cache.maker = CountingMaker(maker.transforms, maker.lazy, maker.keys, maker.dtype, maker.in_channels)
    cache.maker.seconds = 0.2 * rank  # whoever is done early must wait, and not do the other's work
    seen = {"found": good, "fingerprint": fingerprint, "good": list(map(str, cache.prepare(good)))}
    seen |= {"made": cache.maker.made, "description": json.dumps(describe(preprocessing()), sort_keys=True)}
    with pytest.raises(UserError) as refusal:
        cache.prepare(bad)
    seen |= {"bad": str(refusal.value), "skipped": cache.attempt(bad, skip=True)[1]}
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    """What each of two processes saw of five good scans and of four with a bad one."""
    folder = tmp_path_factory.mktemp("two_processes")
    written(folder / "good", 5)
    Path(written(folder / "bad", 4)[3]["image"]).write_bytes(b"")
    # Forked as the workers of a loader are: importing everything twice would take most of the time.
    torch.multiprocessing.start_processes(_prepare_on_rank, (str(folder),), nprocs=2, start_method="fork")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_share_the_work_and_see_the_same(two_processes):
    first, second = two_processes
    assert (first.pop("made"), second.pop("made")) == (3, 2)
    assert first == second and len(first["found"]) == len(first["good"]) == 5
    assert all(Path(entry).exists() for entry in first["good"])
    assert "3.nii.gz: is empty" in first["bad"] and list(first["skipped"]) == ["3"]
    assert first["description"] == json.dumps(describe(preprocessing()), sort_keys=True)
