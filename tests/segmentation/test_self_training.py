"""Promises of `desd_components.segmentation.self_training` and of the crops that it mixes."""

import itertools
import logging
from functools import partial

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn
from torch.nn import functional as F

from desd_components import (
    CosineSchedule,
    CropMixing,
    LearningRateHandler,
    MomentumTeacher,
    SelfTraining,
    SelfTrainingSchedule,
    UserError,
    WithUnlabelled,
    segmentation_loss,
)
from desd_components.base.classes import IGNORE
from desd_components.base.draws import SampleKey
from desd_components.scans.cache.entries import write_entry
from desd_components.segmentation.mixing import cuboids
from desd_components.segmentation.self_training import LEAST_CROPS, VolumeWatch, window_shares

REGIONS = [[1, 2], [2]]


def random_crops(seed=0, crops=3, size=(4, 5, 6)):
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(crops, 3, *size, generator=draws)
    return logits, torch.randint(3, (crops, 1, *size), generator=draws).float()


KINDS = pytest.mark.parametrize(
    ("activation", "regions"), [("softmax", False), ("sigmoid", False), ("sigmoid", REGIONS)]
)
equal = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


@KINDS
def test_a_whole_weight_counts_a_voxel_so_many_times(activation, regions):
    logits, labels = random_crops()
    weights = torch.randint(3, labels.shape, generator=torch.Generator().manual_seed(1))
    times = weights.flatten()
    again = logits.movedim(1, 0).flatten(1).repeat_interleave(times, dim=1)[None, :, :, None, None]
    labels_again = labels.flatten().repeat_interleave(times)[None, None, :, None, None]
    loss = segmentation_loss(activation, regions)
    equal(loss(logits, torch.cat((labels, weights), 1)), loss(again, labels_again))


@KINDS
def test_with_weights_of_one_it_is_the_plain_loss_of_all_levels_and_what_is_ignored_has_none(activation, regions):
    logits, labels = random_crops()
    levels, ones = [logits, logits[:, :, ::2, :, ::2]], torch.ones_like(labels)
    loss = segmentation_loss(activation, regions)
    equal(loss(levels, torch.cat((labels, ones), 1)), loss(levels, labels))
    unknown = labels.clone()
    unknown[:, :, 1] = IGNORE
    equal(loss(logits, torch.cat((unknown, ones), 1)), loss(logits, unknown))
    ones[:, :, 1] = 0
    equal(loss(logits, torch.cat((labels, ones), 1)), loss(logits, unknown))


def test_a_batch_whose_voxels_weigh_nothing_costs_nothing():
    logits, labels = random_crops()
    assert segmentation_loss("softmax")(logits, torch.cat((labels, torch.zeros_like(labels)), 1)).item() < 1e-6


@pytest.mark.parametrize("corner", [0.0, 0.5, 0.9999])
def test_a_cuboid_has_two_thirds_of_each_side_and_lies_in_the_crop(corner):
    [[inside]] = cuboids(torch.full((1, 3), corner), (6, 9, 12))
    sides = [int(inside.any(dim=dims).sum()) for dims in ((1, 2), (0, 2), (0, 1))]
    assert sides == [4, 6, 8] and inside.sum() == 4 * 6 * 8


def test_the_teacher_follows_parameters_and_buffers_and_copies_counts():
    student = nn.BatchNorm1d(3).double()
    teacher = MomentumTeacher(student, "cpu")
    with torch.no_grad():
        student.weight.fill_(3.0)
    student(torch.randn(5, 3, dtype=torch.double))
    expected = 0.9 * torch.zeros(3, dtype=torch.double) + 0.1 * student.running_mean
    teacher.update_teacher(0.9)
    torch.testing.assert_close(teacher.network.weight, torch.full((3,), 1.2, dtype=torch.double), rtol=1e-12, atol=0)
    torch.testing.assert_close(teacher.network.running_mean, expected, rtol=1e-12, atol=0)
    assert teacher.network.num_batches_tracked == 1 and not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_schedule_begins_with_labels_alone_and_then_lets_the_weight_rise():
    schedule = SelfTrainingSchedule(total_steps=90, weight=0.5, supervised=1 / 3, rise=0.4, momentum=0.99)
    assert [schedule(step) for step in (0, 29, 30, 89)] == [0.0, 0.0, 0.99, 0.99]
    assert schedule.risen(29) == 0 and schedule.risen(30) == pytest.approx(0.5 * np.exp(-5))
    assert schedule.risen(66) == schedule.risen(89) == 0.5
    with pytest.raises(UserError, match="supervised_share=2"):
        SelfTrainingSchedule(total_steps=90, supervised=2)


class Volumes:
    """As a `PreprocessedDataset`: label maps, and the entries where they lie."""

    def __init__(self, folder, *labels):
        self.entries = [folder / f"{number}.safetensors" for number in range(len(labels))]
        for entry, volume in zip(self.entries, labels, strict=True):
            write_entry(entry, {"label": volume[None]}, {})


def test_shares_of_a_random_window_are_those_of_all_windows(tmp_path):
    draws, window = np.random.default_rng(0), (3, 4, 2)
    volumes = [draws.integers(3, size=shape) for shape in ((5, 4, 6), (3, 7, 2))]
    volumes[0][0] = IGNORE
    expected = np.zeros(3)
    for volume in volumes:
        places = [range(has - size + 1) for has, size in zip(volume.shape, window, strict=True)]
        parts = [
            tuple(slice(p, p + s) for p, s in zip(place, window, strict=True)) for place in itertools.product(*places)
        ]
        counts = sum(np.bincount(volume[part][volume[part] != IGNORE], minlength=3) for part in parts)
        expected += counts / counts.sum() / 2
    np.testing.assert_allclose(window_shares(Volumes(tmp_path, *volumes), window, 3), expected, rtol=1e-12)


def test_a_class_that_no_labelled_scan_has_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match="no labelled scan to train on has a voxel of tumour"):
        VolumeWatch(Volumes(tmp_path, np.eye(4, dtype=int)[None]), (1, 4, 4), ["background", "organ", "tumour"], 3)


class Labeller(nn.Module):
    """Says the class that the first voxel of a crop is the number of, everywhere."""

    def forward(self, crops):
        return F.one_hot(crops[:, 0].round().long(), 3).movedim(-1, 1).float()


def mixing(share, step=0, total_steps=30, seed=5):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    rate = LearningRateHandler(optimizer, CosineSchedule(1.0, 0.0, total_steps))
    rate.step = step
    return CropMixing(rate, share, seed)


@pytest.fixture
def training(tmp_path):
    labels = np.tile(np.arange(3), (6, 6, 2))  # a third of each class
    watch = VolumeWatch(Volumes(tmp_path, labels), (6, 6, 6), ["background", "organ", "tumour"], 3)
    schedule = SelfTrainingSchedule(total_steps=30)
    return SelfTraining(MomentumTeacher(Labeller(), "cpu"), schedule, SimpleInferer(), watch, mixing(0.0), batch_size=4)


def a_batch(weak=None):
    image = torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 1, 6, 6, 6).clone()
    weak = torch.ones(2, 1, 6, 6, 6) if weak is None else weak
    draws = torch.tensor([[0.1, 0, 0, 0], [0.9, 0, 0, 0]], dtype=torch.double)
    return {"image": image, "label": image % 3, "weak": weak, "strong": weak + 10, "draws": draws}


def test_while_labels_alone_teach_the_labelled_crops_are_mixed_among_each_other(training):
    training.mixing.share = 1.0
    expected, found = training.mixing.prepare(a_batch()), training.prepare(a_batch())
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert training.watch.crops == 0 and training.weight == 0


def test_afterwards_the_second_half_is_mixed_both_ways_and_weighs_as_the_schedule_says(training):
    training.step = training.schedule.supervised_steps
    images, targets = training.prepare(a_batch())
    labels, weights = targets.split(1, dim=1)
    assert images[:2].unique().tolist() == [0, 1] and labels[:2].unique().tolist() == [0, 1]
    assert weights[:2].unique().tolist() == [1]
    inside, outside = (images[2:, 0, place, place, place].tolist() for place in (0, 5))
    assert (inside, outside) == ([11, 3], [2, 11])  # strong crops are 11, labelled ones 2 and 3
    assert labels[2:, 0, 0, 0, 0].tolist() == [1, 0] and labels[2:, 0, 5, 5, 5].tolist() == [2, 1]
    foreign = training.schedule.risen(training.step)
    torch.testing.assert_close(weights[2:, 0, 0, 0, 0], torch.tensor([foreign, 1.0]))
    torch.testing.assert_close(weights[2:, 0, 5, 5, 5], torch.tensor([1.0, foreign]))


def judge(training, *shares):
    """An epoch whose unlabelled crops are labelled with these shares of the classes; the weights of the last batch."""
    training.step = 2 * training.schedule.supervised_steps
    voxels = np.repeat(np.arange(3), [round(share * 216) for share in shares]).reshape(1, 1, 6, 6, 6)
    weak = torch.from_numpy(voxels).float().expand(2, 1, 6, 6, 6)
    for _ in range(LEAST_CROPS // 2):
        training.prepare(a_batch(weak))
    training.watch.judge()
    return training.weight


def test_a_class_with_too_much_does_not_count_and_nothing_does_where_nothing_is_found(training, caplog):
    with caplog.at_level(logging.WARNING):
        full = judge(training, 1 / 3, 1 / 3, 1 / 3)
        assert full == pytest.approx(training.schedule.risen(20)) and not caplog.records
        assert judge(training, 0.0, 0.125, 0.875) == full and training.watch.excessive == [2]
        assert "organ 0.38, tumour 2.6. Unlabelled voxels of a class that has too much do not count" in caplog.text
        mixed = training.prepare(a_batch(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1).expand(2, 1, 6, 6, 6)))[1]
        assert mixed[2, :, 0, 0, 0].tolist() == [1, pytest.approx(full)] and mixed[3, :, 5, 5, 5].tolist() == [2, 0]
        training.watch.counts.zero_(), setattr(training.watch, "crops", 0)
        assert judge(training, 1.0, 0.0, 0.0) == 0 and "tumour 0. Unlabelled voxels do not count" in caplog.text
    assert judge(training, 1 / 3, 1 / 3, 1 / 3) == full and not training.watch.excessive


def test_few_crops_are_not_judged(training):
    training.step = training.schedule.supervised_steps
    training.prepare(a_batch(torch.zeros(2, 1, 6, 6, 6)))
    training.watch.judge()
    assert not training.watch.ratios and training.watch.crops == 2


def test_one_crop_cannot_be_halved(training):
    with pytest.raises(UserError, match="batch_size=1: give a whole number of at least 2"):
        SelfTraining(
            MomentumTeacher(Labeller(), "cpu"), training.schedule, SimpleInferer(), training.watch, training.mixing, 1
        )


class Crops:
    """As a `PreprocessedDataset`: crops that show which draw they are."""

    def __init__(self, count, *names):
        self.count, self.names = count, names

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return {name: torch.tensor([float(part) for part in key]).reshape(2, 1, 1, 1) for name in self.names}


def test_draws_and_unlabelled_crops_are_a_function_of_the_labelled_sample_alone():
    data = WithUnlabelled(Crops(4, "image", "label"), Crops(100, "image", "weak"), seed=3)
    keys = [SampleKey(7, index) for index in range(4)]
    batch, again = (data.collate(data.__getitems__(order)) for order in (keys, [*keys[1::-1], keys[3], keys[2]]))
    assert torch.equal(batch["draws"], again["draws"][[1, 0]]) and len(batch["draws"].unique()) == 8
    assert torch.equal(batch["weak"], again["weak"][[1, 0]]) and torch.equal(batch["weak"], batch["strong"])
    assert len(batch["weak"]) == 2 and len(batch["image"]) == 4


def test_half_of_the_crops_get_a_cuboid_of_the_one_before_until_the_share_of_the_steps_is_over():
    numbers = torch.arange(40.0).reshape(40, 1, 1, 1, 1).expand(40, 1, 6, 9, 3)
    batch = {"image": numbers, "label": numbers + 100}
    images, labels = mixing(0.5, step=14).prepare(batch)
    assert torch.equal(images + 100, labels)
    counts = [{int(value): int((crop == value).sum()) for value in crop.unique()} for crop in images]
    pasted = [number for number, found in enumerate(counts) if len(found) == 2]
    assert 10 < len(pasted) < 30  # about half
    assert all(set(found) <= {number, (number - 1) % 40} for number, found in enumerate(counts))
    assert all(counts[number][(number - 1) % 40] == 4 * 6 * 2 for number in pasted)
    assert torch.equal(images, mixing(0.5, step=14).prepare(batch)[0])
    for other in (mixing(0.5, step=13), mixing(0.5, step=14, seed=6)):
        assert not torch.equal(images, other.prepare(batch)[0])
    for plain in (mixing(0.5, step=15), mixing(0.0)):
        assert torch.equal(plain.prepare(batch)[0], numbers)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match="train#mixing#share=2: give a number from 0 to 1"):
        mixing(2)
