"""The dense term compares what two views say of the same tissue, and of nothing else."""

import copy

import pytest
import torch
from torch.nn import functional

from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    DenseDistillationLoss,
    DenseDistillationNetwork,
    DistillationOutput,
    MultiViews,
    PrepareDenseViews,
    UserError,
    ViewRecipe,
)
from desd_components.distillation.terms.dense import DenseOutput, features_at, on_map, points_in_views

SIZE = [16, 16, 16]
HEADS = {"num_prototypes": 12, "head_hidden": 16, "head_bottleneck": 8}
POOLED = (torch.randn(4, 2, 3, 5), torch.randn(2, 3, 5), ())  # 5 prototypes


def multi_views(**settings):
    recipe = ViewRecipe(**{"size": SIZE, "scale": [[0.8, 1.2]] * 3, "flip_probability": [0.5] * 3, **settings})
    return MultiViews([recipe, recipe], seed=3)


def context_batch(image):
    count = len(image)
    size = torch.tensor(image.shape[2:]).expand(count, 3)
    return {"image": image, "context_size": size, "index": torch.arange(count), "epoch": torch.full((count,), 5)}


def ramp(shape):
    """Contexts whose value tells the place: x + 100 y + 10000 z; linear, so that resizing keeps it."""
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return (x + 100 * y + 10000 * z).expand(6, 1, -1, -1, -1)


@pytest.fixture
def ramps():
    return ramp((22, 20, 21))


def test_points_show_the_same_tissue_in_both_views(ramps):
    (views, points, shared, _), _ = PrepareDenseViews(multi_views(), num_points=40)(context_batch(ramps))
    assert shared.all() and points.shape == (2, 6, 40, 3)
    inside = (points.abs() < 1 - 3 / 16).all(dim=-1).all(dim=0)  # near their border, enlarged views are constant
    first, second = (features_at(v, p)[..., 0] for v, p in zip(views, points, strict=True))
    assert inside.sum() > 20
    torch.testing.assert_close(first[inside], second[inside], rtol=1e-4, atol=1.0)
    assert first.std() > 1000


@pytest.mark.parametrize("levels", [1, 2])
def test_maps_of_flipped_views_are_read_at_the_same_tissue(levels):
    """As strided convolutions make them, here by the mean of 3 x 3 x 3 voxels, which leaves a ramp a ramp."""
    size = [32, 32, 32]
    prepare = PrepareDenseViews(multi_views(size=size, scale=[[1.0, 1.0]] * 3), num_points=60)
    (views, points, _, flips), _ = prepare(context_batch(ramp((40, 38, 42))))
    read = []
    for view, places, flip in zip(views, points, flips, strict=True):
        maps = view
        for _ in range(levels):
            maps = functional.avg_pool3d(maps, 3, stride=2, padding=1, count_include_pad=False)
        read.append(features_at(maps, on_map(places, flip, size, maps.shape[2:]))[..., 0])
    inside = (points.abs() < 0.4).all(dim=-1).all(dim=0)  # far from borders, at which a mean leans inwards
    assert inside.sum() > 10 and (flips[0] != flips[1])[inside.any(dim=1)].any(dim=0).all()
    torch.testing.assert_close(read[0][inside], read[1][inside], rtol=1e-5, atol=0.1)


def test_points_are_a_function_of_seed_epoch_and_sample_alone(ramps):
    prepare, batch = PrepareDenseViews(multi_views(), num_points=4), context_batch(ramps)
    together = prepare(batch)[0].points
    alone = prepare({name: values[2:3] for name, values in batch.items()})[0].points
    torch.testing.assert_close(together[:, 2:3], alone)
    later = prepare({**batch, "epoch": batch["epoch"] + 1})[0].points
    assert not torch.equal(together, later)


def test_views_that_share_nothing_are_told():
    geometry = multi_views().geometry(torch.tensor([[40, 40, 40]] * 8), torch.arange(8), torch.zeros(8).long())
    _, shared = points_in_views(geometry, torch.rand(8, 3, 3))
    for b in range(8):
        overlap = True
        for axis in range(3):
            ranges = [range(int(g.start[b, axis]), int(g.start[b, axis] + g.extent[b, axis])) for g in geometry]
            overlap = overlap and bool(set(ranges[0]) & set(ranges[1]))
        assert bool(shared[b]) is overlap
    assert not shared.all() and shared.any()


@pytest.mark.parametrize("same_stage", [False, True])
def test_the_dense_loss_is_the_loss_over_points(same_stage):
    targets = torch.randn(4, 2, 9, 8) if same_stage else torch.randn(2, 9, 8)
    dense = DistillationOutput(torch.randn(4, 2, 9, 8), targets)
    term = DenseDistillationLoss(8, weight=0.25, same_stage=same_stage)
    expected = 0.25 * DeepSelfDistillationLoss(8, same_stage=same_stage)(dense)
    torch.testing.assert_close(term(DenseOutput(*POOLED, dense)), expected)
    assert "dense_stage_4_loss" in term.scalars()


def test_terms_are_added_to_the_loss():
    dense = DistillationOutput(torch.randn(4, 2, 9, 8), torch.randn(2, 9, 8))
    output = DenseOutput(*POOLED, dense)
    plain, term = DeepSelfDistillationLoss(5), DenseDistillationLoss(8)
    both = DeepSelfDistillationLoss(5, terms=[DenseDistillationLoss(8)])
    torch.testing.assert_close(both(output), plain(output) + term(output))
    assert both.scalars().keys() == plain.scalars().keys(), "a term tells its own figures"


@pytest.mark.parametrize("target", ["deepest", "same_stage"])
def test_the_network_speaks_of_points_that_views_share(tiny_encoder, ramps, target):
    network = DenseDistillationNetwork(tiny_encoder, dense_prototypes=7, dense_target=target, **HEADS)
    prepared = PrepareDenseViews(multi_views(), num_points=5)(context_batch(ramps))[0]
    output = network(prepared._replace(shared=torch.arange(6) != 1))  # the second sample's views share nothing
    assert output.dense.student_logits.shape == (4, 2, 5 * 5, 7)
    assert output.dense.teacher_logits.shape == ((4, 2, 25, 7) if target == "same_stage" else (2, 25, 7))
    DenseDistillationLoss(7, same_stage=target == "same_stage")(output).backward()
    assert all(p.grad is not None for p in network.student.dense_heads.parameters())
    assert all(p.grad is None and not p.requires_grad for p in network.teacher.parameters())


def test_dense_logits_are_those_of_the_maps_at_the_points(tiny_encoder, ramps):
    network = DenseDistillationNetwork(tiny_encoder, dense_prototypes=7, **HEADS).eval()
    prepared = PrepareDenseViews(multi_views(), num_points=3)(context_batch(ramps))[0]
    output = network(prepared)
    for view in range(2):
        maps = network.student.encoder.stages(prepared.views[view])
        places = on_map(prepared.points[view], prepared.flips[view], SIZE, maps[1].shape[2:])
        rows = features_at(maps[1], places).flatten(0, 1)
        expected = network.student.dense_heads["stage_2"](rows)
        torch.testing.assert_close(output.dense.student_logits[1, view], expected, rtol=1e-4, atol=1e-5)


def test_what_the_method_says_of_volumes_stays_the_same_to_the_bit(tiny_encoder, ramps):
    plain = DeepSelfDistillationNetwork(copy.deepcopy(tiny_encoder), seed=3, **HEADS)
    dense = DenseDistillationNetwork(tiny_encoder, dense_prototypes=7, seed=3, **HEADS)
    prepared = PrepareDenseViews(multi_views(), num_points=3)(context_batch(ramps))[0]
    with_term = dense(prepared)
    for one, other in zip(plain(prepared.views)[:2], with_term[:2], strict=True):
        assert torch.equal(one, other)
    assert plain.state_dict().keys() < dense.state_dict().keys(), "the same names"


def test_the_teacher_s_dense_heads_follow_and_the_prototypes_are_told(tiny_encoder):
    network = DenseDistillationNetwork(tiny_encoder, dense_prototypes=7, dense_target="same_stage", **HEADS)
    with torch.no_grad():
        for parameter in network.student.parameters():
            parameter.add_(1.0)
    network.update_teacher(0.0)
    for name, parameter in network.teacher.dense_heads.named_parameters():
        assert torch.equal(parameter, network.student.dense_heads.get_parameter(name))
    assert [len(prototypes) for prototypes in network.prototypes()] == 4 * [12] + 4 * [7]


REFUSED = {
    "dense_points=0": lambda encoder: PrepareDenseViews(multi_views(), num_points=0),
    "negative": lambda encoder: DenseDistillationLoss(8, weight=-1.0),
    "dense_target='all'": lambda encoder: DenseDistillationNetwork(encoder, 8, 7, dense_target="all"),
    "PrepareDenseViews as the trainer's": lambda encoder: DenseDistillationLoss(8)(DistillationOutput(*POOLED)),
    "dense_prototypes: the dense heads would learn nothing": lambda encoder: DenseDistillationNetwork(encoder, 8, 7)(
        [torch.randn(2, 1, *SIZE)] * 2
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_out_of_range_and_parts_that_do_not_fit_are_refused(tiny_encoder, words):
    with pytest.raises(UserError, match=words):
        REFUSED[words](tiny_encoder)


def test_a_batch_without_any_shared_tissue_costs_nothing():
    term = DenseDistillationLoss(8, centering="sinkhorn")
    empty = DistillationOutput(torch.zeros(4, 2, 0, 8, requires_grad=True), torch.zeros(2, 0, 8))
    value = term(DenseOutput(*POOLED, empty))
    value.backward()
    assert value.item() == 0.0
    assert not term.over_points.center.any()
    assert torch.isfinite(empty.student_logits.grad).all()
