"""Health of self-supervision, seen without labels: is the training learning, or has it collapsed?

A collapse has two sides: targets that say nothing (teacher entropy at ln K, the loss frozen there) and targets that say
the same for every volume (entropy and loss at 0). Neither shows in a falling loss alone, so the effective rank of the
pooled features is watched too. Effective rank: Roy & Vetterli, 2007; as a label-free score: Garrido et al., "RankMe",
ICML 2023.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys

from .loss import DeepSelfDistillationLoss
from .network import DeepSelfDistillationNetwork

logger = logging.getLogger(__name__)

Scalars = Mapping[str, float]


def effective_rank(features: torch.Tensor) -> float:
    """How many directions (N, C) features really use: exp of the entropy of their normalised singular values.

    Features are centred first; the result lies between 1 and min(N - 1, C), and is 1 for features that do not vary; NaN
    where one of them is not finite.
    """
    if not torch.isfinite(features).all():
        return math.nan
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if total <= 1e-12:
        return 1.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


@dataclass(frozen=True)
class Alarm:
    """A condition on a run's figures that means harm when it lasts.

    Args:
        name: as in the records.
        seen: figures -> whether the condition holds.
        message: figures -> what was seen, and the remedies in order.
    """

    name: str
    seen: Callable[[Scalars], bool]
    message: Callable[[Scalars], str]


def collapse_alarms(uniform_loss: float) -> list[Alarm]:
    """The two sides of a collapse, and features that no longer vary; `uniform_loss` is ln K."""
    return [
        Alarm(
            "uniform_collapse",
            lambda s: s["teacher_entropy"] > 0.99 * uniform_loss,
            lambda s: (
                f"The teacher says the same of every prototype: entropy {s['teacher_entropy']:.3f}, ln K = "
                f"{uniform_loss:.3f}. Lower teacher_temperature, then the learning rate; then use fewer prototypes."
            ),
        ),
        Alarm(
            "one_sided_collapse",
            lambda s: s["teacher_entropy"] < 0.02 * uniform_loss and s["kl"] < 0.02 * uniform_loss,
            lambda s: (
                f"Student and teacher agree on one prototype for every view: KL {s['kl']:.3f}, entropy "
                f"{s['teacher_entropy']:.3f}, ln K = {uniform_loss:.3f}. Raise teacher_temperature, lower "
                "center_momentum, then the learning rate."
            ),
        ),
        Alarm(
            "feature_collapse",
            lambda s: s["feature_rank_4"] < 2.0 and s["feature_rank_bound"] >= 8,
            lambda s: (
                f"The deepest features vary along {s['feature_rank_4']:.1f} directions of "
                f"{s['feature_rank_bound']:.0f} possible. Check that views are larger than a few voxels at stage 4 and "
                "that the volumes differ; lower "
                "the learning rate; try another norm."
            ),
        ),
    ]


class DistillationMonitor:
    """Watch a pre-training: feature rank per stage, gradient norms, and alarms on both sides of a collapse.

    Between two looks it only keeps references to features that the step made anyway, so that a step costs nothing more.

    Args:
        network: the network itself, never its wrapper.
        loss: whose entropy, losses and ln K are read.
        interval: iterations between two looks; keep it the same as that of the run's record.
        buffer: volumes whose features the rank is computed over.
        patience: looks that a condition must last before its alarm sounds; it sounds once until the condition ends.
    """

    def __init__(
        self,
        network: DeepSelfDistillationNetwork,
        loss: DeepSelfDistillationLoss,
        interval: int = 10,
        buffer: int = 256,
        patience: int = 5,
    ) -> None:
        self.network, self.loss, self.interval, self.buffer, self.patience = network, loss, interval, buffer, patience
        self.alarms = collapse_alarms(loss.uniform_loss)
        self._lasted = dict.fromkeys((alarm.name for alarm in self.alarms), 0)
        self._features: deque[tuple[torch.Tensor, ...]] = deque()
        self._figures: dict[str, float] = {}

    def attach(self, engine: Workflow) -> None:
        """Watch the steps of a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._look_at_gradients)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)

    def _due(self, engine: Workflow) -> bool:
        iteration = engine.state.iteration
        return iteration == 1 or iteration % self.interval == 0 or iteration % (engine.state.epoch_length or 1) == 0

    def _look_at_gradients(self, engine: Workflow) -> None:
        if not self._due(engine):
            return
        scaler = getattr(engine, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        encoder = self.network.student.encoder
        for stage, module in enumerate(encoder.stage_modules, start=1):
            norms = torch._foreach_norm([p.grad for p in module.parameters() if p.grad is not None])
            total = float(torch.stack(norms).norm()) if norms else 0.0
            self._figures[f"gradient_norm_{stage}"] = total / scale

    def _look(self, engine: Workflow) -> None:
        if getattr(engine.state, "step_skipped", False):  # its features are those of no step
            return
        self._keep(engine.state.output[CommonKeys.PRED].features)
        if not self._due(engine):
            return
        stages = [torch.cat(stage).float().cpu() for stage in zip(*self._features, strict=True)]
        for number, features in enumerate(stages, start=1):
            self._figures[f"feature_rank_{number}"] = effective_rank(features)
        self._figures["feature_rank_bound"] = min(len(stages[-1]) - 1, stages[-1].shape[1])
        self._sound(
            {**self.loss.scalars(), **self._figures, "loss": engine.state.output[CommonKeys.LOSS].item()}, engine
        )

    def _keep(self, features: tuple[torch.Tensor, ...]) -> None:
        self._features.append(features)
        while sum(len(kept[0]) for kept in self._features) > max(self.buffer, len(features[0])):
            self._features.popleft()

    def _sound(self, figures: Scalars, engine: Workflow) -> None:
        for alarm in self.alarms:
            self._lasted[alarm.name] = self._lasted[alarm.name] + 1 if alarm.seen(figures) else 0
            self._figures[f"alarm_{alarm.name}"] = float(self._lasted[alarm.name] >= self.patience)
            if self._lasted[alarm.name] == self.patience:
                logger.warning(
                    "Epoch %d, iteration %d: %s", engine.state.epoch, engine.state.iteration, alarm.message(figures)
                )

    def scalars(self) -> dict[str, float]:
        """What the last look saw."""
        return dict(self._figures)

    def state_dict(self) -> dict[str, Any]:
        """The features kept (of the first process, where there are several), the last figures, and how long alarms
        have lasted."""
        return {"features": [list(step) for step in self._features], "figures": self._figures, "lasted": self._lasted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the features and the alarms of `state`."""
        device = next(self.network.parameters()).device
        self._features = deque(tuple(stage.to(device) for stage in step) for step in state["features"])
        self._figures, self._lasted = dict(state["figures"]), dict(state["lasted"])


def starting_lines(loss: DeepSelfDistillationLoss, learning_rate: float, teacher_momentum: float, steps: int) -> str:
    """What a user should know before the first step: steps, effective rate, EMA half-life, ln K."""
    half_life = math.log(0.5) / math.log(teacher_momentum) if 0 < teacher_momentum < 1 else math.inf
    share = half_life / steps
    return (
        f"{steps} optimiser steps; peak learning rate {learning_rate:g}; the teacher's half-life is {half_life:.0f} "
        f"steps at first ({share:.0%} of the run); ln K = {loss.uniform_loss:.4f}, and a loss that stays there has "
        "learnt nothing."
    )
