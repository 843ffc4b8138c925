"""Alarms: conditions on a run's figures that mean harm when they last, each with what was seen and what to do.

A condition is a statement about the figures themselves, on a scale that does not depend on the data: ln K, the number
of volumes of a batch, the luck of guessing, or exact zeros where a mechanism has stopped. A figure that is not known
(NaN) raises no alarm. Ours.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..distillation.loss import DeepSelfDistillationLoss
from ..distillation.network import DeepSelfDistillationNetwork

Figures = Mapping[str, Any]
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
        seen: figures, as of `alarming_figures` -> whether the condition holds.
        words: what was seen, with figures in braces, and the remedies in order.
        patience: how long it must last, in times of the monitor's patience.
    """

    name: str
    seen: Callable[[Figures], bool]
    words: str
    patience: int = 1

    def message(self, figures: Figures) -> str:
        """What is said of these figures."""
        return self.words.format_map(figures)


def alarming_figures(
    figures: Mapping[str, float], network: DeepSelfDistillationNetwork, loss: DeepSelfDistillationLoss
) -> dict[str, Any]:
    """The figures of a look, and what alarms make of them: entropies of targets are in nats, gradients norms."""
    deepest = len(network.student.encoder.stage_channels)
    silent = [n for n in _weighed_stages(network, loss) if figures[f"prototype_gradient_norm_{n}"] == 0]
    losses = [value for name, value in figures.items() if re.fullmatch(r"stage_\d_loss", name)]
    heads = [value for name, value in figures.items() if name.startswith("head_gradient_norm_")]
    return {
        **figures,
        "ln_k": loss.uniform_loss,
        "deepest": deepest,
        "rank": figures[f"feature_rank_{deepest}"],
        "spread": figures[f"feature_spread_{deepest}"],
        "information": figures["marginal_entropy"] - figures["teacher_entropy"],  # of a target, about its volume
        "shared": math.exp(figures["marginal_entropy"]),  # prototypes that a batch shares
        "worst_loss": max(losses, default=math.nan),
        "head_gradient": max(heads, default=0.0),
        "silent_prototypes": " and ".join(map(str, silent)),
    }


def _weighed_stages(network: DeepSelfDistillationNetwork, loss: DeepSelfDistillationLoss) -> list[int]:
    weights = zip(network.student_stages, loss.stage_weights.tolist(), strict=True)
    return [stage for stage, weight in weights if weight > 0]


def all_alarms(network: DeepSelfDistillationNetwork, loss: DeepSelfDistillationLoss) -> list[Alarm]:
    """Every alarm of a self-distillation, what explains most first; those of stages that the loss weighs only."""
    stages = _weighed_stages(network, loss)
    taught = range(1, max(stages) + 1 if hasattr(network.student.encoder, "stage_modules") else 1)
    dead = [_dead(f"encoder of stage {n}", f"gradient_norm_{n}") for n in taught]
    return [*ALARMS, *dead, *(_dead(f"head of stage {n}", f"head_gradient_norm_{n}") for n in stages), FROZEN]


def _dead(part: str, name: str) -> Alarm:
    return Alarm(
        name.replace("gradient_norm", "without_gradient"),
        lambda s: s[name] <= DEAD * s["head_gradient"] and s["head_gradient"] > 0,
        f"The {part} learns nothing: gradient norm {{{name}:.2g}}, heads up to {{head_gradient:.2g}}. See that nothing "
        "freezes or detaches it; if it has died, start anew with a lower learning rate or another head_norm.",
    )


def _uniform(s: Figures) -> bool:
    return s["teacher_entropy"] > 0.99 * s["ln_k"]


def _names_one(s: Figures) -> bool:
    return s["marginal_entropy"] < math.log(2) and s["batch_information"] >= math.log(4)


def _names_few(s: Figures) -> bool:  # and which of them tells little: where a collapse passes on its way to one
    few = min(math.log(FEW), s["batch_information"] - math.log(2))
    return s["marginal_entropy"] < few and s["information"] < LITTLE * s["batch_information"]


ALARMS = (
    # what the teacher's targets say
    Alarm(
        "uniform_collapse",
        _uniform,
        "The teacher says the same of every prototype: entropy {teacher_entropy:.3f}, ln K = {ln_k:.3f}. Lower "
        "teacher_temperature, then the learning rate; then use fewer prototypes.",
    ),
    Alarm(
        "one_sided_collapse",
        lambda s: _names_one(s) or _names_few(s),
        "The teacher names the same prototypes for every view: a batch shares {shared:.1f} of them, KL {kl:.3f}, ln K "
        "= {ln_k:.3f}. Raise teacher_temperature, lower center_momentum or set centering: sinkhorn; then lower the "
        "learning rate.",
        patience=2,  # a center that moves may yet win
    ),
    Alarm(
        "center_stands_still",
        lambda s: s["center_movement"] == 0 and s["student_movement"] > 0,
        "The center stands still (norm {center_norm:.3g}) while the student moves, and nothing keeps the teacher from "
        "naming one prototype for every view: KL {kl:.3f}, ln K = {ln_k:.3f}. Set center_momentum below 1 (published: "
        "0.9), or centering: sinkhorn.",
    ),
    Alarm(
        "same_targets",
        lambda s: s["information"] < 0.02 * s["batch_information"] and not (_uniform(s) or _names_one(s)),
        "The teacher says the same of every volume: its targets tell {information:.3f} nats about which one they are "
        "of ({batch_information:.3f} would name it; teacher entropy {teacher_entropy:.3f}, ln K = {ln_k:.3f}). Do the "
        "volumes differ? Lower teacher_temperature, then the learning rate; set centering: sinkhorn, or head_norm: "
        "batch.",
    ),
    Alarm(
        "divergence",
        lambda s: s["worst_loss"] > 1.5 * s["ln_k"],
        "A student that knew nothing would do better: loss of its worst stage {worst_loss:.3f}, ln K = {ln_k:.3f}. "
        "Lower the learning rate, lengthen the warm-up; check that heads end normalised.",
    ),
    # what the student's pooled features of the deepest stage say of volumes and views
    Alarm(
        "feature_collapse",
        lambda s: s["feature_rank_bound"] >= 8 and (s["rank"] < 2 or s["spread"] < 1e-4),
        "The deepest features vary along {rank:.1f} directions of {feature_rank_bound:.0f} possible, spread "
        "{spread:.2g} of 1. Check that views are larger than a few voxels at stage {deepest} and that the volumes "
        "differ; lower the learning rate; try another norm.",
    ),
    Alarm(
        "unrelated_views",
        lambda s: s["view_match_score"] < GUESSING,
        "Two views of a volume are no more alike than views of different ones: {view_match:.0%} find their partner in "
        "the batch, as by luck. Check that both views come from the same volume and share tissue (context_scale), and "
        "that the volumes differ; then use milder intensity changes, a lower learning rate, or another norm.",
    ),
    Alarm(
        "same_views",
        lambda s: s["view_distance"] < SAME,
        "Both views of a volume are the same: at stage 1 they lie {view_distance:.1g} of the distance between volumes "
        "apart, and to tell one from the other teaches nothing. See that every view is drawn anew; widen "
        "context_scale; then use stronger intensity changes.",
    ),
    # how the teacher stands to its student, and how far the student strides
    Alarm(
        "steps_too_large",
        lambda s: s["student_stride"] > STRIDE,
        "A step moves the student by {student_stride:.1%} of its weights (a thousandth is usual), so it leaves behind "
        "what it has learnt. Lower the learning rate, then lengthen the warm-up.",
    ),
    Alarm(
        "teacher_follows_not",
        lambda s: s["teacher_movement"] == 0 and s["student_movement"] > 0 and s["run_share"] < LAST_SHARE,
        "The teacher stands still while the student moves (distance {teacher_distance:.2g} of its size). Set "
        "teacher_momentum below 1 (published: 0.996); see that its handler follows the optimiser.",
    ),
    Alarm(
        "teacher_is_student",
        lambda s: s["teacher_distance"] == 0 and s["student_movement"] > 0,
        "Teacher and student are the same, so the targets are the student's own. Set teacher_momentum above 0 "
        "(published: 0.996; short runs: 0.95).",
    ),
    Alarm(
        "teacher_gradient",
        lambda s: s["teacher_gradient_norm"] > 0,
        "The teacher gets a gradient (norm {teacher_gradient_norm:.2g}); it is to follow the student by averaging "
        "alone. Detach its output, and give the optimiser the student's parameters only.",
    ),
    # who learns
    Alarm(
        "no_gradient",
        lambda s: s["head_gradient"] == 0,
        "No head gets a gradient: nothing is learnt. See that the loss is that of the student's own output.",
    ),
)
FROZEN = Alarm(
    "prototypes_without_gradient",
    lambda s: s["prototypes_frozen"] == 0 and s["silent_prototypes"] != "" and s["head_gradient"] > 0,
    "The prototypes of stage {silent_prototypes} get no gradient, although frozen_prototype_epochs are over. See that "
    "nothing else freezes or detaches them.",
)
