"""A loader process that is killed, a full /dev/shm: one line within a minute, never a hang."""

import ctypes
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import overlay, run_forked
from monai.data import MetaTensor, list_data_collate
from scan_files import write_pairs
from torch.utils.data import DataLoader

from desd_components import ShareableCollate, UserError
from desd_components.runs.guard import SkipBadScans
from desd_components.scans import loading
from desd_components.scans.loading import NO_SPACE, loader_fault

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


def failed(bundle: str, folder: Path, *overlays: Path, **more: Any) -> str:
    """What a run says that ends, by itself and within a minute, with an error."""
    write_pairs(folder / "scans", [f"case_{number}" for number in range(4)], shape=(16, 17, 16))
    more |= {"dataset_dir": folder / "scans", "cache_dir": folder / "cache", "num_workers": 2, "max_epochs": 500}
    began = time.monotonic()
    assert run_forked(bundle, "train smoke", folder / "run", *overlays, **more) == [1]
    assert time.monotonic() - began < 60
    said = (folder / "run_0.txt").read_text()
    assert "\nerror: " in said
    return said[said.index("\nerror: ") + 1 :].splitlines()[0]


def test_a_killed_loader_process_ends_the_run_with_one_line(tmp_path):
    kill = overlay(tmp_path / "kill.yaml", {"_target_": "interruptions.KillLoaderProcess", "iteration": 3})
    line = failed("desd_pretrain", tmp_path, kill)
    assert re.match(r"error: A process of the loader (was killed \(Killed\)|is gone)", line)
    assert "--num_workers 0" in line and "goes on from its last state" in line


def tiny_shared_memory() -> None:
    """Give this process a /dev/shm of its own, of 64 kB; nobody else sees it."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(NEW_MOUNTS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)


def mounting_is_allowed() -> bool:
    try:
        return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]).returncode == 0
    except FileNotFoundError:
        return False


def test_a_full_dev_shm_ends_the_run_with_one_line(tmp_path):
    if not mounting_is_allowed():
        pytest.skip("no right to mount a small /dev/shm")
    settings = {"class_names": ["one", "two"], "val_interval": 500}
    line = failed("desd_seg_finetune", tmp_path, prepare=tiny_shared_memory, **settings)
    assert line == f"error: {NO_SPACE}"


def full(*arguments: Any) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_no_space_for_a_batch_is_an_error_of_its_collation_and_others_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(loading, "get_worker_info", lambda: "a loader process")
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(UserError, match=r"docker run --shm-size 8g.*--num_workers 0"):
        ShareableCollate()([{"image": torch.zeros(1, 2, 2, 2)}])
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        ShareableCollate(torch.stack)([torch.zeros(1), torch.zeros(2)])


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), OSError(28, os.strerror(28)), ConnectionResetError(104, "")]
)
def test_other_errors_are_no_fault_of_the_loader(error):
    try:
        raise error  # of a full disk, or of a connection elsewhere
    except (RuntimeError, OSError) as caught:
        caught.__cause__ = RuntimeError("another")
        caught.__cause__.__cause__ = caught  # a chain may close on itself
        assert loader_fault(caught) is None


def test_every_tensor_of_a_batch_is_shared_in_a_loader_process_those_of_the_metadata_too(monkeypatch):
    volume = MetaTensor(torch.zeros(1, 2, 2, 2), affine=torch.eye(4), meta={"filename_or_obj": "a.nii"})
    samples = [{"image": volume, "label": volume.clone()}] * 2
    assert not ShareableCollate(list_data_collate)(samples)["image"].is_shared()
    monkeypatch.setattr(loading, "get_worker_info", lambda: "a loader process")
    batch = ShareableCollate(list_data_collate)(samples)
    assert all(batch[key].is_shared() and batch[key].affine.is_shared() for key in ("image", "label"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "was killed (Killed) (process 7)"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "is gone (process 7, 8)"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "--shm-size",
        ),
    ],
)
def test_torch_s_words_about_a_lost_process_are_understood(words, told):
    wrapped = RuntimeError("Failed to evaluate ConfigExpression")
    wrapped.__cause__ = RuntimeError(words)
    assert told in loader_fault(wrapped)


@pytest.mark.parametrize("broken_off", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_batch_that_breaks_off_is_a_lost_process_before_torch_knows(broken_off):
    """A dying process closes its sockets first; for a moment it is still alive for whoever asks."""

    class DyingQueue:
        @staticmethod
        def get(timeout: float) -> None:
            raise broken_off

    batches = iter(DataLoader(range(4), num_workers=1))
    next(batches)
    received, batches._data_queue = batches._data_queue, DyingQueue()
    with pytest.raises(type(broken_off)) as error:
        next(batches)
    batches._data_queue = received
    assert loader_fault(error.value).startswith("A process of the loader is gone: somebody ended it")


def test_inference_takes_a_lost_process_for_no_bad_scan(tmp_path):
    class Engine:
        @staticmethod
        def _iteration(engine: Any, batch: Any) -> None:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    guard = SkipBadScans(tmp_path / "report.json")
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        guard(Engine(), {"image": torch.zeros(1)})
    assert guard.failed == []
