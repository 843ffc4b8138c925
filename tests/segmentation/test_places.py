"""Where crops lie, and unlabelled ones beside them."""

import numpy as np
import pytest
import torch
from monai.transforms import CopyItemsd, LoadImaged, RandAffined, RandCropByLabelClassesd, SpatialPadd
from scan_files import write_nifti

from desd_components import PreprocessedDataset, VolumeCache, WithUnlabelled
from desd_components.base.draws import SampleKey
from desd_components.scans.datasets import place_of

KEYS, WINDOW = ["image", "label"], (10, 8, 6)
SHAPES = [(40, 30, 12), (30, 36, 10), (44, 28, 14), (34, 32, 8)]
ABOUT = {"label_key": "label", "spatial_size": WINDOW, "num_classes": 3, "ratios": [0, 1, 1], "warn": False}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of scans whose values say how far along x a voxel lies; two organs that look alike lie at its ends."""
    folder = tmp_path_factory.mktemp("crops")
    scans = []
    for number, shape in enumerate(SHAPES):
        along = np.broadcast_to(((np.arange(shape[0]) + 0.5) / shape[0])[:, None, None], shape)
        labels = np.zeros(shape, np.uint8)
        labels[shape[0] // 8 : shape[0] // 4], labels[-shape[0] // 4 : -shape[0] // 8] = 1, 2
        paths = {"image": folder / f"{number}.nii.gz", "label": folder / f"{number}_seg.nii.gz"}
        write_nifti(paths["image"], along.astype(np.float32)), write_nifti(paths["label"], labels)
        scans.append({key: str(path) for key, path in paths.items()})
    cache = VolumeCache(LoadImaged(KEYS, ensure_channel_first=True), folder / "cache", KEYS, class_count=3)
    return lambda *steps: PreprocessedDataset(scans, cache, list(steps), seed=4)


def batches(data, size=4, count=25):
    return [data.__getitems__([SampleKey(batch, index % 4) for index in range(size)]) for batch in range(count)]


def test_the_place_of_a_crop_is_where_its_middle_lies_whatever_was_done_to_it(dataset):
    turned = RandAffined(KEYS, prob=1.0, rotate_range=(0.1, 0.1, 0.1), mode="nearest", padding_mode="border")
    for steps in ([], [turned]):
        data = dataset(SpatialPadd(KEYS, WINDOW, mode="edge"), RandCropByLabelClassesd(KEYS, **ABOUT), *steps)
        for number in range(4):
            [crop] = data[number]
            middle = crop["image"][0, 4:6, 3:5].mean()
            assert abs(place_of([crop])[0] - middle) < 0.5 / SHAPES[number][0] + 1e-6
            assert (place_of([crop]) > 0).all() and (place_of([crop]) < 1).all()


@pytest.mark.parametrize("near", [(0.5, 0.5, 0.5), (0.0, 1.0, 0.3), (1.0, 0.0, 0.9)])
def test_a_window_lies_at_its_place_as_far_as_the_volume_allows(dataset, near):
    crop = dataset().sample(1, np.array(near), WINDOW)
    assert crop["image"].shape[1:] == crop["label"].shape[1:] == WINDOW
    ends = np.array(WINDOW) / 2 / SHAPES[1]
    np.testing.assert_allclose(place_of(crop), np.clip(near, ends, 1 - ends), atol=0.5 / min(SHAPES[1]) + 1e-6)


def test_a_volume_smaller_than_the_window_is_taken_whole_and_padded_by_the_augmentation(dataset):
    crop = dataset(SpatialPadd(KEYS, (10, 8, 16), mode="edge")).sample(3, np.array([0.4, 0.5, 0.9]), (10, 8, 16))
    assert crop["image"].shape[1:] == (10, 8, 16)
    np.testing.assert_allclose(place_of(crop)[2], 0.5, atol=1e-6)


def test_an_unlabelled_crop_lies_where_its_labelled_one_does_and_is_a_function_of_it(dataset):
    labelled = dataset(RandCropByLabelClassesd(KEYS, **ABOUT))
    data = WithUnlabelled(labelled, dataset(CopyItemsd("image", names="weak")), WINDOW, seed=3)
    for (known, others), (_, again) in zip(batches(data), batches(data), strict=True):
        assert len(known) == 4 and len(others) == 2
        for crop, partner, same in zip(known[2:], others, again, strict=True):
            assert abs(place_of(crop) - place_of(partner))[0] < 0.05
            assert torch.equal(partner["draws"], same["draws"]) and torch.equal(partner["image"], same["image"])
    batch = data.collate(data.__getitems__(range(4)))
    assert len(batch["image"]) == len(batch["label"]) == 4 and torch.equal(batch["weak"], batch["strong"])
    draws = torch.stack([other["draws"] for _, others in batches(data) for other in others])
    assert len(draws.unique()) == draws.numel()
