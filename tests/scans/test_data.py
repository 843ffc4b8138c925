import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.transforms import LoadImaged, RandCropByPosNegLabeld, RandFlipd, RandShiftIntensityd
from scan_files import loading, oblique_affine, write_label, write_nifti, write_scan

from desd_components import ContextDataset, PreprocessedDataset, SampleKey, UserError, VolumeCache, sample_loader
from desd_components.scans.contexts import axis_scales, context_length, slab_starts

SHAPES = [(30, 26, 9), (22, 31, 30), (12, 40, 24)]
SCALE = [[1.4, 1.8], [1.4, 1.8], None]


@pytest.fixture
def scans(tmp_path) -> list[dict]:
    """Volumes of unequal shape; a voxel's value tells its volume and place, so that a box tells where it was cut."""
    made = []
    for number, shape in enumerate(SHAPES):
        voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 100_000 * number
        made.append({"image": str(write_nifti(tmp_path / "data" / f"{number}.nii.gz", voxels))})
    return made


def contexts(scans: list[dict], folder: Path, **options) -> ContextDataset:
    settings = {"view_size": (10, 10, 8), "context_scale": SCALE, "slab_depth": 12, "slab_stride": 6, "seed": 3}
    return ContextDataset(scans, VolumeCache(loading("image"), folder / "cache"), **{**settings, **options})


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in first)


# slabs and contexts


@pytest.mark.parametrize(
    ("depth", "starts"), [(9, [0]), (24, [0]), (36, [0, 12]), (48, [0, 12, 24]), (40, [0, 12, 16])]
)
def test_slabs_of_24_slices_start_every_12_and_the_last_ends_with_the_volume(depth, starts):
    assert slab_starts(depth, 24, 12) == starts
    assert slab_starts(depth, None, None) == [0]


def test_a_validation_takes_the_middle_slab_of_each_volume(scans, tmp_path):
    dataset = contexts(scans, tmp_path, one_slab=True)
    boxes = [dataset.box(index) for index in range(len(dataset))]
    assert [(volume, box[2].start, box[2].stop) for volume, box in boxes] == [(0, 0, 9), (1, 9, 21), (2, 6, 18)]


def test_every_slice_lies_in_some_slab():
    for depth, thick, stride in itertools.product(range(1, 40), (1, 5, 12), (1, 3, 5)):
        covered = {z for start in slab_starts(depth, thick, stride) for z in range(start, min(start + thick, depth))}
        assert covered == set(range(depth)) or stride > thick


@pytest.mark.parametrize(
    ("extent", "draw", "expected"),
    [
        (200, 0.0, 134),  # 1.4 x 96 = 134.4
        (200, 0.5, 154),  # 1.6 x 96 = 153.6
        (150, 0.5, 96),  # the draw does not fit: factor 1
        (80, 0.5, 80),  # smaller than the view: the whole axis
    ],
)
def test_context_is_1_4_to_1_8_views_and_falls_back_to_one_view(extent, draw, expected):
    assert context_length(extent, 96, (1.4, 1.8), draw) == expected
    assert context_length(extent, 96, None, draw) == extent


@pytest.mark.parametrize("scale", [1.5, [[1.4, 1.8]], [[0.5, 1.8]] * 3, [[1.8, 1.4], None, None], [1, 2, 3, 4]])
def test_one_pair_of_scales_serves_all_axes_and_what_makes_no_sense_is_refused(scale):
    assert axis_scales([1.4, 1.8]) == axis_scales([[1.4, 1.8]] * 3) == ((1.4, 1.8),) * 3
    with pytest.raises(UserError, match="context_scale is"):
        axis_scales(scale)


def test_a_context_is_the_box_of_its_volume(scans, tmp_path):
    dataset = contexts(scans, tmp_path)
    for key in (SampleKey(epoch, index) for epoch in (1, 2) for index in range(len(dataset))):
        sample = dataset[key]
        volume, box = dataset.box(key)
        whole = LoadImaged("image", image_only=True)(scans[volume])["image"]
        assert torch.equal(sample["image"][0], whole[box].as_tensor())
        assert sample["context_size"].tolist() == list(sample["image"].shape[1:])
        assert (sample["volume"], sample["epoch"], sample["index"]) == (volume, key.epoch, key.index)
        assert sample["image"].dtype == torch.float32


def test_contexts_lie_inside_their_slab_and_have_a_size_of_the_recipe(scans, tmp_path):
    dataset = contexts(scans, tmp_path)
    for epoch, index in itertools.product(range(20), range(len(dataset))):
        volume, box = dataset.box(SampleKey(epoch, index))
        _, z, *extent = dataset.slabs[index].tolist()
        for part, first, size in zip(box, (0, 0, z), extent, strict=True):
            assert first <= part.start < part.stop <= first + size
        width = box[0].stop - box[0].start
        assert width in range(14, 19) or (width == 10 and SHAPES[volume][0] < 18)
        assert box[2].stop - box[2].start == extent[2]


def test_all_places_of_a_context_are_equally_likely(scans, tmp_path):
    dataset = contexts(scans[:1], tmp_path, view_size=(26, 26, 8), context_scale=[[1, 1]] * 3, slab_depth=None)
    starts = [dataset.box(SampleKey(epoch, 0))[1][0].start for epoch in range(2000)]
    counts = np.bincount(starts, minlength=5)
    # 30 - 26 + 1 = 5 places; 400 each are expected, with a standard deviation of 18
    assert len(counts) == 5 and np.abs(counts - 400).max() < 90


def test_draws_differ_by_pass_and_seed(scans, tmp_path):
    one = contexts(scans, tmp_path)
    slabs = len(one.slabs)
    boxes = [
        [one.box(SampleKey(1, index))[1] for index in range(slabs)],
        [one.box(SampleKey(2, index))[1] for index in range(slabs)],
        [contexts(scans, tmp_path, seed=4).box(SampleKey(1, index))[1] for index in range(slabs)],
    ]
    assert all(first != second for first, second in itertools.combinations(boxes, 2))


def test_it_is_a_sequence_whose_plain_index_means_epoch_0(scans, tmp_path):
    dataset = contexts([scan["image"] for scan in scans], tmp_path)  # plain paths will do
    assert same(dataset[2], dataset[SampleKey(0, 2)])
    assert same(dataset[-1], dataset[len(dataset) - 1])
    assert len(list(dataset)) == len(dataset) == sum(len(slab_starts(z, 12, 6)) for _, _, z in SHAPES)


def test_the_dataset_travels_to_workers_without_its_volumes_and_a_second_one_reads_none(scans, tmp_path, monkeypatch):
    dataset = contexts(scans, tmp_path)
    assert len(pickle.dumps(dataset)) < 4000
    assert same(pickle.loads(pickle.dumps(dataset))[1], dataset[1])
    monkeypatch.setattr(os, "preadv", lambda *_, **__: pytest.fail("an array was read"))
    assert np.array_equal(contexts(scans, tmp_path).slabs, dataset.slabs)


@pytest.mark.parametrize(
    ("options", "words"), [({"view_size": (10, 10)}, "view_size"), ({"slab_stride": 0}, "slab_stride 0")]
)
def test_settings_that_make_no_sense_are_refused(scans, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        contexts(scans, tmp_path, **options)


# workers and engines


@pytest.mark.parametrize("workers", [0, 1])
def test_monais_trainer_gives_every_epoch_its_own_number(scans, tmp_path, workers):
    dataset = contexts(scans, tmp_path)
    loader = sample_loader(dataset, 3, workers)
    network = torch.nn.Linear(1, 1)
    seen = []
    trainer = SupervisedTrainer(
        torch.device("cpu"), 3, loader, network, torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=lambda pred, target: pred.mean(),
        prepare_batch=lambda batch, *_, **__: (batch["image"].mean().reshape(1, 1), None),
        decollate=False,
    )  # fmt: skip

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine):
        seen.append((engine.state.epoch, engine.state.batch["epoch"].tolist()))

    trainer.run()
    assert seen == [(epoch, [epoch] * 3) for epoch in (1, 2, 3) for _ in range(len(loader))]


# fine-tuning


@pytest.fixture
def pairs(tmp_path) -> list[dict]:
    made = []
    for number in range(4):
        image = write_scan(tmp_path / "data" / f"{number}.nii.gz", (14, 12, 10), seed=number)
        label = write_label(tmp_path / "data" / f"{number}_seg.nii.gz", (14, 12, 10))
        made.append({"image": str(image), "label": str(label)})
    return made


def random_steps() -> list:
    return [
        RandCropByPosNegLabeld(["image", "label"], "label", (8, 8, 8), num_samples=1),
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandShiftIntensityd("image", offsets=0.3, prob=1.0),
    ]


def pair_cache(folder: Path, class_count: int = 3) -> VolumeCache:
    keys = ("image", "label")
    return VolumeCache(loading(*keys), folder / "cache", keys, class_count=class_count)


def finetuning(pairs: list[dict], folder: Path, augmentation=None, **options) -> PreprocessedDataset:
    return PreprocessedDataset(pairs, pair_cache(folder), augmentation, seed=2, **options)


def test_volumes_keep_their_affine_and_labels_their_values(pairs, tmp_path):
    sample = finetuning(pairs, tmp_path)[1]
    assert isinstance(sample["image"], MetaTensor) and sample["image"].meta["filename_or_obj"] == pairs[1]["image"]
    np.testing.assert_allclose(sample["image"].affine, oblique_affine(), atol=1e-5)
    expected = LoadImaged(["image", "label"], image_only=True)(pairs[1])
    assert torch.equal(sample["image"][0].as_tensor(), expected["image"].as_tensor())
    assert torch.equal(sample["label"][0].as_tensor().float(), expected["label"].as_tensor())
    assert not sample["label"].is_floating_point()


def test_augmentation_is_a_function_of_seed_epoch_and_index(pairs, tmp_path):
    first, second = (finetuning(pairs, tmp_path, random_steps()) for _ in range(2))
    second[SampleKey(9, 3)]  # another history
    for key in (SampleKey(1, 0), SampleKey(1, 3), SampleKey(2, 0)):
        assert torch.equal(first[key][0]["image"].as_tensor(), second[key][0]["image"].as_tensor())
    drawn = [first[key][0]["image"].sum().item() for key in (SampleKey(1, 0), SampleKey(2, 0), SampleKey(3, 0))]
    assert len(set(drawn)) == 3


def test_an_in_place_transform_does_not_change_the_cache(pairs, tmp_path):
    dataset = finetuning(pairs, tmp_path)
    before = dataset[0]["image"].clone()
    dataset[0]["image"].mul_(3)
    assert torch.equal(dataset[0]["image"].as_tensor(), before.as_tensor())
