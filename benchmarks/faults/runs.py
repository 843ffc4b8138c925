"""Tiny pre-trainings on generated volumes, whole and cheap: what the table of faults is measured on.

Everything is the bundle's own (dataset, sampler, views, network, loss, handlers), small enough that a step takes some
30 ms of one CPU core. What a run was worth is judged by `scores`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd
from torch.utils.data import DataLoader

from desd_components.base.errors import UserError
from desd_components.distillation.encoder import ResNet3DEncoder
from desd_components.distillation.handlers import TeacherEMAHandler
from desd_components.distillation.loss import DeepSelfDistillationLoss
from desd_components.distillation.network import DeepSelfDistillationNetwork
from desd_components.distillation.schedules import CosineSchedule, LearningRateHandler, decay_groups
from desd_components.distillation.terms.coding_rate import CodingRateTerm
from desd_components.distillation.terms.dense import (
    DenseDistillationLoss,
    DenseDistillationNetwork,
    PrepareDenseViews,
)
from desd_components.distillation.views.make import MultiViews, PrepareViews, ViewRecipe
from desd_components.health.monitor import DistillationMonitor
from desd_components.health.skipping import SkipNonFiniteHandler
from desd_components.scans.cache.cache import VolumeCache
from desd_components.scans.contexts import ContextDataset, collate_contexts
from desd_components.scans.loading import EpochSampler
from desd_tools.studies.phantom.phantom import write_family

VIEW_SIZE = (12, 12, 12)


@dataclass(frozen=True)
class Setting:
    """What a tiny run is made of; the values are those of the healthy run that faults are put into."""

    seed: int = 0
    batch_size: int = 8
    norm: str = "group"
    head_norm: str = "batch"
    num_prototypes: int = 64
    centering: str = "mean"
    center_momentum: float = 0.9
    teacher_temperature: float = 0.04
    teacher_momentum: float = 0.95
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    teacher_target: str = "deepest"
    coding_rate: float = 0.0
    dense: bool = False


@dataclass
class Finding:
    """What came of a run: alarms as (step, name, message), steps taken, the teacher's score before and after, the error
    that ended it, if any."""

    alarms: list[tuple[int, str, str]] = field(default_factory=list)
    steps: int = 0
    untrained: float = float("nan")
    score: float = float("nan")
    loss: float = float("nan")
    stopped: str = ""


def volumes(folder: Path, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Write `count` generated volumes into a folder; records of them."""
    write_family(folder, num_labelled=4, num_unlabelled=count - 4, seed=seed, size=32)
    return [{"image": str(path)} for path in sorted(folder.glob("images*/*.nii.gz"))]


def contexts(records: list[dict[str, str]], cache: Path, seed: int) -> ContextDataset:
    """The bundle's dataset over them, in voxels of the scans, each with mean 0 and standard deviation 1."""
    load = [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)]
    preprocessing = Compose([*load, NormalizeIntensityd("image")])
    return ContextDataset(records, VolumeCache(preprocessing, cache), VIEW_SIZE, [1.2, 1.5], seed=seed)


def recipe() -> ViewRecipe:
    """The views of the small recipe, smaller."""
    return ViewRecipe(
        size=VIEW_SIZE,
        scale=[[0.8, 1.2]] * 3,
        noise_sd=[0.0, 0.2],
        blur_sigma=[0.1, 1.0],
        blur_probability=0.5,
        multiplicative_brightness=[0.75, 1.25],
        multiplicative_brightness_probability=0.8,
        additive_brightness_sd=0.4,
        additive_brightness_probability=0.64,
        contrast=[0.75, 1.25],
        gamma=[0.7, 1.5],
        gamma_probability=0.8,
    )


class Remembered:
    """Views of batches that were seen before, by all that a batch holds, for they cost as much as the step.

    Args:
        prepare: makes them; each is a function of its batch alone.
        known: what is remembered, for other runs as well.
    """

    def __init__(self, prepare: Callable[..., Any], known: dict[bytes, Any]) -> None:
        self.prepare, self.known = prepare, known

    def __call__(self, batch: Mapping[str, torch.Tensor], *more: Any, **others: Any) -> Any:
        """Views and target of a batch."""
        hashed = hashlib.blake2b()
        for name in sorted(batch):
            hashed.update(batch[name].numpy().tobytes())
        key = hashed.digest()
        if key not in self.known:
            self.known[key] = self.prepare(batch, *more, **others)
        views, target = self.known[key]
        return list(views), target


class TinyRun:
    """A pre-training that faults are put into, with its parts at hand.

    Args:
        setting: what it is made of.
        dataset: the contexts that it trains on.
        judge: what the teacher's encoder is worth; see `scores`.
        steps: of the run.
        known: views that runs of the same setting have made; see `Remembered`.
    """

    def __init__(
        self,
        setting: Setting,
        dataset: ContextDataset,
        judge: Callable[[ResNet3DEncoder], float],
        steps: int,
        known: dict[bytes, Any] | None = None,
    ) -> None:
        torch.manual_seed(setting.seed)
        self.setting, self.steps = setting, steps
        self.dataset, self.judge = dataset, judge
        views = MultiViews([recipe(), recipe()], setting.seed)
        prepare: Callable[..., Any] = PrepareDenseViews(views, 16) if setting.dense else PrepareViews(views)
        self.prepare: Callable[..., Any] = prepare if known is None else Remembered(prepare, known)
        self.network = self._network()
        self.loss = self._loss()
        self.optimizer = self._optimizer()
        rate = CosineSchedule(setting.learning_rate, 0.0, 10 * steps, setting.warmup_steps)
        self.rate = LearningRateHandler(self.optimizer, rate)
        self.teacher = TeacherEMAHandler(self.network, CosineSchedule(setting.teacher_momentum, 1.0, 10 * steps))
        self.monitor = DistillationMonitor(self.network, self.loss)
        self.skips = SkipNonFiniteHandler([self.network, self.loss])

    def _network(self) -> Any:
        s = self.setting
        shape: dict[str, Any] = {"stem_kernel": 3, "stem_stride": 2, "stem_pool": False, "stage_strides": [1, 2, 2, 1]}
        encoder = ResNet3DEncoder(depth=10, width=8, norm=s.norm, **shape)
        heads: dict[str, Any] = {"head_hidden": 64, "head_bottleneck": 32, "head_norm": s.head_norm}
        heads["teacher_target"] = s.teacher_target
        if s.dense:
            return DenseDistillationNetwork(encoder, s.num_prototypes, dense_prototypes=64, **heads)
        return DeepSelfDistillationNetwork(encoder, s.num_prototypes, **heads)

    def _loss(self) -> DeepSelfDistillationLoss:
        s = self.setting
        common: dict[str, Any] = {"teacher_temperature": s.teacher_temperature, "centering": s.centering}
        terms: list[torch.nn.Module] = [CodingRateTerm(s.coding_rate)] if s.coding_rate else []
        terms += [DenseDistillationLoss(64, **common)] if s.dense else []
        same_stage = s.teacher_target == "same_stage"
        more: dict[str, Any] = {"center_momentum": s.center_momentum, "terms": terms, "same_stage": same_stage}
        return DeepSelfDistillationLoss(s.num_prototypes, **common, **more)

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.setting.optimizer == "sgd":
            return torch.optim.SGD(decay_groups(self.network.student, 1e-6), self.setting.learning_rate, momentum=0.9)
        return torch.optim.AdamW(decay_groups(self.network.student, 0.01), self.setting.learning_rate)

    def run(self, fault: Callable[[TinyRun], None] | None = None, onset: int = 0) -> Finding:
        """Train; after `onset` steps `fault` is called, once, to spoil any part of the run.

        The run is one epoch, so that its looks lie an interval apart as in a long one.
        """
        batch_size = self.setting.batch_size
        sampler = EpochSampler(self.dataset, batch_size, self.setting.seed, samples=self.steps * batch_size)
        loader = DataLoader(
            self.dataset,
            self.setting.batch_size,
            sampler=sampler,
            drop_last=True,
            collate_fn=collate_contexts,
        )
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=self.loss,
            prepare_batch=self.prepare,
            train_handlers=[self.rate, self.teacher, self.skips, self.monitor],
            decollate=False,
            optim_set_to_none=True,
        )
        self.trainer.logger.setLevel("CRITICAL")
        finding = Finding(untrained=self._score())
        self._watch(finding, fault, onset)
        try:
            self.trainer.run()
        except UserError as error:
            finding.stopped = str(error)
            finding.alarms.append((self.trainer.state.iteration, "not_finite", str(error)))
        finding.steps, finding.score = self.trainer.state.iteration, self._score()
        finding.loss = self.loss.scalars()["distillation_loss"]
        return finding

    def _watch(self, finding: Finding, fault: Callable[[TinyRun], None] | None, onset: int) -> None:
        heard: set[str] = set()

        def listen(engine: Any) -> None:
            for name, message in self.monitor.sounding.items():
                if name not in heard:
                    finding.alarms.append((engine.state.iteration, name, message))
            heard.clear()
            heard.update(self.monitor.sounding)
            if engine.state.iteration == self.steps:
                engine.terminate()

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, listen)
        if fault is not None:
            self.trainer.add_event_handler(Events.ITERATION_STARTED(once=onset + 1), lambda: fault(self))

    def _score(self) -> float:
        encoder = self.network.teacher.encoder.eval()
        score = self.judge(encoder)
        encoder.train()
        return score


def healthy_settings(count: int, seed: int, plain: int) -> list[Setting]:
    """Healthy settings, each with a seed of its own: `plain` ones of the seeds from `seed` on, the others from 100
    further on, with one thing changed in turn.

    Settings that turned out to collapse in such runs, and were reported, are none: head_norm layer, a teacher's
    temperature of 0.07 from the first step, a center momentum of 0.99.
    """
    others = itertools.cycle(
        [
            {"centering": "sinkhorn"},
            {"centering": "sinkhorn", "teacher_temperature": 0.03},
            {"teacher_temperature": 0.03},
            {"batch_size": 4},
            {"batch_size": 16},
            {"num_prototypes": 16},
            {"num_prototypes": 1024},
            {"norm": "instance"},
            {"norm": "batch"},
            {"warmup_steps": 30},
            {"learning_rate": 3e-4},
            {"learning_rate": 3e-3},
            {"teacher_momentum": 0.9},
            {"teacher_momentum": 0.98},
            {"teacher_momentum": 0.996},
            {"optimizer": "sgd", "learning_rate": 0.03},
            {"center_momentum": 0.8},
            {"teacher_target": "same_stage"},
            {"coding_rate": 0.4},
            {"dense": True},
        ]
    )
    changed = [Setting(seed=seed + 100 + place, **next(others)) for place in range(count - plain)]  # type: ignore[arg-type]
    return [Setting(seed=seed + place) for place in range(plain)] + changed
