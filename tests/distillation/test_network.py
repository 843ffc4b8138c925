"""Student and teacher: shapes, the published head, and the moving average by name."""

import pytest
import torch

from desd_components import DeepSelfDistillationNetwork, ProjectionHead, ResNet3DEncoder, UserError

HEAD = {"num_prototypes": 12, "head_hidden": 16, "head_bottleneck": 8}


@pytest.fixture
def network(tiny_encoder):
    return DeepSelfDistillationNetwork(tiny_encoder, **HEAD)


@pytest.fixture
def views():
    return [torch.randn(3, 1, 16, 16, 16) for _ in range(2)]


def test_the_deepest_head_has_the_published_number_of_parameters():
    with torch.device("meta"):
        head = ProjectionHead(2048, 60_000)
    linear = 2 * (2048 * 2048 + 2048) + 2048 * 256 + 256
    assert sum(p.numel() for p in head.parameters()) == linear + 2 * 2 * 2048 + 60_000 * 256 == 24_285_440


def test_logits_are_cosines():
    head = ProjectionHead(6, 5, hidden=8, bottleneck=4)
    with torch.no_grad():
        head.prototypes *= 100
    logits = head(10 * torch.randn(7, 6))
    assert logits.abs().max() <= 1 + 1e-6


def test_every_student_stage_and_the_deepest_teacher_speak(network, views):
    local = torch.randn(3, 1, 8, 8, 16)
    output = network([*views, local, local])
    assert output.student_logits.shape == (4, 4, 3, 12)
    assert output.teacher_logits.shape == (2, 3, 12)
    assert [tuple(f.shape) for f in output.pooled] == [(4, 3, c) for c in (8, 16, 32, 64)]


@pytest.mark.parametrize(
    ("settings", "student", "teacher"),
    [({"teacher_target": "same_stage"}, (4, 2), (4, 2)), ({"student_stages": (4,)}, (1, 2), (2,))],
)
def test_other_pairs_of_stages_speak_where_they_are_asked_to(tiny_encoder, views, settings, student, teacher):
    output = DeepSelfDistillationNetwork(tiny_encoder, **settings, **HEAD)(views)
    assert (output.student_logits.shape, output.teacher_logits.shape) == ((*student, 3, 12), (*teacher, 3, 12))


def test_teacher_starts_as_a_copy_of_the_student(network, views):
    output = network(views)
    torch.testing.assert_close(output.teacher_logits, output.student_logits[3])


def drawn_heads(encoder, seed):
    network = DeepSelfDistillationNetwork(encoder, num_prototypes=8, head_hidden=8, seed=seed)
    return torch.cat([prototypes.detach() for prototypes in network.prototypes()])


def test_the_heads_of_a_seed_are_the_same_whatever_was_drawn_before_and_leave_the_generator_alone(tiny_encoder):
    before = torch.random.get_rng_state()
    first = drawn_heads(tiny_encoder, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(drawn_heads(tiny_encoder, seed=3), first)
    assert not torch.equal(drawn_heads(tiny_encoder, seed=4), first)


def test_views_keep_their_places(network, views):
    network.eval()
    together = network(views).student_logits
    swapped = network(views[::-1]).student_logits
    torch.testing.assert_close(together, swapped.flip(1))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_teacher_moves_a_fixed_fraction_towards_the_student_in_every_parameter(network, momentum):
    with torch.no_grad():
        for parameter in network.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    student = dict(network.student.named_parameters())
    expected = {n: momentum * p.clone() + (1 - momentum) * student[n] for n, p in network.teacher.named_parameters()}
    network.update_teacher(momentum)
    assert {name.split(".")[0] for name in expected} == {"encoder", "heads"}
    for name, parameter in network.teacher.named_parameters():
        torch.testing.assert_close(parameter, expected[name].detach())


def test_running_statistics_of_the_teacher_are_its_own(views):
    encoder = ResNet3DEncoder(depth=10, width=8, norm="batch", stem_kernel=3, stem_stride=1, stem_pool=False)
    network = DeepSelfDistillationNetwork(encoder, **HEAD)
    network.student.encoder.stem[1].running_mean.fill_(5.0)
    before = network.teacher.encoder.stem[1].running_mean.clone()
    network.update_teacher(0.0)
    torch.testing.assert_close(network.teacher.encoder.stem[1].running_mean, before)
    network(views)
    assert not torch.equal(network.teacher.encoder.stem[1].running_mean, before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher_target": "shallow"}, "teacher_target='shallow'"),
        ({"student_stages": (1, 5)}, "some of"),
        ({"student_stages": ()}, "some of"),
        ({"student_stages": (2, 1)}, "in order"),
        ({"student_stages": (1, 2)}, "a head of stage 4"),
        ({"num_global_views": 1}, "at least 2"),
        ({"head_norm": "instance"}, "head_norm='instance'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(tiny_encoder, arguments, words):
    with pytest.raises(UserError, match=words):
        DeepSelfDistillationNetwork(tiny_encoder, **{**HEAD, **arguments})
