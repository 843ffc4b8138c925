from unittest import mock

import pytest
import torch

from desd_components import EpochSampler, SampleKey, UserError, collate_contexts


def passes(count: int, batch_size: int, epochs: int, world: int = 1, rank: int = 0, **options) -> list[list[SampleKey]]:
    with mock.patch("desd_components.scans.loading.place", return_value=(rank, world)):
        sampler = EpochSampler(range(count), batch_size, **options)
    result = []
    for epoch in range(1, epochs + 1):
        sampler.set_epoch(epoch)
        result.append(list(sampler))
    return result


def test_an_epoch_takes_no_sample_twice_carries_its_number_and_is_a_function_of_the_seed():
    epochs = passes(23, 5, 3, seed=1)
    for epoch, keys in enumerate(epochs, start=1):
        assert {key.epoch for key in keys} == {epoch}
        assert len({key.index for key in keys}) == len(keys) == 20
    assert epochs == passes(23, 5, 3, seed=1)
    orders = [[key.index for key in keys] for keys in (*epochs, passes(23, 5, 1, seed=2)[0])]
    assert len(set(map(tuple, orders))) == 4


@pytest.mark.parametrize(("count", "samples"), [(160, 16), (3, 20), (7, 7), (5, 12)])
def test_epochs_of_any_length_take_every_item_equally_often(count, samples):
    epochs = passes(count, 4, 2 * count, samples=samples)
    assert [len(keys) for keys in epochs] == [samples // 4 * 4] * (2 * count)
    keys = [key for keys in epochs for key in keys]
    assert len(set(keys)) == len(keys), "a draw would come twice"
    if samples % 4 == 0:
        times = [[key.index for key in keys].count(index) for index in range(count)]
        assert max(times) - min(times) <= 2


@pytest.mark.parametrize("world", [2, 3])
def test_one_process_with_wb_and_w_with_b_see_the_same_global_batches(world):
    alone = passes(29, 4 * world, 2)
    ranks = [passes(29, 4, 2, world, rank) for rank in range(world)]
    for epoch in range(2):
        for step in range(len(alone[epoch]) // (4 * world)):
            together = [key for rank in ranks for key in rank[epoch][4 * step : 4 * step + 4]]
            assert sorted(together) == sorted(alone[epoch][4 * world * step : 4 * world * (step + 1)])


def test_a_global_batch_larger_than_the_dataset_is_refused_with_the_remedy():
    told = r"takes 16 samples \(batch_size 8 on 2 processes\), but an epoch has 10: lower `batch_size`"
    with pytest.raises(UserError, match=told):
        passes(10, 8, 1, world=2)
    assert len(passes(10, 8, 1, world=2, samples=16)[0]) == 8


def test_collating_pads_at_the_far_end_and_keeps_the_true_sizes():
    def sample(number: int, *size: int) -> dict:
        size_tensor = torch.tensor(size)
        return {"image": torch.rand(2, *size), "context_size": size_tensor, "index": number, "epoch": 5, "volume": 7}

    samples = [sample(0, 4, 6, 3), sample(1, 5, 2, 3)]
    batch = collate_contexts(samples)
    assert batch["image"].shape == (2, 2, 5, 6, 3)
    for row, each in zip(batch["image"], samples, strict=True):
        x, y, z = each["context_size"]
        assert torch.equal(row[:, :x, :y, :z], each["image"])
        assert row.sum().item() == pytest.approx(each["image"].sum().item())
    assert batch["context_size"].tolist() == [[4, 6, 3], [5, 2, 3]]
    assert [batch[name].tolist() for name in ("index", "epoch", "volume")] == [[0, 1], [5, 5], [7, 7]]
    assert batch["context_size"].dtype == batch["index"].dtype == torch.int64
