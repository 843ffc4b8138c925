"""Inference by window and by class: the same as the whole at once, with less of both."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Invertd

from desd_components import Preprocessing, ScanLayout
from desd_components.segmentation import inference
from desd_components.segmentation.inference import DecodeOnScand, SaveProbabilitiesd, SkipAirInferer

SHEARED = np.array([[0.8, -0.9, 0.2, 5.0], [0.6, 1.2, 0.1, -7.0], [0.0, 0.3, 2.5, 3.0], [0.0, 0.0, 0.0, 1.0]])
OBLIQUE = np.array([[0.8, 0.9, 0.0, 5.0], [0.6, -1.2, 0.0, -7.0], [0.0, 0.0, 2.5, 3.0], [0.0, 0.0, 0.0, 1.0]])
CLASSES = 6


@pytest.fixture(params=[OBLIQUE, SHEARED], ids=["oblique", "tilted gantry"])
def network_output(request, tmp_path: Path):
    """Logits on the network's grid, unlike that of the scan; and all that leads back."""
    path = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(25, 22, 14)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, request.param), path)
    preprocessing = Preprocessing("image", spacing=[2.0, 2.0, 3.0], intensity="zscore")
    sample = preprocessing({"image": str(path)})
    logits = torch.randn(CLASSES, *sample["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    return preprocessing, sample | {"pred": MetaTensor(logits, meta=sample["image"].meta)}


@pytest.mark.parametrize("regions", [False, True])
def test_decoding_class_by_class_is_decoding_of_all_at_once(network_output, regions):
    preprocessing, sample = network_output
    logits = Invertd("pred", preprocessing, "image", nearest_interp=False)(sample)["pred"]
    values = torch.arange(CLASSES).reshape(-1, 1, 1, 1)
    expected = ((logits > 0) * values).amax(0, keepdim=True) if regions else logits.argmax(0, keepdim=True)
    labels = DecodeOnScand("pred", "image", regions)(sample)["pred"]
    assert torch.equal(labels.as_tensor(), expected.as_tensor().to(labels.dtype)) and len(labels.unique()) == CLASSES
    assert labels.meta["filename_or_obj"] == sample["image"].meta["filename_or_obj"]
    torch.testing.assert_close(labels.affine, logits.affine)
    assert labels.shape[1:] == (25, 22, 14)


def test_of_the_scans_grid_one_class_at_a_time_is_made(network_output, monkeypatch):
    _, sample = network_output
    shapes = []
    resample = inference.Resampling.__call__
    monkeypatch.setattr(
        inference.Resampling, "__call__", lambda self, volume: shapes.append(volume.shape) or resample(self, volume)
    )
    DecodeOnScand("pred", "image")(sample)
    assert shapes == [sample["image"].shape[1:]] * CLASSES


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_probabilities_in_the_file_are_those_of_logits_on_the_scans_grid(network_output, activation, tmp_path):
    preprocessing, sample = network_output
    logits = Invertd("pred", preprocessing, "image", nearest_interp=False)(sample)["pred"].as_tensor()
    expected = logits.softmax(dim=0) if activation == "softmax" else logits.sigmoid()
    assert (
        SaveProbabilitiesd("pred", "image", activation, ScanLayout(tmp_path / "out", postfix="prob"))(sample) == sample
    )
    image, scan = (nibabel.load(tmp_path / name) for name in ("out/scan_prob.nii.gz", "scan.nii.gz"))
    np.testing.assert_allclose(image.get_fdata(dtype=np.float32), expected.movedim(0, -1), atol=2e-5)
    np.testing.assert_array_equal(image.affine, scan.affine)
    assert image.get_data_dtype() == np.float32 and image.header["sform_code"] == scan.header["sform_code"]


class Counting:
    """A network that treats every place and value differently, and counts its windows."""

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        self.windows += len(windows)
        places = torch.arange(windows[0, 0].numel(), dtype=windows.dtype).reshape(windows.shape[2:])
        return torch.cat([windows * places, windows - places], dim=1)


def test_windows_of_air_are_computed_once_and_the_logits_are_the_same():
    volume = torch.full((1, 1, 32, 32, 32), -1.0)
    volume[..., :12, :12, :12] = torch.randn(12, 12, 12)
    volume[..., 24:] = 0.25  # another value throughout
    windows = SlidingWindowInferer(roi_size=8, sw_batch_size=4, overlap=0.5, mode="gaussian")
    every, few = Counting(), Counting()
    torch.testing.assert_close(SkipAirInferer(windows)(volume, few), windows(volume, every), rtol=0, atol=0)
    mixed = 27 + 7 * 7 * 2  # about the noise, and about the border of the two values
    assert few.windows <= mixed + 2 < every.windows / 2


def test_a_volume_without_air_is_left_to_the_network():
    volume, windows = torch.randn(1, 2, 16, 16, 16), SlidingWindowInferer(roi_size=8, sw_batch_size=4)
    every, few = Counting(), Counting()
    assert torch.equal(SkipAirInferer(windows)(volume, few), windows(volume, every)) and few.windows == every.windows
