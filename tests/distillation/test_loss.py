"""The loss is the written-out formula, and knows its two ends."""

import math

import pytest
import torch

from desd_components import DeepSelfDistillationLoss, DistillationOutput, UserError
from desd_components.distillation.centering import sinkhorn


def random_output(stages=4, views=3, teacher_views=2, batch=3, prototypes=8, same_stage=False):
    shape = (stages, teacher_views, batch, prototypes) if same_stage else (teacher_views, batch, prototypes)
    return DistillationOutput(torch.randn(stages, views, batch, prototypes), torch.randn(shape))


def written_out(output, center, weights, student_temperature, teacher_temperature, same_stage=False):
    """The loss with plain loops, from the formula."""
    student, teacher = output.student_logits, output.teacher_logits
    stages, views, batch, prototypes = student.shape
    total = 0.0
    for s in range(stages):
        terms = []
        for t in range(teacher.shape[-3]):
            for v in range(views):
                if t == v:
                    continue
                for b in range(batch):
                    said = teacher[s, t, b] if same_stage else teacher[t, b]
                    shifted = [
                        (float(said[k]) - float(center[s if same_stage else 0, k])) / teacher_temperature
                        for k in range(prototypes)
                    ]
                    weight = [math.exp(x - max(shifted)) for x in shifted]
                    target = [w / sum(weight) for w in weight]
                    scores = [float(student[s, v, b, k]) / student_temperature for k in range(prototypes)]
                    top = max(scores)
                    log_norm = top + math.log(sum(math.exp(x - top) for x in scores))
                    terms.append(-sum(p * (x - log_norm) for p, x in zip(target, scores, strict=True)))
        total += weights[s] * sum(terms) / len(terms)
    return total


@pytest.mark.parametrize("same_stage", [False, True])
@pytest.mark.parametrize("views", [2, 5])
def test_loss_equals_the_written_out_sum_over_cross_view_pairs(views, same_stage):
    weights = (0.1, 0.2, 0.3, 0.4)
    loss = DeepSelfDistillationLoss(8, 0.1, 0.04, stage_weights=weights, same_stage=same_stage)
    loss.center.normal_()
    center = loss.center.clone()
    output = random_output(views=views, same_stage=same_stage)
    expected = written_out(output, center, weights, 0.1, 0.04, same_stage)
    assert loss(output).item() == pytest.approx(expected, rel=1e-5)


def test_uniform_student_costs_log_of_the_number_of_prototypes():
    loss = DeepSelfDistillationLoss(num_prototypes=8)
    output = DistillationOutput(torch.zeros(4, 2, 3, 8), torch.randn(2, 3, 8))
    assert loss(output).item() == pytest.approx(math.log(8))
    assert loss.uniform_loss == pytest.approx(math.log(8))


def test_a_student_that_agrees_with_a_certain_teacher_costs_nothing():
    loss = DeepSelfDistillationLoss(num_prototypes=4)
    certain = torch.eye(4)[:3].expand(2, 3, 4) * 50
    assert loss(DistillationOutput(certain.expand(4, 2, 3, 4), certain)).item() == pytest.approx(0.0, abs=1e-6)


def test_gradient_reaches_the_student_and_never_the_teacher():
    student, teacher = torch.randn(4, 2, 3, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True)
    DeepSelfDistillationLoss(8)(DistillationOutput(student, teacher)).backward()
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


def test_center_is_a_running_mean_updated_after_use():
    loss = DeepSelfDistillationLoss(8, center_momentum=0.9)
    first, second = random_output(views=2), random_output(views=2)
    assert loss(first).item() == pytest.approx(written_out(first, torch.zeros(1, 8), [0.25] * 4, 0.1, 0.04), rel=1e-5)
    center = 0.1 * first.teacher_logits.mean(dim=(0, 1))
    torch.testing.assert_close(loss.center, center[None])
    loss(second)
    torch.testing.assert_close(loss.center, (0.9 * center + 0.1 * second.teacher_logits.mean(dim=(0, 1)))[None])


def test_center_stays_in_evaluation_and_on_logits_that_are_not_finite():
    loss = DeepSelfDistillationLoss(8)
    loss.eval()(random_output(views=2))
    assert not loss.center.any()
    output = random_output(views=2)
    output.teacher_logits[0, 0, 0] = math.nan
    loss.train()(output)
    assert not loss.center.any()


def test_stage_losses_and_entropy_are_those_of_the_batch():
    loss = DeepSelfDistillationLoss(8, stage_weights=(1.0, 0.0, 0.0, 0.0))
    total = loss(random_output(views=2))
    assert loss.stage_losses[0].item() == pytest.approx(total.item())
    assert 0 < loss.teacher_entropy < math.log(8)
    assert loss.scalars()["kl"] == pytest.approx(float(loss.stage_losses[3] - loss.teacher_entropy))


@pytest.mark.parametrize("stages", [(4,), (2, 4)])
def test_the_log_names_stages_by_their_number_in_the_network(stages):
    loss = DeepSelfDistillationLoss(8, stage_weights=[1.0] * len(stages), student_stages=stages)
    loss(random_output(stages=len(stages)))
    named = {
        f"stage_{stage}_loss": pytest.approx(float(value))
        for stage, value in zip(stages, loss.stage_losses, strict=True)
    }
    assert {name: value for name, value in loss.scalars().items() if name.startswith("stage_")} == named


def test_half_precision_logits_give_a_float32_loss():
    output = DistillationOutput(*(t.bfloat16() for t in random_output(views=2)[:2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DeepSelfDistillationLoss(8)(output).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, 0.1, 0.3])
def test_a_teacher_that_is_not_sharper_is_refused(temperature):
    with pytest.raises(UserError, match=r"is not below student_temperature=0\.1"):
        DeepSelfDistillationLoss(8, teacher_temperature=temperature)
    with pytest.raises(UserError, match="is not below"):
        DeepSelfDistillationLoss(8).set_teacher_temperature(temperature)


def test_other_shapes_and_a_single_view_are_refused():
    with pytest.raises(UserError, match="the same student_stages"):
        DeepSelfDistillationLoss(8)(random_output(stages=3))
    with pytest.raises(UserError, match="at least two"):
        DeepSelfDistillationLoss(8)(random_output(views=1, teacher_views=1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"center_momentum": 1.5}, "0 to 1"),
        ({"stage_weights": (-1.0, 1.0)}, "negative"),
        ({"stage_weights": (0.0,)}, "positive"),
        ({"student_stages": (2, 4), "stage_weights": (1.0,)}, r"give one for each of student_stages=\[2, 4\]"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        DeepSelfDistillationLoss(8, **arguments)


# Sinkhorn-Knopp centring is the written-out alternation, and fills all prototypes alike


def alternated(logits, temperature, iterations):
    rows = [[math.exp(float(value) / temperature) for value in row] for row in logits]
    rows = [[value / sum(row) for value in row] for row in rows]
    for _ in range(iterations):
        for k in range(len(rows[0])):
            total = sum(row[k] for row in rows)
            for row in rows:
                row[k] /= total
        for row in rows:
            total = sum(row)
            row[:] = [value / total for value in row]
    return torch.tensor(rows)


@pytest.mark.parametrize("iterations", [1, 3])
def test_targets_equal_the_written_out_alternation(iterations):
    logits = torch.rand(7, 4)
    torch.testing.assert_close(sinkhorn(logits, 0.3, iterations), alternated(logits, 0.3, iterations))


def test_rows_sum_to_one_and_columns_become_equally_full():
    targets = sinkhorn(torch.rand(64, 8), 0.1, iterations=50)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(targets.sum(dim=0), torch.full((8,), 8.0), rtol=1e-2, atol=0)


def test_a_preference_that_all_rows_share_says_nothing():
    logits = torch.rand(32, 6)
    shifted = logits + torch.tensor([5.0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(sinkhorn(shifted, 0.5, 30), sinkhorn(logits, 0.5, 30), rtol=1e-3, atol=1e-4)


def test_large_logits_stay_finite():
    assert torch.isfinite(sinkhorn(1000 * torch.rand(5, 3), 0.01)).all()
