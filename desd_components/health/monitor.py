"""Health of self-supervision, seen without labels: is the training learning, or has it collapsed?

A collapse has two sides: targets that say nothing (teacher entropy at ln K, the loss frozen there) and targets that say
the same for every volume (entropy and loss at 0). Neither shows in a falling loss alone, so the features, the teacher's
distance and the gradients are watched too. What is measured stands in `measures`, what is alarming in `alarms`.

Stopping at an alarm ends the run between two optimiser steps or at the end of an epoch, where its state is saved as
after a signal, and then raises a `UserError`, so that a bundle's command exits with 1.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.utils.enums import CommonKeys
from torch import nn

from ..base.encoders import Encoder, shape_table
from ..base.errors import UserError, require_one_of
from ..base.processes import from_all_processes
from ..distillation.loss import DeepSelfDistillationLoss, DistillationOutput
from ..distillation.network import DeepSelfDistillationNetwork
from .alarms import Figures, alarming_figures, all_alarms
from .measures import (
    Movement,
    effective_rank,
    finite_rows,
    gradient_norm,
    relative_distance,
    small_parameters,
    spread,
    view_distance,
    view_match,
)
from .skipping import ends_step, gradient_scale

logger = logging.getLogger(__name__)

ACTIONS = ("warn", "stop")
ENOUGH = 64  # volumes that a match of views is judged over, at least


class DistillationMonitor:
    """Watch a pre-training: targets, features, teacher and gradients, with alarms on both sides of a collapse.

    Between two looks it only keeps references to features that the step made anyway, so that a step costs nothing more.
    A look takes the singular values of the buffered features, one pass over the gradients and one over the parameters
    of both halves. It sees the volumes of its own process.

    Args:
        network: the network itself, never its wrapper.
        loss: whose entropies, losses and ln K are read.
        interval: iterations between two looks; keep it the same as that of the run's record.
        buffer: volumes whose features rank, spread and match of views are computed over.
        patience: looks that a condition must last before its alarm sounds, for some alarms twice as many; it sounds
            once until the condition ends.
        on_collapse: what an alarm does beside its warning: "warn" nothing more; "stop" saves the state and ends the
            run, on all processes together.

    Raises:
        UserError: when built, for another word; when the run ends, if an alarm ended it.

    Attributes:
        sounding: name -> message of the alarms whose condition has lasted so long, and still holds.
    """

    def __init__(
        self,
        network: DeepSelfDistillationNetwork,
        loss: DeepSelfDistillationLoss,
        interval: int = 10,
        buffer: int = 256,
        patience: int = 4,
        on_collapse: str = "warn",
    ) -> None:
        require_one_of(ACTIONS, on_collapse=on_collapse)
        self.on_collapse, self._stopped = on_collapse, ""
        self.network, self.loss, self.interval, self.buffer, self.patience = network, loss, interval, buffer, patience
        self.alarms = all_alarms(network, loss)
        self.sounding: dict[str, str] = {}
        self._lasted = dict.fromkeys((alarm.name for alarm in self.alarms), 0)
        self._features: deque[tuple[torch.Tensor, ...]] = deque()
        self._figures: dict[str, float] = {}
        self._looked = 0  # the iteration of the last look
        self._movements = {
            "student": Movement(lambda: small_parameters(network.student)),
            "teacher": Movement(lambda: small_parameters(network.teacher)),
            "center": Movement(lambda: [loss.center]),
        }

    def attach(self, engine: Workflow) -> None:
        """Watch the steps of a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._look_at_gradients)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        if self.on_collapse == "stop":
            # now, and so before the handlers of a `ResumeHandler`, which saves the state of a run that is to end
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_within_epoch)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._stop)
            engine.add_event_handler(Events.STARTED, self._start)

    def due(self, engine: Workflow) -> bool:
        """Whether it looks at this iteration: the first, every `interval`, and the last of an epoch."""
        iteration = engine.state.iteration
        return iteration == 1 or iteration % self.interval == 0 or iteration % (engine.state.epoch_length or 1) == 0

    def _look_at_gradients(self, engine: Workflow) -> None:
        if not self.due(engine):
            return
        scale = gradient_scale(engine)
        self._figures |= {name: gradient_norm(parameters) / scale for name, parameters in self._taught().items()}

    def _taught(self) -> dict[str, Iterable[nn.Parameter]]:
        """Name of a gradient's norm -> the parameters that are meant."""
        student = self.network.student
        stages = enumerate(getattr(student.encoder, "stage_modules", ()), start=1)
        heads: dict[str, Any] = {name.replace("stage", "gradient_norm"): head for name, head in student.heads.items()}
        return {
            **{f"gradient_norm_{number}": stage.parameters() for number, stage in stages},
            **{f"head_{name}": head.mlp.parameters() for name, head in heads.items()},
            **{f"prototype_{name}": [head.prototypes] for name, head in heads.items()},
            "teacher_gradient_norm": self.network.teacher.parameters(),
        }

    def _look(self, engine: Workflow) -> None:
        if getattr(engine.state, "step_skipped", False):  # its features are those of no step
            return
        self._keep(engine.state.output[CommonKeys.PRED])
        if self.due(engine):
            self._look_at_features()
            self._look_at_movement(engine)
            done, whole = engine.state.iteration, (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
            more = {"run_share": done / whole if whole else 0.0}
            more["prototypes_frozen"] = float(getattr(engine.state, "prototypes_frozen", False))
            figures = {**self._figures, **self.loss.scalars(), **more}
            self._sound(alarming_figures(figures, self.network, self.loss), engine)

    def _keep(self, output: DistillationOutput) -> None:
        """Of every stage the pooled features of the first two views, (2, B, C) each."""
        self._features.append(tuple(stage[:2].detach() for stage in output.pooled))
        while sum(kept[0].shape[1] for kept in self._features) > max(self.buffer, self._features[-1][0].shape[1]):
            self._features.popleft()

    def _look_at_features(self) -> None:
        sizes = [step[0].shape[1] for step in self._features]
        stages = [torch.cat(steps, dim=1).float().cpu() for steps in zip(*self._features, strict=True)]  # one copy each
        batches = list(zip(*(stage.split(sizes, dim=1) for stage in stages), strict=True))
        for number, stage in enumerate(stages, start=1):
            features = finite_rows(stage[0])
            bound = max(1, min(len(features) - 1, features.shape[1]))
            rank = effective_rank(features) if len(features) else math.nan
            self._figures[f"feature_rank_{number}"] = rank
            self._figures[f"feature_rank_share_{number}"] = rank / bound
            self._figures[f"feature_spread_{number}"] = spread(features)
        self._figures["feature_rank_bound"] = bound
        self._figures["view_distance"] = view_distance(batches[-1][0][0], batches[-1][0][1])
        pairs = [(step[-1][0], step[-1][1]) for step in batches]
        share, score = view_match(pairs) if sum(len(first) for first, _ in pairs) >= ENOUGH else (math.nan, math.nan)
        self._figures |= {"view_match": share, "view_match_score": score}
        # a target of T * B can name at most one of B volumes
        self._figures["batch_information"] = min(math.log(pairs[-1][0].shape[0]), self.loss.uniform_loss)

    def _look_at_movement(self, engine: Workflow) -> None:
        self._figures["teacher_distance"] = relative_distance(self.network.teacher, self.network.student)
        for part, movement in self._movements.items():
            self._figures[f"{part}_movement"] = movement.since_last()
        if self.loss.centering != "mean":
            self._figures["center_movement"] = math.nan  # there is none
        passed, self._looked = engine.state.iteration - self._looked, engine.state.iteration
        steps = max(1.0, passed / getattr(engine, "accumulation_steps", 1))
        self._figures["student_stride"] = self._figures["student_movement"] / steps

    def _sound(self, figures: Figures, engine: Workflow) -> None:
        for alarm in self.alarms:
            lasted = self._lasted[alarm.name] + 1 if alarm.seen(figures) else 0
            self._lasted[alarm.name] = lasted
            patience = alarm.patience * self.patience
            self._figures[f"alarm_{alarm.name}"] = float(lasted >= patience)
            if lasted < patience:
                self.sounding.pop(alarm.name, None)
            elif lasted == patience:
                self.sounding[alarm.name] = message = alarm.message(figures)
                logger.warning("Epoch %d, iteration %d: %s", engine.state.epoch, engine.state.iteration, message)

    def _start(self, engine: Workflow) -> None:
        self._stopped = ""
        if not engine.has_event_handler(self._end, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._end)  # only now, and so after all others, for it raises

    def _stop_within_epoch(self, engine: Workflow) -> None:
        last_of_epoch = engine.state.iteration % engine.state.epoch_length == 0  # EPOCH_COMPLETED is still to come
        if self.due(engine) and ends_step(engine) and not last_of_epoch:
            self._stop(engine)

    def _stop(self, engine: Workflow) -> None:
        messages = from_all_processes(list(self.sounding.values()))  # each process watches its own volumes
        if messages:
            self._stopped = messages[0]
            engine.terminate()

    def _end(self, engine: Workflow) -> None:
        if self._stopped:
            raise UserError(
                f"Stopped after {engine.state.iteration} iterations by on_collapse: stop. {self._stopped} The state is "
                "saved: on_collapse: warn goes on from it; a run with other settings starts anew in another output_dir."
            )

    def scalars(self) -> dict[str, float]:
        """What the last look saw."""
        return dict(self._figures)

    def state_dict(self) -> dict[str, Any]:
        """The features kept (of the first process, where there are several), the last figures, and how long alarms
        have lasted."""
        return {
            "features": [list(step) for step in self._features],
            "figures": self._figures,
            "lasted": self._lasted,
            "sounding": self.sounding,
            "looked": self._looked,
            "movements": {part: movement.state_dict() for part, movement in self._movements.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the features and the alarms of `state`."""
        device = next(self.network.parameters()).device
        self._features = deque(tuple(stage.to(device) for stage in step) for step in state["features"])
        self._figures, self._lasted = dict(state["figures"]), dict(state["lasted"])
        self.sounding = dict(state["sounding"])
        self._looked = state["looked"]
        for part, movement in self._movements.items():
            movement.load_state_dict(state["movements"][part])


def log_start(
    encoder: Encoder,
    view_size: Sequence[int],
    loss: DeepSelfDistillationLoss,
    learning_rate: float,
    teacher_momentum: float,
    steps: int,
) -> None:
    """Say what a user should know before the first step: steps, learning rate, the teacher's half-life, ln K, maps."""
    half_life = math.log(0.5) / math.log(teacher_momentum) if 0 < teacher_momentum < 1 else math.inf
    logger.info(
        f"{steps} optimiser steps; peak learning rate {learning_rate:g}; the teacher's half-life is {half_life:.0f} "
        f"steps at first ({half_life / steps:.0%} of the run); ln K = {loss.uniform_loss:.4f}, and a loss that stays "
        "there has learnt nothing."
    )
    logger.info("What the encoder makes of a view:\n%s", shape_table(encoder, view_size))
