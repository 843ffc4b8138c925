"""One training step at ResNet-50 and K = 60 000: what loss, EMA and monitor add to the passes and the optimiser.

Two of MONAI's `SupervisedTrainer` step in turn, each on a network of its own with the published architecture and
optimiser. The whole step has the loss, the teacher's EMA and the monitor; the reference makes the same passes of both
halves and the same optimiser step, but its backward pass starts from a given gradient of the logits. Every tenth
step the monitor looks: that look, with a full buffer, is timed beside the steps, and a tenth of it added to each.
Below the ratio, the three additions timed by themselves, and the views. Times are processor seconds on one thread: a
step takes seconds, and what else a machine does would drown a difference of a few per cent in wall-clock time.

    python -m benchmarks.step [BATCH [STEPS]]
"""

import logging
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from benchmarks.pairs import report, row, time_in_turn, verdict
from benchmarks.views import contexts, our_views
from desd_components import (
    DeepSelfDistillationLoss,
    DeepSelfDistillationNetwork,
    DistillationMonitor,
    DistillationOutput,
    FusedSGD,
    ResNet3DEncoder,
    TeacherEMAHandler,
)

PROTOTYPES, INTERVAL, BUFFER = 60_000, 10, 256


class GivenGradient:
    """In the loss's place: its gradient with respect to the logits is given, of the size that a loss gives."""

    def __init__(self, batch: int) -> None:
        self.gradient = torch.randn(4, 2, batch, PROTOTYPES) / PROTOTYPES

    def __call__(self, output: DistillationOutput, target: None = None) -> torch.Tensor:
        return (output.student_logits * self.gradient).sum()


class Contender:
    """A trainer that makes one step at each call, with everything or with the passes and the optimiser alone."""

    def __init__(self, views: list[torch.Tensor], everything: bool) -> None:
        torch.manual_seed(0)
        self.network = DeepSelfDistillationNetwork(ResNet3DEncoder(depth=50), PROTOTYPES)
        self.loss = DeepSelfDistillationLoss(PROTOTYPES)
        optimizer = FusedSGD(self.network.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=[{}] * 10_000,
            network=self.network,
            optimizer=optimizer,
            loss_function=self.loss if everything else GivenGradient(len(views[0])),
            prepare_batch=lambda *_, **__: (views, None),
            optim_set_to_none=True,
            decollate=False,
        )
        if everything:
            TeacherEMAHandler(self.network, momentum=lambda step: 0.996).attach(self.trainer)
            # It looks at the first step, a warm-up; the looks that follow are timed by themselves.
            DistillationMonitor(self.network, self.loss, interval=10_000, buffer=BUFFER).attach(self.trainer)
        # Stopped after each step, to be run on at the next call.
        self.trainer.interrupt_resume_enabled = True
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.trainer.interrupt)
        self.trainer.logger.setLevel(logging.CRITICAL)

    def __call__(self) -> None:
        self.trainer.run()


def additions(whole: Contender, batch: int) -> dict[str, Callable[[], Any]]:
    """The three additions, each by itself, on tensors of the sizes that a step has."""
    student = torch.randn(4, 2, batch, PROTOTYPES, requires_grad=True)
    stages = tuple(torch.randn(2, batch, count) for count in whole.network.student.encoder.stage_channels)
    output = DistillationOutput(student, torch.randn(2, batch, PROTOTYPES), pooled=stages)
    return {
        "loss": lambda: whole.loss(output).backward(),
        "EMA": lambda: whole.network.update_teacher(0.996),
        "look": full_look(whole, output),
    }


def full_look(whole: Contender, output: DistillationOutput) -> Callable[[], None]:
    """A look of a monitor whose buffer is full, at the gradients and the parameters that a step has left."""
    engine = Engine(lambda engine, batch: None)
    engine.register_events(*IterationEvents)
    DistillationMonitor(whole.network, whole.loss, interval=INTERVAL, buffer=BUFFER).attach(engine)
    engine.state.output, engine.state.epoch_length, engine.state.max_epochs = {CommonKeys.PRED: output}, 10**6, 1
    engine.state.iteration = INTERVAL + 1  # where it only keeps features
    for _ in range(-(-BUFFER // len(output.teacher_logits[0]))):
        engine.fire_event(Events.ITERATION_COMPLETED)
    engine.state.iteration = INTERVAL

    def look() -> None:
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.fire_event(Events.ITERATION_COMPLETED)

    return look


def main(batch: int = 2, steps: int = 10) -> None:
    torch.set_num_threads(1)
    crops = {name: values[:batch] for name, values in contexts().items()}
    make_views, epochs = our_views(), iter(range(10**6))

    def views() -> list[torch.Tensor]:
        return make_views(**crops, epoch=torch.full((batch,), next(epochs)))

    whole, passes = Contender(views(), everything=True), Contender(views(), everything=False)
    contenders: dict[str, Callable[[], Any]] = {
        "whole": whole,
        "passes": passes,
        "views": views,
        **additions(whole, batch),
    }
    seconds = time_in_turn(contenders, steps, warmups=1, clock=time.process_time)
    extra = {name: statistics.median(seconds[name]) for name in ("loss", "EMA", "look")}
    look = extra["look"] / INTERVAL
    ratio = [(a + look) / b for a, b in zip(seconds["whole"], seconds["passes"], strict=True)]
    added = extra["loss"] + extra["EMA"] + look
    report(
        "step",
        [
            row(f"whole step without the look, batch {batch}", seconds["whole"], "s"),
            row("passes and optimiser alone", seconds["passes"], "s"),
            verdict("whole step over passes and optimiser", ratio, at_most=1.05),
            row("of it: loss, forward and backward", seconds["loss"], "s"),
            row("of it: EMA of the teacher", seconds["EMA"], "s"),
            row(f"of it, every {INTERVAL} steps: a look of the monitor", seconds["look"], "s"),
            row("1 + additions over passes", [1 + added / value for value in seconds["passes"]], "x"),
            row("beside it: the batch's views", seconds["views"], "s"),
        ],
        {
            "processor_seconds": seconds,
            "ratio": ratio,
            "required_ratio": 1.05,
            "batch": batch,
            "prototypes": PROTOTYPES,
        },
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
