"""Faults to put into a tiny pre-training after some healthy steps, each as small a change as it would be in life.

A fault is a function of a `TinyRun` whose trainer is running.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from desd_components.distillation.loss import DistillationOutput, cross_view_pairs

from .runs import TinyRun

Change = Callable[[list[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True)
class Fault:
    """A thing that goes wrong.

    Args:
        name: for the table.
        inject: puts it into a run.
        by_setting: whether a setting causes it that can change within a run, so that another may cure it.
        setting: what is different from the first step on, for a fault that cannot be put in later.
    """

    name: str
    inject: Callable[[TinyRun], None]
    by_setting: bool = False
    setting: Mapping[str, Any] = field(default_factory=dict)


def _stop_center(run: TinyRun) -> None:
    run.loss.center_momentum = 1.0


def _no_centring(run: TinyRun) -> None:
    run.loss.center.zero_()
    run.loss.center_momentum = 1.0


def _temperature(value: float) -> Callable[[TinyRun], None]:
    def inject(run: TinyRun) -> None:
        run.loss.teacher_temperature = value  # past the setter, which refuses what is above the student's

    return inject


def _learning_rate(factor: float) -> Callable[[TinyRun], None]:
    def inject(run: TinyRun) -> None:
        schedule = run.rate.schedule
        run.rate.schedule = lambda step: factor * schedule(step)

    return inject


def _weight_decay(run: TinyRun) -> None:
    for group in run.optimizer.param_groups:
        group["weight_decay"] = 100.0


def _teacher_momentum(value: float) -> Callable[[TinyRun], None]:
    def inject(run: TinyRun) -> None:
        run.teacher.schedule = lambda step: value

    return inject


def _teacher_gradient(run: TinyRun) -> None:
    network, loss = run.network, run.loss
    forward, undetached = network.forward, type(loss)._targets.__wrapped__  # type: ignore[attr-defined]
    network.teacher.requires_grad_(True)
    run.optimizer.add_param_group({"params": list(network.teacher.parameters())})

    def with_graph(views: Any) -> DistillationOutput:
        return forward(views)._replace(teacher_logits=network.teacher(views).logits[0])

    def leaking(output: DistillationOutput, target: None = None) -> torch.Tensor:
        targets, _ = undetached(loss, output.teacher_logits.unsqueeze(0))
        student = output.student_logits.detach() / loss.student_temperature
        pairs = cross_view_pairs(len(targets[0]), student.shape[1], student.device)
        leak = (loss._cross_entropy(targets, student) * pairs).sum(dim=(1, 2)).mean()
        return loss(output) + leak - leak.detach()  # the same value; its gradient reaches the teacher as well

    network.forward = with_graph
    run.trainer.loss_function = leaking


def _volumes(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[TinyRun], None]:
    def inject(run: TinyRun) -> None:
        prepare = run.trainer.prepare_batch
        run.trainer.prepare_batch = lambda batch, *more, **others: prepare(
            {**batch, "image": change(batch["image"])}, *more, **others
        )

    return inject


def _views(change: Change) -> Callable[[TinyRun], None]:
    def inject(run: TinyRun) -> None:
        prepare = run.trainer.prepare_batch

        def changed(*given: Any, **others: Any) -> tuple[list[torch.Tensor], None]:
            views, target = prepare(*given, **others)
            return change(views), target

        run.trainer.prepare_batch = changed

    return inject


def _dead_head(run: TinyRun) -> None:
    run.network.student.heads["stage_2"].register_forward_hook(lambda module, given, logits: 0 * logits)


def _frozen_stage(run: TinyRun) -> None:
    run.network.student.encoder.stage_modules[2].requires_grad_(False)


def _frozen_encoder(run: TinyRun) -> None:
    run.network.student.encoder.requires_grad_(False)


def _frozen_prototypes(run: TinyRun) -> None:
    for prototypes in run.network.prototypes():
        prototypes.requires_grad_(False)


def _without_normalisation(run: TinyRun) -> None:
    def unnormalised(head: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda features: functional.linear(head.mlp(features), functional.normalize(head.prototypes, dim=-1))

    for half in (run.network.student, run.network.teacher):
        for head in half.heads.values():
            head.forward = unnormalised(head)


def _overflow(run: TinyRun) -> None:
    largest = torch.finfo(torch.float16).max
    run.network.student.encoder.stem.register_forward_hook(
        lambda module, given, out: (out * largest).half().float() / largest
    )


FAULTS = (
    Fault("no centring", _no_centring, by_setting=True),
    Fault("center momentum 1", _stop_center, by_setting=True),
    Fault("teacher temperature 0.3", _temperature(0.3), by_setting=True),
    Fault("teacher temperature 0.002", _temperature(0.002), by_setting=True),
    Fault("learning rate x 100", _learning_rate(100), by_setting=True),
    Fault("weight decay 100", _weight_decay, by_setting=True),
    Fault("EMA momentum 0", _teacher_momentum(0.0), by_setting=True),
    Fault("EMA momentum 1", _teacher_momentum(1.0), by_setting=True),
    Fault("teacher receives the gradient", _teacher_gradient),
    Fault("constant images", _volumes(torch.zeros_like)),
    Fault("every image the same", _volumes(lambda image: image[:1].expand_as(image).contiguous())),
    Fault("view pairs shuffled", _views(lambda views: [views[0], views[1].roll(1, dims=0)])),
    Fault("both views the same", _views(lambda views: [views[0], views[0]])),
    Fault("head of stage 2 dead", _dead_head),
    Fault("encoder stage 3 frozen", _frozen_stage),
    Fault("encoder frozen", _frozen_encoder),
    Fault("prototypes frozen for ever", _frozen_prototypes),
    Fault("heads with layer norm", lambda run: None, setting={"head_norm": "layer"}),
    Fault("heads without their last normalisation", _without_normalisation),
    Fault("half-precision overflow", _overflow),
)
