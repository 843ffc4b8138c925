"""Promises of `desd_components.segmentation.network`."""

import math

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from random_weights import ARCHITECTURE

from desd_components import ResNet3DEncoder, UserError
from desd_components.base.classes import IGNORE
from desd_components.segmentation.losses import check_regions, class_targets, decode, probabilities, segmentation_loss
from desd_components.segmentation.network import SegmentationNetwork

PAPER = {"depth": 10, "width": 8}  # stem stride (2, 2, 1) and a max-pool
POOLED = {**ARCHITECTURE, "stem_pool": True}
both_activations = pytest.mark.parametrize("activation", ["sigmoid", "softmax"])


@pytest.mark.parametrize("settings", [PAPER, ARCHITECTURE, POOLED], ids=["paper", "full", "pooled"])
def test_logits_have_the_size_of_the_volume_and_a_scripted_network_says_the_same(settings):
    network = SegmentationNetwork(ResNet3DEncoder(**settings), 3, decoder_width=8).eval()
    for shape in ((32, 32, 32), (50, 19, 35), (37, 33, 21)):
        volume = torch.randn(1, 1, *shape)
        assert network(volume).shape == (1, 3, *shape)
    torch.testing.assert_close(torch.jit.script(network)(volume), network(volume))


def test_encoder_keeps_its_names_inside_the_network(tiny_encoder):
    inside = {n.removeprefix("encoder.") for n in SegmentationNetwork(tiny_encoder, 2).state_dict() if "encoder." in n}
    assert inside == set(tiny_encoder.state_dict())


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_every_parameter_gets_a_gradient(norm):
    network = SegmentationNetwork(ResNet3DEncoder(**PAPER), 3, decoder_width=8, decoder_norm=norm)
    network(torch.randn(2, 1, 64, 48, 32)).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_decoder_width_doubles_with_depth_up_to_a_limit(tiny_encoder):
    network = SegmentationNetwork(tiny_encoder, 2, decoder_width=100)
    assert [level.project.conv.out_channels for level in network.decoder.levels] == [320, 200, 100]


def test_a_window_too_small_is_refused_when_the_network_is_built(tiny_encoder):
    with pytest.raises(UserError, match="stage 4"):
        SegmentationNetwork(tiny_encoder, 2, window=(8, 8, 8))


def test_the_smallest_window_that_is_not_refused_can_be_trained_on(tiny_encoder):
    network = SegmentationNetwork(tiny_encoder, 2, decoder_width=8, window=(9, 8, 8))
    assert network(torch.randn(1, 1, 9, 8, 8)).isfinite().all()


@pytest.mark.parametrize("wrong", [{"out_channels": 1}, {"decoder_norm": "layer"}, {"decoder_width": 0}], ids=str)
def test_impossible_arguments_are_refused(tiny_encoder, wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        SegmentationNetwork(tiny_encoder, **{"out_channels": 2, **wrong})


def dice_bce_written_out(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Dice over the batch for channels 1.., and the mean binary cross-entropy of all channels, by plain loops."""
    batch, channels = logits.shape[:2]
    flat, truth = logits.flatten(2), labels.flatten(2)
    cross_entropy, dice_losses = 0.0, []
    for c in range(channels):
        overlap = found = true = 0.0
        for b in range(batch):
            for v in range(flat.shape[2]):
                p, t = 1 / (1 + math.exp(-flat[b, c, v].item())), float(truth[b, 0, v].item() == c)
                cross_entropy -= t * math.log(p) + (1 - t) * math.log(1 - p)
                overlap, found, true = overlap + p * t, found + p, true + t
        if c > 0:
            dice_losses.append(1 - (2 * overlap + 1e-5) / (found + true + 1e-5))
    return cross_entropy / flat.numel() + sum(dice_losses) / len(dice_losses)


def test_sigmoid_loss_equals_the_written_out_sums():
    logits, labels = torch.randn(2, 3, 4, 3, 5), torch.randint(0, 3, (2, 1, 4, 3, 5))
    loss = segmentation_loss()(logits, labels)
    assert loss.item() == pytest.approx(dice_bce_written_out(logits, labels), rel=1e-5)


def test_softmax_loss_equals_the_written_out_sums_and_small_classes_weigh_more_until_they_are_found():
    logits, labels = torch.randn(2, 4, 3, 4, 5), torch.zeros(2, 1, 3, 4, 5)
    labels[0, 0, 0, 0, :3], labels[1, 0, 0, 0, 0], labels[1, 0, 1] = 1, 2, 3  # 3 voxels, 1 and 20 of 120
    logits[:, 1] += 20 * (labels[:, 0] == 1)  # class 1 is nearly found
    chances = logits.movedim(1, -1).reshape(-1, 4).double().softmax(1).tolist()
    truth = labels.flatten().long().tolist()
    missed = [0.0]
    for c in (1, 2, 3):
        overlap = sum(p[c] for p, t in zip(chances, truth, strict=True) if t == c)
        missed.append(1 - (2 * overlap + 1e-5) / (sum(p[c] for p in chances) + truth.count(c) + 1e-5))
    assert missed[1] < 0.9 < missed[2]
    weights = [max(1, 6 / truth.count(t)) ** (0.75 * missed[t] ** 2) if t else 1 for t in truth]
    entropy = -sum(w * math.log(p[t]) for w, p, t in zip(weights, chances, truth, strict=True)) / sum(weights)
    found = segmentation_loss("softmax", num_classes=4)(logits, labels).item()
    assert found == pytest.approx(entropy + sum(missed) / 3, rel=1e-5)


@both_activations
def test_a_perfect_answer_costs_nothing(activation):
    labels = torch.randint(0, 3, (2, 1, 4, 4, 4))
    logits = class_targets(labels, 3) * 60 - 30
    assert segmentation_loss(activation)(logits, labels).item() == pytest.approx(0, abs=1e-3)


@both_activations
def test_the_loss_takes_crops_with_records_of_their_scans_and_half_precision(activation):
    crops = [{"label": MetaTensor(torch.randint(0, 3, (1, 4, 4, 3)), meta={"filename_or_obj": n})} for n in "ab"]
    labels, logits = list_data_collate(crops)["label"], torch.randn(2, 3, 4, 4, 3).bfloat16()
    loss, plain = segmentation_loss(activation)(MetaTensor(logits), labels), labels.as_tensor()
    assert loss.dtype == torch.float32 and loss == segmentation_loss(activation)(logits.float(), plain)


def test_uniform_logits_cost_what_can_be_said_in_the_head():
    labels = torch.zeros(1, 1, 2, 2, 2)
    labels[..., 0] = 1
    # every probability is 1/2: cross-entropy ln 2; Dice of class 1 is 2 * (4 * 1/2) / (4 + 4) = 1/2
    assert segmentation_loss()(torch.zeros(1, 2, 2, 2, 2), labels).item() == pytest.approx(math.log(2) + 0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"activation": "relu"}, "activation='relu': choose one of"),
        ({"activation": "softmax", "regions": [[1, 2], [2]]}, "activation: sigmoid"),
        ({"regions": [[1]], "num_classes": 3}, "1 lists for 2"),
    ],
    ids=str,
)
def test_losses_that_do_not_exist_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        segmentation_loss(**settings)


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ([[1]], "1 lists for 2"),
        ([[1, 2], 2], "1 lists for 2"),
        ([[1, 2], [0]], "whole numbers from 1, 0 is none"),
        ([[2], [1, 2]], r"all of \[2\] belongs to later regions"),
    ],
    ids=str,
)
def test_regions_that_do_not_fit_the_classes_are_refused(regions, words):
    with pytest.raises(UserError, match=words):
        check_regions(regions, 3)


def decode_written_out(logits: torch.Tensor, regions: bool) -> torch.Tensor:
    labels = torch.zeros(1, *logits.shape[1:], dtype=torch.long)
    for x in range(logits.shape[1]):
        for y in range(logits.shape[2]):
            for z in range(logits.shape[3]):
                values = logits[:, x, y, z].tolist()
                if not regions:
                    labels[0, x, y, z] = values.index(max(values))
                    continue
                for c in range(1, len(values)):
                    if 1 / (1 + math.exp(-values[c])) > 0.5:
                        labels[0, x, y, z] = c
    return labels


@pytest.mark.parametrize("regions", [False, True])
def test_decoding_follows_the_written_out_rule_and_remembers_the_scan(regions):
    logits = MetaTensor(torch.randn(2, 4, 5, 4, 3), meta={"filename_or_obj": "a.nii.gz"})
    expected = torch.stack([decode_written_out(sample, regions) for sample in logits.as_tensor()])
    assert torch.equal(decode(logits, regions).as_tensor(), expected)
    assert decode(logits, regions).meta["filename_or_obj"] == "a.nii.gz"


def test_training_targets_are_decoded_back_to_their_labels():
    labels = torch.randint(0, 3, (2, 1, 4, 4, 4))
    nested = class_targets(labels, 3, [[1, 2], [2]]) * 2 - 1
    assert torch.equal(decode(nested, [[1, 2], [2]]), labels)
    assert torch.equal(decode(class_targets(labels, 3)), labels)


@both_activations
def test_probabilities_class_by_class_are_those_of_all_at_once(activation):
    logits = 30 * torch.randn(5, 4, 4, 4, dtype=torch.float64)
    found = torch.stack(list(probabilities(lambda: iter(logits), activation)))
    expected = logits.softmax(dim=0) if activation == "softmax" else logits.sigmoid()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(found.argmax(0, keepdim=True), decode(logits)) or activation == "sigmoid"


def test_of_a_class_of_one_piece_the_largest_is_kept_and_others_stay():
    labels = torch.zeros(2, 1, 12, 4, 4, dtype=torch.int64)
    labels[:, :, 0:5, 0:2], labels[:, :, 7:9, 0:2] = 1, 1  # two pieces of class 1
    labels[:, :, 0:2, 3], labels[:, :, 7:8, 3] = 2, 2
    logits = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    kept = decode(logits, single=[1])
    assert torch.equal(kept[:, :, :6], labels[:, :, :6])
    assert not kept[:, :, 7:9, 0:2].any() and torch.equal(kept[..., 3, :], labels[..., 3, :])
    assert torch.equal(decode(logits), labels)
    scan = MetaTensor(logits[0], affine=2 * torch.eye(4), meta={"filename_or_obj": "a.nii.gz"})
    assert decode(scan, single=[1]).meta["filename_or_obj"] == "a.nii.gz"
    assert torch.equal(decode(scan, single=[1]).affine, scan.affine)


@both_activations
def test_voxels_that_are_ignored_change_no_loss_and_get_no_gradient(activation):
    logits, labels = torch.randn(2, 3, 4, 4, 6), torch.randint(0, 3, (2, 1, 4, 4, 6)).float()
    loss = segmentation_loss(activation, num_classes=3)
    known, half = loss(logits[..., :3], labels[..., :3]), labels.clone()
    half[..., 3:] = IGNORE
    logits.requires_grad_()
    found = loss(logits, half)
    found.backward()
    torch.testing.assert_close(found, known)
    assert (logits.grad[..., 3:] == 0).all() and (logits.grad[..., :3] != 0).any()


@both_activations
def test_a_crop_of_ignored_voxels_alone_teaches_nothing(activation):
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    loss = segmentation_loss(activation, num_classes=3)(logits, torch.full((1, 1, 2, 2, 2), float(IGNORE)))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_regions_leave_the_label_values_that_no_later_one_covers():
    logits = torch.full((4, 4, 1, 1), -1.0)  # kidney [1, 2, 3], mass [2, 3], tumour [2]
    logits[1, 1:], logits[2, 2:], logits[3, 3:] = 1.0, 1.0, 1.0
    assert decode(logits, [[1, 2, 3], [2, 3], [2]]).flatten().tolist() == [0, 1, 3, 2]


def test_a_decoder_has_the_kernels_of_the_stages_it_joins():
    thin, cube = (3, 3, 1), (3, 3, 3)
    encoder = ResNet3DEncoder(
        depth=10,
        width=8,
        norm="group",
        stem_kernel=thin,
        stem_stride=(2, 2, 1),
        stem_pool=False,
        stage_kernels=[thin, thin, 3, 3],
    )
    network = SegmentationNetwork(encoder, 2, 8)
    kernels = [
        [m.kernel_size for m in level.convolve.modules() if isinstance(m, torch.nn.Conv3d)]
        for level in network.decoder.levels
    ]
    assert kernels == [[cube] * 2, [thin] * 2, [thin] * 2, [thin] * 2]  # of stages 3, 2, 1 and of the volume
    assert network(torch.zeros(1, 1, 16, 16, 6)).shape == (1, 2, 16, 16, 6)
    assert ResNet3DEncoder(**encoder.architecture).stage_kernels == encoder.stage_kernels


@both_activations
def test_deep_supervision_teaches_coarser_levels_against_labels_of_their_size(activation):
    encoder = ResNet3DEncoder(**ARCHITECTURE, norm="group")
    network = SegmentationNetwork(encoder, 3, 8, deep_supervision=2)
    volume, labels = torch.randn(1, 1, 16, 16, 8), torch.randint(0, 3, (1, 1, 16, 16, 8)).float()
    found = network.train()(volume)
    assert [tuple(logits.shape[2:]) for logits in found] == [(16, 16, 8), (8, 8, 4), (4, 4, 2)]
    plain = segmentation_loss(activation)
    coarser = [torch.nn.functional.interpolate(labels, logits.shape[2:], mode="nearest-exact") for logits in found]
    wanted = sum(weight * plain(f, c) for weight, f, c in zip((1, 0.5, 0.25), found, coarser, strict=True))
    torch.testing.assert_close(plain(found, labels), wanted)
    wanted.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.eval()(volume).shape == (1, 3, 16, 16, 8)
    assert SegmentationNetwork(encoder, **network.decoder_architecture).load_state_dict(network.state_dict())
    with pytest.raises(UserError, match="deep_supervision"):
        SegmentationNetwork(encoder, 3, 8, deep_supervision=-1)
