"""Tiny pre-trainings on generated volumes, whole and cheap: what the table of faults is measured on.

Where from: ours. Everything is the bundle's own (dataset, sampler, views, network, loss, handlers), small enough that a
step takes some 30 ms of one CPU core. The figure of merit asks the teacher's encoder about volumes that it never saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd
from torch.nn import functional
from torch.utils.data import DataLoader

from desd_components.coding_rate import CodingRateTerm
from desd_components.data import ContextDataset
from desd_components.dense import DenseDistillationLoss, PrepareDenseViews
from desd_components.encoder import ResNet3DEncoder
from desd_components.errors import UserError
from desd_components.handlers import LearningRateHandler, TeacherEMAHandler
from desd_components.loss import DeepSelfDistillationLoss
from desd_components.monitor import DistillationMonitor
from desd_components.network import DeepSelfDistillationNetwork
from desd_components.nonfinite import SkipNonFiniteHandler
from desd_components.pretraining import decay_groups
from desd_components.probes import pooled_views
from desd_components.sampling import EpochSampler, SampleKey, collate_contexts
from desd_components.schedules import CosineSchedule
from desd_components.tools.phantom import write_family
from desd_components.views import MultiViews, PrepareViews, ViewRecipe

VIEW_SIZE = (12, 12, 12)
JUDGED = 48  # volumes that no run trains on
ROUNDS = 4  # pairs of views of each judged volume


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
    """What came of a run: alarms as (step, name, message), steps taken, score, and the error that ended it, if any."""

    alarms: list[tuple[int, str, str]] = field(default_factory=list)
    steps: int = 0
    score: float = float("nan")
    loss: float = float("nan")
    stopped: str = ""


def volumes(folder: Path, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Write `count` generated volumes into a folder; records of them."""
    write_family(folder, num_labelled=4, num_unlabelled=count - 4, seed=seed, size=32)
    return [{"image": str(path)} for path in sorted(folder.glob("images*/*.nii.gz"))]


def contexts(records: list[dict[str, str]], cache: Path, seed: int, repeats: int = 1) -> ContextDataset:
    """The bundle's dataset over them, in voxels of the scans, each with mean 0 and standard deviation 1.

    With `repeats` of each in an epoch, a short run is one epoch, and its looks lie an interval apart as in a long one.
    """
    load = [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)]
    preprocessing = Compose([*load, NormalizeIntensityd("image")])
    return ContextDataset(records, preprocessing, cache, VIEW_SIZE, [1.2, 1.5], samples_per_volume=repeats, seed=seed)


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


class TinyRun:
    """A pre-training that faults are put into, with its parts at hand.

    Args:
        setting: what it is made of.
        records: of volumes; the last `JUDGED` of them are not trained on.
        cache: folder of preprocessed volumes.
        steps: of the run.
    """

    def __init__(self, setting: Setting, records: list[dict[str, str]], cache: Path, steps: int) -> None:
        torch.manual_seed(setting.seed)
        self.setting, self.steps = setting, steps
        self.dataset = contexts(records[:-JUDGED], cache, setting.seed, repeats=100)
        self.judged = contexts(records[-JUDGED:], cache, seed=0)
        self.views = MultiViews([recipe(), recipe()], setting.seed)
        self.prepare: PrepareViews = PrepareDenseViews(self.views, 16) if setting.dense else PrepareViews(self.views)
        self.network = self._network()
        self.loss = self._loss()
        self.optimizer = self._optimizer()
        rate = CosineSchedule(setting.learning_rate, 0.0, 10 * steps, setting.warmup_steps)
        self.rate = LearningRateHandler(self.optimizer, rate)
        self.teacher = TeacherEMAHandler(self.network, CosineSchedule(setting.teacher_momentum, 1.0, 10 * steps))
        self.monitor = DistillationMonitor(self.network, self.loss)
        self.skips = SkipNonFiniteHandler([self.network, self.loss])
        self.on_start: list[Callable[[Any], None]] = []

    def _network(self) -> DeepSelfDistillationNetwork:
        s = self.setting
        shape: dict[str, Any] = {"stem_kernel": 3, "stem_stride": 2, "stem_pool": False, "stage_strides": [1, 2, 2, 1]}
        encoder = ResNet3DEncoder(depth=10, width=8, norm=s.norm, **shape)
        heads: dict[str, Any] = {"head_hidden": 64, "head_bottleneck": 32, "head_norm": s.head_norm}
        heads |= {"dense_prototypes": 64 if s.dense else 0, "teacher_target": s.teacher_target}
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
        """Train; after `onset` steps `fault` is called, once, to spoil any part of the run."""
        sampler = EpochSampler(self.dataset, self.setting.batch_size, self.setting.seed)
        loader = DataLoader(
            self.dataset,
            self.setting.batch_size,
            sampler=sampler,
            drop_last=True,
            collate_fn=collate_contexts,
        )
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=-(-self.steps // sampler.batches),
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
        finding = Finding()
        self._watch(finding, fault, onset)
        try:
            self.trainer.run()
        except UserError as error:
            finding.stopped = str(error)
            finding.alarms.append((self.trainer.state.iteration, "not_finite", str(error)))
        finding.steps, finding.score = self.trainer.state.iteration, self.score()
        finding.loss = self.loss.scalars()["loss"]
        return finding

    def _watch(self, finding: Finding, fault: Callable[[TinyRun], None] | None, onset: int) -> None:
        heard: set[str] = set()

        def listen(engine: Any) -> None:
            for name in set(self.monitor.sounding) - heard:
                finding.alarms.append((engine.state.iteration, name, self.monitor.sounding[name]))
            heard.clear()
            heard.update(self.monitor.sounding)
            if engine.state.iteration == self.steps:
                engine.terminate()

        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, listen)
        if fault is not None:
            self.trainer.add_event_handler(Events.ITERATION_STARTED(once=onset + 1), lambda: fault(self))

    def score(self) -> float:
        """How well the teacher's encoder knows a judged volume again; see `known_again`. Mean over stages 3 and 4."""
        encoder = self.network.teacher.encoder.eval()
        found = []
        for epoch in range(1, ROUNDS + 1):
            keys = (SampleKey(epoch, index) for index in range(len(self.judged)))
            batch = collate_contexts([self.judged[key] for key in keys])
            with torch.no_grad():
                stages = pooled_views(encoder, MultiViews([recipe(), recipe()], 0)(**_without_volume(batch)))
            found += [known_again(first, second) for first, second in stages[2:]]
        encoder.train()
        return float(np.mean(found))


def _without_volume(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "volume"}


def known_again(first: torch.Tensor, second: torch.Tensor) -> float:
    """How often a volume's second view is more like its first, by cosine of centred features (N, C), than another
    volume's second view is: 1 always, 0.5 by luck, and by features that are not finite."""
    if not torch.isfinite(first).all() or not torch.isfinite(second).all():
        return 0.5
    mean = torch.cat([first, second]).mean(dim=0)
    similarity = functional.normalize(first - mean, dim=1) @ functional.normalize(second - mean, dim=1).T
    own = similarity.diagonal()[:, None]
    others = ~torch.eye(len(first), dtype=torch.bool)
    wins = (own > similarity).double() + 0.5 * (own == similarity)
    return float(wins[others].mean())


def varied_settings(count: int) -> list[Setting]:
    """Healthy settings of different seeds, the first plain, then with one knob turned in turn."""
    turned: list[dict[str, Any]] = [
        {},
        {"centering": "sinkhorn"},
        {"centering": "sinkhorn", "teacher_temperature": 0.03},
        {"teacher_temperature": 0.07},
        {"batch_size": 4},
        {"batch_size": 16},
        {"num_prototypes": 16},
        {"num_prototypes": 1024},
        {"norm": "instance"},
        {"norm": "batch"},
        {"head_norm": "layer"},
        {"learning_rate": 3e-4},
        {"learning_rate": 3e-3},
        {"teacher_momentum": 0.9},
        {"teacher_momentum": 0.996},
        {"optimizer": "sgd", "learning_rate": 0.03},
        {"center_momentum": 0.99},
        {"teacher_target": "same_stage"},
        {"coding_rate": 0.4},
        {"dense": True},
    ]
    seeds = itertools.count()
    return [replace(Setting(seed=next(seeds)), **turned[place % len(turned)]) for place in range(count)]
