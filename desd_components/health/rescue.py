"""Back to the last healthy state, and on with safer settings: what `on_collapse: rescue` does at an alarm.

Ours. What is put back is what the settings have made: weights, running statistics, center, the optimiser's memory. The
place in the run, and so schedules and batches, go on: a rescued run ends when it was planned to. A state counts as
healthy when the looks that followed it, as many as an alarm's patience, saw no condition of any alarm either.

Cost: two copies of these tensors in memory, and as much again in the state file; a copy every few looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..distillation.handlers import LearningRateHandler, TeacherEMAHandler
from ..distillation.loss import DeepSelfDistillationLoss
from ..distillation.network import DeepSelfDistillationNetwork

PUBLISHED_CENTER_MOMENTUM = 0.9
SHARPNESS = 0.4  # teacher's over student's temperature: 0.04 over 0.1, where the published recipe starts
LOWER_RATE = 0.1
HALF_LIFE = 0.01  # of the run: how soon a teacher whose momentum is at fault is made to follow
MOMENTA = (0.95, 0.996)  # of short and of long runs


@dataclass
class Parts:
    """What a rescue puts back, and where the settings live that it changes.

    Args:
        network: the network itself, never its wrapper.
        loss: with the center and the teacher's temperature.
        learning_rate: which holds the optimiser as well.
        teacher: which holds the teacher's momentum.
    """

    network: DeepSelfDistillationNetwork
    loss: DeepSelfDistillationLoss
    learning_rate: LearningRateHandler
    teacher: TeacherEMAHandler

    def kept(self) -> dict[str, Any]:
        """A copy, on the CPU, of what can be put back."""
        return copied(
            {
                "network": self.network.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.learning_rate.optimizer.state_dict()["state"],
            }
        )

    def put_back(self, kept: Mapping[str, Any]) -> None:
        """Let all be as it was when `kept` was made; the settings stay as they are."""
        self.network.load_state_dict(kept["network"])
        self.loss.load_state_dict(kept["loss"])
        optimizer = self.learning_rate.optimizer
        groups = optimizer.state_dict()["param_groups"]
        # a copy, for the optimiser would take the kept tensors themselves and change them
        optimizer.load_state_dict({"state": copied(kept["optimizer"]), "param_groups": groups})
        optimizer.zero_grad(set_to_none=True)

    def settings(self) -> dict[str, Any]:
        """The settings that a remedy may have changed."""
        return {
            "learning_rate_scale": self.learning_rate.scale,
            "teacher_momentum": list(self.teacher.bounds),
            "teacher_temperature": list(self.loss.temperature_bounds),
            "center_momentum": self.loss.center_momentum,
            "centering": self.loss.centering,
        }

    def set(self, settings: Mapping[str, Any]) -> None:
        """Go on with `settings` of a run that was rescued."""
        self.learning_rate.set_scale(settings["learning_rate_scale"])
        self.teacher.bounds = tuple(settings["teacher_momentum"])
        self.loss.bound_teacher_temperature(*settings["teacher_temperature"])
        self.loss.center_momentum, self.loss.centering = settings["center_momentum"], settings["centering"]


def copied(state: Any) -> Any:
    """A copy on the CPU of tensors in dictionaries; what is no tensor stays as it is."""
    if isinstance(state, Mapping):
        return {name: copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state


class HealthyState:
    """The last state that is known to be healthy, and a younger one that has yet to prove so.

    Args:
        parts: what is kept.
        looks: healthy looks in a row that a state must be followed by.
    """

    def __init__(self, parts: Parts, looks: int) -> None:
        self.parts, self.looks = parts, looks
        self._proven: dict[str, Any] = {}
        self._young: dict[str, Any] = {}
        self._age = 0

    def begin(self, iteration: int) -> None:
        """Take the state at the start of a run for healthy, where no other is known."""
        if not self._proven:
            self._proven = {"iteration": iteration, **self.parts.kept()}

    def look(self, is_healthy: bool, iteration: int) -> None:
        """Learn whether a look saw health."""
        if not is_healthy:
            self._young, self._age = {}, 0
            return
        self._age += 1
        if self._young and self._age >= self.looks:
            self._proven, self._young = self._young, {}
        if not self._young:
            self._young, self._age = {"iteration": iteration, **self.parts.kept()}, 0

    def put_back(self) -> int:
        """Go back to the last healthy state; the iterations that had been made by then."""
        self.parts.put_back(self._proven)
        self._young, self._age = {}, 0
        return int(self._proven["iteration"])

    def state_dict(self) -> dict[str, Any]:
        """Both states; they share no memory with the run."""
        return {"proven": self._proven, "young": self._young, "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from both."""
        self._proven, self._young, self._age = copied(state["proven"]), copied(state["young"]), state["age"]


Remedy = Callable[[Parts, int], str]


def _published_center(parts: Parts, steps: int) -> str:
    loss = parts.loss
    if loss.centering != "mean" or loss.center_momentum <= PUBLISHED_CENTER_MOMENTUM:
        return ""
    before, loss.center_momentum = loss.center_momentum, PUBLISHED_CENTER_MOMENTUM
    return f"center_momentum {before:g} -> {loss.center_momentum:g}"


def _sinkhorn(parts: Parts, steps: int) -> str:
    before, parts.loss.centering = parts.loss.centering, "sinkhorn"
    return f"centering {before} -> sinkhorn" if before != "sinkhorn" else ""


def _lower_temperature(parts: Parts, steps: int) -> str:
    before, target = parts.loss.teacher_temperature, SHARPNESS * parts.loss.student_temperature
    return _bounded_temperature(parts.loss, 0.0, target) if before > target else ""


def _raise_temperature(parts: Parts, steps: int) -> str:
    before, target = parts.loss.teacher_temperature, SHARPNESS * parts.loss.student_temperature
    return _bounded_temperature(parts.loss, target, 1.0) if before < target else ""


def _bounded_temperature(loss: DeepSelfDistillationLoss, low: float, high: float) -> str:
    before = loss.teacher_temperature
    loss.bound_teacher_temperature(low, high)
    return f"teacher_temperature {before:g} -> {loss.teacher_temperature:g}"


def _lower_rate(parts: Parts, steps: int) -> str:
    parts.learning_rate.set_scale(LOWER_RATE * parts.learning_rate.scale)
    return f"learning rate x {parts.learning_rate.scale:g} of its schedule"


def _following_momentum(steps: int) -> float:
    return min(max(0.5 ** (1 / max(1.0, HALF_LIFE * steps)), MOMENTA[0]), MOMENTA[1])


def _teacher_follows(parts: Parts, steps: int) -> str:
    parts.teacher.bounds = (0.0, _following_momentum(steps))
    return f"teacher_momentum at most {parts.teacher.bounds[1]:.4g}"


def _teacher_lags(parts: Parts, steps: int) -> str:
    parts.teacher.bounds = (_following_momentum(steps), 1.0)
    return f"teacher_momentum at least {parts.teacher.bounds[0]:.4g}"


#: alarm -> remedies in order; the first that finds something to change is taken. An alarm that is not listed comes
#: from a mistake in code or data, which no setting can cure.
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "uniform_collapse": (_lower_temperature, _lower_rate),
    "one_sided_collapse": (_published_center, _raise_temperature, _sinkhorn, _lower_rate),
    "center_stands_still": (_published_center, _sinkhorn),
    "same_targets": (_published_center, _lower_temperature, _sinkhorn, _lower_rate),
    "divergence": (_lower_rate,),
    "feature_collapse": (_lower_rate,),
    "steps_too_large": (_lower_rate,),
    "teacher_follows_not": (_teacher_follows,),
    "teacher_is_student": (_teacher_lags,),
}


def remedied(alarm: str, parts: Parts, steps: int) -> str:
    """Change the first setting that may be to blame for an alarm, and say which; nothing where none is.

    Args:
        alarm: its name.
        parts: whose settings are changed.
        steps: optimiser steps of the whole run.
    """
    return next((said for remedy in REMEDIES.get(alarm, ()) if (said := remedy(parts, steps))), "")
