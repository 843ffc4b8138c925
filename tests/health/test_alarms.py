"""Each alarm sounds for what it is meant for, and for nothing else."""

import math

import pytest

from desd_components import DeepSelfDistillationLoss, DeepSelfDistillationNetwork
from desd_components.health.alarms import alarming_figures, all_alarms

LN_K = math.log(16)
HEALTHY = {
    "teacher_entropy": 0.6 * LN_K,
    "marginal_entropy": 0.9 * LN_K,
    "batch_information": math.log(8),
    "kl": 0.4,
    "center_norm": 0.5,
    "feature_rank_4": 12.0,
    "feature_rank_bound": 63.0,
    "feature_spread_4": 0.3,
    "view_match": 0.4,
    "view_match_score": 9.0,
    "view_distance": 0.9,
    "center_movement": 0.3,
    "teacher_movement": 1e-3,
    "student_movement": 2e-3,
    "student_stride": 2e-4,
    "teacher_distance": 0.02,
    "teacher_gradient_norm": 0.0,
    "run_share": 0.5,
    "prototypes_frozen": 0.0,
    **{f"stage_{stage}_loss": 0.9 * LN_K for stage in (1, 2, 3, 4)},
    **{f"gradient_norm_{stage}": 0.1 for stage in (1, 2, 3, 4)},
    **{f"head_gradient_norm_{stage}": 0.1 for stage in (1, 2, 3, 4)},
    **{f"prototype_gradient_norm_{stage}": 0.1 for stage in (1, 2, 3, 4)},
}
HARM = {
    "uniform_collapse": ({"teacher_entropy": 0.995 * LN_K, "marginal_entropy": 0.999 * LN_K}, "ln K = 2.773"),
    "one_sided_collapse": (
        {"teacher_entropy": 0.01, "marginal_entropy": 0.02},
        "the same prototypes for every view: a batch shares 1.0",
    ),
    "one_sided_collapse on its way": (
        {"teacher_entropy": 0.9, "marginal_entropy": 1.1},
        "the same prototypes for every view: a batch shares 3.0",
    ),
    "same_targets": ({"marginal_entropy": 0.605 * LN_K}, "the same of every volume"),
    "divergence": ({"stage_2_loss": 5.0}, "A student that knew nothing"),
    "feature_collapse": ({"feature_rank_4": 1.2}, r"1.2 directions of 63"),
    "unrelated_views": ({"view_match_score": 0.3}, "find their partner"),
    "same_views": ({"view_distance": 0.0}, "Both views of a volume are the same"),
    "steps_too_large": ({"student_stride": 0.04}, "moves the student by 4.0% of its weights"),
    "prototypes_without_gradient": ({"prototype_gradient_norm_2": 0.0}, "prototypes of stage 2 get no gradient"),
    "center_stands_still": ({"center_movement": 0.0}, "The center stands still"),
    "teacher_follows_not": ({"teacher_movement": 0.0}, "stands still"),
    "teacher_is_student": ({"teacher_distance": 0.0}, "are the same"),
    "teacher_gradient": ({"teacher_gradient_norm": 0.1}, "gets a gradient"),
    "without_gradient_2": ({"gradient_norm_2": 0.0}, "encoder of stage 2 learns nothing"),
    "no_gradient": (dict.fromkeys([n for n in HEALTHY if "gradient_norm_" in n], 0.0), "No head gets a gradient"),
    "head_without_gradient_3": ({"head_gradient_norm_3": 1e-9}, "head of stage 3 learns nothing"),
}
HARMLESS = {
    "the last tenth of a run, where the momentum nears 1": {"teacher_movement": 0.0, "run_share": 0.95},
    "a learning rate of 0, as at the start of a warm-up": {"teacher_distance": 0.0, "student_movement": 0.0},
    "a teacher sure of itself that tells volumes apart": {"teacher_entropy": 0.001, "marginal_entropy": 2.0, "kl": 0.0},
    "a center that is not used": {"center_movement": math.nan},
    "prototypes that the recipe freezes": {"prototype_gradient_norm_1": 0.0, "prototypes_frozen": 1.0},
    "a teacher that names three prototypes, and by them the volume": {"teacher_entropy": 0.5, "marginal_entropy": 1.1},
    "a small batch that shares three prototypes": {
        "teacher_entropy": 0.5,
        "marginal_entropy": math.log(3),
        "batch_information": math.log(4),
    },
    "a buffer too small to have a rank": {"feature_rank_4": 1.0, "feature_rank_bound": 3.0},
    "figures that are not known": dict.fromkeys(HEALTHY, math.nan),
}


def sounding(network_encoder, changed, **settings):
    network = DeepSelfDistillationNetwork(network_encoder, 16, head_hidden=8, head_bottleneck=8)
    loss = DeepSelfDistillationLoss(16, **settings)
    figures = alarming_figures(HEALTHY | changed, network, loss)
    return {alarm.name: alarm.message(figures) for alarm in all_alarms(network, loss) if alarm.seen(figures)}


@pytest.mark.parametrize("name", HARM)
def test_each_harm_has_its_alarm_and_no_other(tiny_encoder, name):
    changed, words = HARM[name]
    said = sounding(tiny_encoder, changed)
    assert list(said) == [name.split()[0]]
    assert words in said[name.split()[0]]


@pytest.mark.parametrize("case", HARMLESS)
def test_what_does_no_harm_is_passed_over(tiny_encoder, case):
    assert sounding(tiny_encoder, HARMLESS[case]) == {}


def test_every_alarm_is_tried(tiny_encoder):
    network = DeepSelfDistillationNetwork(tiny_encoder, 16, head_hidden=8, head_bottleneck=8)
    kinds = {alarm.name.rstrip("1234") for alarm in all_alarms(network, DeepSelfDistillationLoss(16))}
    assert kinds == {name.split()[0].rstrip("1234") for name in HARM}


def test_a_stage_that_the_loss_leaves_out_may_learn_nothing(tiny_encoder):
    silent = {"head_gradient_norm_1": 0.0, "gradient_norm_4": 0.0, "head_gradient_norm_4": 0.0}
    assert sounding(tiny_encoder, silent, stage_weights=[0, 0.5, 0.5, 0]) == {}
