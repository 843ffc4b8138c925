"""Alarms: conditions on a run's figures that mean harm when they last, each with what was seen and what to do.

A condition is a statement about the figures themselves, on a scale that does not depend on the data: ln K, the number
of volumes of a batch, the luck of guessing, or exact zeros where a mechanism has stopped. A figure that is not known
(NaN) raises no alarm. Ours.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..distillation.loss import DeepSelfDistillationLoss
from ..distillation.network import DeepSelfDistillationNetwork
from .measures import largest

Scalars = Mapping[str, float]
GUESSING = 3.0  # standard scores above luck that a match of views must have
DEAD = 1e-6  # of the largest gradient of a head
LAST_SHARE = 0.9  # of a run, after which a teacher that no longer moves is as planned
FEW = 4  # prototypes that the targets of a batch share; in small batches half as many as there are volumes
LITTLE = 0.15  # of what would name a volume of the batch
SAME = 1e-3  # of the distance between volumes
STRIDE = 0.008  # of the weights, moved in one step; a thousandth is usual, three where a warm-up ends


@dataclass(frozen=True)
class Alarm:
    """A condition on a run's figures that means harm when it lasts.

    Args:
        name: as in the records.
        seen: figures -> whether the condition holds.
        message: figures -> what was seen, and the remedies in order.
        patience: how long it must last, in times of the monitor's patience.
    """

    name: str
    seen: Callable[[Scalars], bool]
    message: Callable[[Scalars], str]
    patience: int = 1


def all_alarms(network: DeepSelfDistillationNetwork, loss: DeepSelfDistillationLoss) -> list[Alarm]:
    """Every alarm of a self-distillation; those of stages that the loss weighs only."""
    weights = zip(network.student_stages, loss.stage_weights.tolist(), strict=True)
    stages = [stage for stage, weight in weights if weight > 0]
    encoder = network.student.encoder
    deepest = len(encoder.stage_channels)
    taught = range(1, max(stages) + 1 if hasattr(encoder, "stage_modules") else 1)
    gradients = gradient_alarms(stages, taught)
    return [*target_alarms(loss.uniform_loss), *feature_alarms(deepest), *teacher_alarms(), *gradients]


def target_alarms(uniform_loss: float) -> list[Alarm]:
    """What the teacher's targets say, against `uniform_loss`, which is ln K."""
    ln_k = uniform_loss

    def uniform(s: Scalars) -> bool:
        return s["teacher_entropy"] > 0.99 * ln_k

    def names_one(s: Scalars) -> bool:
        return s["marginal_entropy"] < math.log(2) and s["batch_information"] >= math.log(4)

    def names_few(s: Scalars) -> bool:  # and which of them tells little: where a collapse passes on its way to one
        few = min(math.log(FEW), s["batch_information"] - math.log(2))
        return s["marginal_entropy"] < few and _information(s) < LITTLE * s["batch_information"]

    def same(s: Scalars) -> bool:
        return _information(s) < 0.02 * s["batch_information"] and not (uniform(s) or names_one(s))

    def diverged(s: Scalars) -> bool:
        return _worst_loss(s) > 1.5 * ln_k

    return [
        Alarm(
            "uniform_collapse",
            uniform,
            lambda s: (
                f"The teacher says the same of every prototype: entropy {s['teacher_entropy']:.3f}, ln K = "
                f"{ln_k:.3f}. Lower teacher_temperature, then the learning rate; then use fewer prototypes."
            ),
        ),
        Alarm(
            "one_sided_collapse",
            lambda s: names_one(s) or names_few(s),
            lambda s: (
                f"The teacher names the same prototypes for every view: a batch shares "
                f"{math.exp(s['marginal_entropy']):.1f} of them, KL {s['kl']:.3f}, ln K = {ln_k:.3f}. Raise "
                "teacher_temperature, lower center_momentum or set centering: sinkhorn; then lower the learning rate."
            ),
            patience=2,  # a center that moves may yet win
        ),
        Alarm(
            "center_stands_still",
            lambda s: s["center_movement"] == 0 and s["student_movement"] > 0,
            lambda s: (
                f"The center stands still (norm {s['center_norm']:.3g}) while the student moves, and nothing keeps the "
                f"teacher from naming one prototype for every view: KL {s['kl']:.3f}, ln K = {ln_k:.3f}. Set "
                "center_momentum below 1 (published: 0.9), or centering: sinkhorn."
            ),
        ),
        Alarm(
            "same_targets",
            same,
            lambda s: (
                f"The teacher says the same of every volume: its targets tell {_information(s):.3f} nats about which "
                f"one they are of ({s['batch_information']:.3f} would name it; teacher entropy "
                f"{s['teacher_entropy']:.3f}, ln K = {ln_k:.3f}). Do the volumes differ? Lower "
                "teacher_temperature, then the learning rate; set centering: sinkhorn, or head_norm: batch."
            ),
        ),
        Alarm(
            "divergence",
            diverged,
            lambda s: (
                f"A student that knew nothing would do better: loss of its worst stage {_worst_loss(s):.3f}, ln K = "
                f"{ln_k:.3f}. Lower the learning rate, lengthen the warm-up; check that heads end normalised."
            ),
        ),
    ]


def _information(s: Scalars) -> float:
    """What a target tells about which volume of the batch it is of, in nats."""
    return s["marginal_entropy"] - s["teacher_entropy"]


def _worst_loss(s: Scalars) -> float:
    return max((s[name] for name in s if re.fullmatch(r"stage_\d_loss", name)), default=math.nan)


def feature_alarms(deepest: int) -> list[Alarm]:
    """What the pooled features of the student's `deepest` stage say of volumes and views."""
    rank, spread = f"feature_rank_{deepest}", f"feature_spread_{deepest}"
    return [
        Alarm(
            "feature_collapse",
            lambda s: s["feature_rank_bound"] >= 8 and (s[rank] < 2 or s[spread] < 1e-4),
            lambda s: (
                f"The deepest features vary along {s[rank]:.1f} directions of {s['feature_rank_bound']:.0f} possible, "
                f"spread {s[spread]:.2g} of 1. Check that views are larger than a few voxels at stage {deepest} and "
                "that the volumes differ; lower the learning rate; try another norm."
            ),
        ),
        Alarm(
            "unrelated_views",
            lambda s: s["view_match_score"] < GUESSING,
            lambda s: (
                f"Two views of a volume are no more alike than views of different ones: {s['view_match']:.0%} find "
                "their partner in the batch, as by luck. Check that both views come from the same volume and share "
                "tissue (context_scale), and that the volumes differ; then use milder intensity changes, a lower "
                "learning rate, or another norm."
            ),
        ),
        Alarm(
            "same_views",
            lambda s: s["view_distance"] < SAME,
            lambda s: (
                f"Both views of a volume are the same: at stage 1 they lie {s['view_distance']:.1g} of the distance "
                "between volumes apart, and to tell one from the other teaches nothing. See that every view is drawn "
                "anew; widen context_scale; then use stronger intensity changes."
            ),
        ),
    ]


def teacher_alarms() -> list[Alarm]:
    """How the teacher stands to its student, and how far the student strides."""
    return [
        Alarm(
            "steps_too_large",
            lambda s: s["student_stride"] > STRIDE,
            lambda s: (
                f"A step moves the student by {s['student_stride']:.1%} of its weights (a thousandth is usual), so it "
                "leaves behind what it has learnt. Lower the learning rate, then lengthen the warm-up."
            ),
        ),
        Alarm(
            "teacher_follows_not",
            lambda s: s["teacher_movement"] == 0 and s["student_movement"] > 0 and s["run_share"] < LAST_SHARE,
            lambda s: (
                f"The teacher stands still while the student moves (distance {s['teacher_distance']:.2g} of its size). "
                "Set teacher_momentum below 1 (published: 0.996); see that its handler follows the optimiser."
            ),
        ),
        Alarm(
            "teacher_is_student",
            lambda s: s["teacher_distance"] == 0 and s["student_movement"] > 0,
            lambda s: (
                "Teacher and student are the same, so the targets are the student's own. Set teacher_momentum above 0 "
                "(published: 0.996; short runs: 0.95)."
            ),
        ),
        Alarm(
            "teacher_gradient",
            lambda s: s["teacher_gradient_norm"] > 0,
            lambda s: (
                f"The teacher gets a gradient (norm {s['teacher_gradient_norm']:.2g}); it is to follow the student by "
                "averaging alone. Detach its output, and give the optimiser the student's parameters only."
            ),
        ),
    ]


def gradient_alarms(stages: Sequence[int], taught: Sequence[int]) -> list[Alarm]:
    """A head, or a stage of the encoder, that learns nothing; `stages` have a loss that counts, `taught` a gradient."""
    encoder = [f"gradient_norm_{stage}" for stage in taught]
    heads = [f"head_gradient_norm_{stage}" for stage in stages]
    return [_no_gradient(), *map(_dead, (*encoder, *heads)), _still_frozen(stages)]


def _no_gradient() -> Alarm:
    return Alarm(
        "no_gradient",
        lambda s: largest(s, "head_gradient_norm_") == 0,
        lambda s: "No head gets a gradient: nothing is learnt. See that the loss is that of the student's own output.",
    )


def _dead(name: str) -> Alarm:
    like = "head_gradient_norm_"
    part = f"{'head' if name.startswith('head') else 'encoder'} of stage {name[-1]}"

    def message(s: Scalars) -> str:
        return (
            f"The {part} learns nothing: gradient norm {s[name]:.2g}, heads up to {largest(s, like):.2g}. See "
            "that nothing freezes or detaches it; if it has died, start anew with a lower learning rate or another "
            "head_norm."
        )

    silent = name.replace("gradient_norm", "without_gradient")
    return Alarm(silent, lambda s: s[name] <= DEAD * largest(s, like) and largest(s, like) > 0, message)


def _still_frozen(stages: Sequence[int]) -> Alarm:
    names = [f"prototype_gradient_norm_{stage}" for stage in stages]

    def seen(s: Scalars) -> bool:
        return s["prototypes_frozen"] == 0 and min(s[name] for name in names) == 0 < largest(s, "head_gradient_norm_")

    return Alarm(
        "prototypes_without_gradient",
        seen,
        lambda s: (
            f"The prototypes of stage {' and '.join(name[-1] for name in names if s[name] == 0)} get no gradient, "
            "although frozen_prototype_epochs are over. See that nothing else freezes or detaches them."
        ),
    )
