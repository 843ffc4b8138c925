"""Probes: retrieval and dense nearest neighbours say what the written-out versions say."""

import math

import pytest
import torch
from labelled_volumes import PROBED, labelled_volume

from desd_components import DenseProbe, ResNet3DEncoder, UserError
from desd_components.health.measures import retrieved
from desd_components.health.probes import probed_box, voxel_features


class Intensities:
    """An "encoder" whose four stage maps are the volume itself, its square, noise, and nothing."""

    def parameters(self):
        yield torch.zeros(())

    def stages(self, volume):
        noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
        pair = torch.cat([volume, volume.square()], dim=1)
        return [pair, pair[..., ::2, ::2, ::2], torch.cat([noise, noise.roll(1)], dim=1), torch.ones_like(pair)]


def test_retrieval_finds_each_volume_among_all():
    first = torch.randn(8, 5)
    assert retrieved(first, first + 0.01 * torch.randn(8, 5)).tolist() == [1.0] * 8
    assert retrieved(first, first.roll(1, dims=0)).tolist() == [0.0] * 8
    assert not retrieved(torch.ones(4, 3), torch.ones(4, 3)).any()  # of features that are all the same


def test_voxel_features_interpolate_the_map_between_its_centers():
    shape, voxels = (8, 6, 4), torch.tensor([[3, 2, 1], [4, 3, 2], [0, 0, 0]])
    feature_map = torch.randn(1, 2, 4, 3, 2)
    read = voxel_features([feature_map], shape, voxels)[0]
    for row, voxel in zip(read, voxels.tolist(), strict=True):
        # a map cell covers two voxels an axis: its center lies at voxel coordinate 2 * cell + 0.5
        expected = torch.zeros(2)
        for cell in torch.cartesian_prod(*(torch.arange(n) for n in feature_map.shape[2:])).tolist():
            places = [min(max((v - 0.5) / 2, 0), n - 1) for v, n in zip(voxel, feature_map.shape[2:], strict=True)]
            weight = math.prod(max(0.0, 1 - abs(p - c)) for p, c in zip(places, cell, strict=True))
            expected += weight * feature_map[0, :, cell[0], cell[1], cell[2]]
        torch.testing.assert_close(row, expected)


def test_features_that_tell_the_class_score_one_and_noise_scores_chance():
    probe = DenseProbe(PROBED, voxels_per_class=60, judged_voxels=500, neighbors=5)
    volumes = [labelled_volume(seed) for seed in range(5)]
    dice = probe(Intensities(), volumes[:3], volumes[3:])
    assert dice.shape == (4, 2, 2)
    assert dice[0].min() > 0.99
    assert 0.15 < dice[2].mean() < 0.5


def test_the_vote_is_the_written_out_one():
    probe = DenseProbe(PROBED, neighbors=3)
    bank, features = torch.randn(12, 4), torch.randn(6, 4)
    classes = torch.arange(12) % 3
    mean, sd = bank.mean(dim=0), bank.std(dim=0)
    expected = []
    for feature in features:
        cosines = []
        for other in bank:
            a, b = (feature - mean) / sd, (other - mean) / sd
            cosines.append(float((a * b).sum() / a.norm() / b.norm()))
        votes = [0.0] * 3
        for place in sorted(range(12), key=lambda i: -cosines[i])[:3]:
            votes[int(classes[place])] += math.exp(cosines[place] / 0.07)
        expected.append(max(range(3), key=lambda c: votes[c]))
    assert probe._vote(bank, features, classes).tolist() == expected


def test_every_encoder_is_judged_on_the_same_voxels():
    encoder = ResNet3DEncoder(depth=10, width=8, stem_kernel=3, stem_stride=1, stem_pool=False).eval()
    volumes = [labelled_volume(seed, (16, 16, 16)) for seed in range(3)]
    scores = [DenseProbe(PROBED, 20, 50, seed=1)(encoder, volumes[:2], volumes[2:]) for _ in range(2)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0, equal_nan=True)


def test_the_bank_holds_equally_many_voxels_of_each_class():
    volume = labelled_volume(0)
    volume["label"][volume["label"] == 2] = 0
    volume["label"][0, :3, :3, :3] = 2
    _, classes = DenseProbe(PROBED, voxels_per_class=20)._bank(Intensities(), [volume])
    assert torch.bincount(classes).tolist() == [20, 20, 20]


def test_a_class_that_is_nowhere_has_no_score_and_one_missing_in_the_bank_is_refused():
    volumes = [labelled_volume(seed) for seed in range(2)]
    judged = labelled_volume(7)
    judged["label"] = judged["label"].clamp(max=1)
    judged["image"] = (10.0 * judged["label"] - 10).float()
    dice = DenseProbe(PROBED, 60, 500)(Intensities(), volumes, [judged])
    assert math.isnan(dice[0, 0, 1]) and dice[0, 0, 0] > 0.99
    with pytest.raises(UserError, match=r"no voxel of b: raise `probe_volumes`"):
        DenseProbe(PROBED)(Intensities(), [judged], volumes)
    with pytest.raises(UserError, match="no volume to judge"):
        DenseProbe(PROBED)(Intensities(), volumes, [])


def test_a_large_volume_is_probed_about_its_labels():
    labels = torch.zeros(50, 20, 30)
    labels[40:44, 10, 2:4] = 1
    assert probed_box(labels, (16, 32, 16)) == (slice(34, 50), slice(0, 32), slice(0, 16))
    assert labels[probed_box(labels, (16, 32, 16))].shape == (16, 20, 16)
