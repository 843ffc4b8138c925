"""Files and folders have the rights that the umask leaves to new ones: no more, for they show patients, and no less."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from bundle_runs import ROOT
from monai.data import MetaTensor
from scan_files import loading, write_scan
from torch import nn

from desd_components import VolumeCache
from desd_components.base.files import require_writable, save_tensors, write_atomically
from desd_components.pages.outlines import DrawOverlayd
from desd_components.runs.history import RunRecordHandler
from desd_components.runs.layout import ScanLayout
from desd_components.scans.planning.survey import survey
from desd_tools.pack.export import write_safetensors
from desd_tools.pack.pack import copy_parts, write_zip


@pytest.fixture(params=[0o077, 0o022, 0o007], ids=oct)
def mask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def cached(folder: Path) -> None:
    VolumeCache(loading("image"), folder).prepare([{"image": str(write_scan(folder / "scan.nii.gz"))}])


def surveyed(folder: Path) -> None:
    survey([{"image": str(write_scan(folder / "scan.nii.gz"))}], folder, folder)


def exported(folder: Path) -> None:
    pytest.importorskip("safetensors")
    write_safetensors(nn.Linear(2, 2), folder / "weights.safetensors")


def drawn(folder: Path) -> None:
    volume = MetaTensor(torch.rand(1, 8, 8, 8), meta={"filename_or_obj": "a.nii"})
    draw = DrawOverlayd("pred", "image", ScanLayout(folder / "outlines", extension=".png"))
    draw({"image": volume, "pred": (volume > 0.5).float()})


def packed(folder: Path) -> None:
    copy_parts(ROOT / "bundles" / "desd_pretrain", folder / "desd_pretrain")
    write_zip(folder / "desd_pretrain")


WRITERS: dict[str, Callable[[Path], object]] = {
    "a page": lambda folder: write_atomically(folder / "pages" / "report.html", b"page"),
    "weights": lambda folder: save_tensors(folder / "weights" / "model.pt", {"weight": torch.zeros(2)}),
    "a folder": lambda folder: require_writable(folder / "runs" / "new"),
    "the cache": cached,
    "a survey": surveyed,
    "safetensors": exported,
    "outlines": drawn,
    "a packed bundle": packed,
    "TensorBoard's": lambda folder: RunRecordHandler(folder)._tensorboard().add_scalar("loss", 1.0, 1),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_written_has_the_rights_of_new_files(tmp_path, mask, write):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert found == {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in found} and found
