"""Self-training: a momentum teacher labels crops of unlabelled scans, and its student learns from crops mixed of both.

Source: Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023 (mixing and
weights), over Tarvainen & Valpola, "Mean teachers", NeurIPS 2017; the rise of the weight is that of Laine & Aila, ICLR
2017. Ours: one run with one schedule, whose first third learns from labels alone; the teacher, buffers averaged too, is
the result; half of the crops of a step are labelled ones; a watch over the volumes of what the teacher labels.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from monai.inferers import Inferer
from torch import nn

from ..base.classes import IGNORE, Regions, class_members
from ..base.errors import UserError, require_share, require_whole
from ..base.processes import sum_over_processes
from ..base.tensors import average_into
from ..distillation.handlers import TeacherEMAHandler
from ..scans.cache.entries import open_array
from ..scans.datasets import PreprocessedDataset
from .losses import decode
from .mixing import CropMixing, cuboids, moved

logger = logging.getLogger(__name__)

DRIFT = 2.0  # times the volume of labelled scans, or its inverse, beyond which a class has drifted
FEW_STEPS = 500  # of a run, below which a teacher may know too little: 600 gained, 300 did harm
LEAST_CROPS = 64  # that a judgement on volumes is based on


@dataclass(frozen=True)
class SelfTrainingSchedule:
    """What the teacher keeps of itself at an optimiser step, and how much a voxel weighs that it has labelled.

    Args:
        total_steps: of the whole run.
        weight: of a voxel without a label at last, where a labelled one weighs 1.
        supervised: share of the steps that learn from labels alone; the teacher is then the student.
        rise: share of the steps that the weight takes to rise.
        momentum: of the teacher, from then on.
    """

    total_steps: int
    weight: float = 0.5
    supervised: float = 1 / 3
    rise: float = 0.4
    momentum: float = 0.99

    def __post_init__(self) -> None:
        require_share(unlabelled_weight=self.weight, supervised_share=self.supervised)

    @property
    def supervised_steps(self) -> int:
        """Steps that learn from labels alone."""
        return round(self.supervised * self.total_steps)

    def __call__(self, step: int) -> float:
        """The teacher's momentum at a step counted from 0."""
        return 0.0 if step < self.supervised_steps else self.momentum

    def risen(self, step: int) -> float:
        """The weight of a voxel without a label at a step counted from 0."""
        steps = step - self.supervised_steps
        left = 1 - min(1.0, max(0, steps) / max(1.0, self.rise * self.total_steps))
        return self.weight * math.exp(-5 * left**2) if steps >= 0 else 0.0


class MomentumTeacher:
    """A copy of a network that follows it, buffers and all; in eval mode, without gradients, in ``network``."""

    def __init__(self, student: nn.Module, device: torch.device | str) -> None:
        self.student = student
        self.network = copy.deepcopy(student).to(device).eval().requires_grad_(False)

    def update_teacher(self, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * student."""
        average_into(self.network.state_dict(), self.student.state_dict(), momentum)


def window_shares(data: PreprocessedDataset, window: Sequence[int], count: int) -> np.ndarray:
    """What share of a random window each label value has, (count,), on the mean over labelled scans.

    A voxel counts as often as it lies in a window: in the middle of a volume more often than at its ends.
    """
    shares = np.zeros(count)
    for entry in data.entries:
        labels = np.asarray(open_array(entry, "label")[0])
        lacking = [max(0, size - has) for size, has in zip(window, labels.shape, strict=True)]
        labels = np.pad(labels, [(lack // 2, lack - lack // 2) for lack in lacking], mode="edge")
        sides = zip(window, labels.shape, strict=True)
        along_x, *along = (np.convolve(np.ones(has - size + 1), np.ones(size)) for size, has in sides)
        often, found = np.outer(*along), np.zeros(count)
        for times, plane in zip(along_x, labels, strict=True):  # plane by plane, for volumes may be large
            known = plane != IGNORE
            found += times * np.bincount(plane[known].astype(int), weights=often[known], minlength=count)[:count]
        shares += found / max(found.sum(), 1.0) / len(data.entries)
    return shares


class VolumeWatch:
    """Whether the classes have in what the teacher labels about the volumes that they have in labelled scans.

    Args:
        data: the labelled scans.
        window: voxels of a crop.
        class_names, regions: of the network; see `class_members`.
        label_count: label values with the background's.

    Raises:
        UserError: when a class has no voxel in any labelled scan.
    """

    def __init__(
        self,
        data: PreprocessedDataset,
        window: Sequence[int],
        class_names: Sequence[str],
        label_count: int,
        regions: Regions = False,
    ) -> None:
        self.names, self.members = list(class_names), class_members(len(class_names), regions)
        self.expected = self._volumes(window_shares(data, window, label_count))
        self.voxels, self.counts, self.crops = math.prod(window), torch.zeros(label_count, dtype=torch.long), 0
        self.ratios: dict[str, float] = {}
        lacking = [name for name, volume in self.expected.items() if not volume]
        if lacking and data.entries:
            raise UserError(
                f"no labelled scan to train on has a voxel of {', '.join(lacking)}, so that no teacher can find it in "
                "unlabelled ones: label more scans, draw others with another `--seed`, or leave the class out."
            )

    def _volumes(self, shares: np.ndarray) -> dict[str, float]:
        members = zip(self.names[1:], self.members[1:], strict=True)
        return {name: float(sum(shares[value] for value in own)) for name, own in members}

    def add(self, labels: torch.Tensor) -> None:
        """Count the label values (B, 1, X, Y, Z) of crops, over all processes."""
        found = torch.bincount(labels.flatten().long(), minlength=len(self.counts))
        found = sum_over_processes(torch.cat((found, found.new_tensor([len(labels)])))).cpu()
        self.counts, self.crops = self.counts + found[:-1], self.crops + int(found[-1])

    def judge(self) -> None:
        """Compare what was counted since the last judgement, where that is enough, and tell what has changed."""
        if self.crops < LEAST_CROPS:
            return
        before, volumes = (self._odd(), self.is_blank), self._volumes(self.counts.numpy() / (self.crops * self.voxels))
        self.ratios = {name: volume / self.expected[name] for name, volume in volumes.items()}
        self.counts, self.crops = torch.zeros_like(self.counts), 0
        odd = self._odd()
        if (odd, self.is_blank) == before:
            return
        if not odd:
            logger.info("self_training: all classes have their volumes again.")
            return
        logger.warning(
            "self_training: volumes of classes in what the teacher labels, over those of labelled scans: %s. %s Are "
            "the unlabelled scans of the same kind? Then raise supervised_share or max_epochs, or label more scans.",
            ", ".join(f"{name} {self.ratios[name]:.2g}" for name in odd),
            "Unlabelled voxels do not count until that is mended." if self.is_blank
            else "Unlabelled voxels of a class that has too much do not count until that is mended.",
        )  # fmt: skip

    def _odd(self) -> list[str]:
        return [name for name, ratio in self.ratios.items() if not 1 / DRIFT <= ratio <= DRIFT]

    @property
    def excessive(self) -> list[int]:
        """Label values of the classes that have too much."""
        own = zip(self.names[1:], self.members[1:], strict=True)
        return sorted({value for name, values in own if self.ratios.get(name, 0) > DRIFT for value in values})

    @property
    def is_blank(self) -> bool:
        """Whether no class was found at all."""
        return bool(self.ratios) and not any(self.ratios.values())

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and judged last."""
        return {"counts": self.counts.tolist(), "crops": self.crops, "ratios": dict(self.ratios)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.counts, self.crops = torch.tensor(state["counts"]), state["crops"]
        self.ratios = dict(state["ratios"])


class SelfTraining(TeacherEMAHandler):
    """Moves the teacher, mixes the crops of each step, and watches what the teacher labels.

    While the schedule learns from labels alone, batches are as `mixing` makes them. Afterwards the second half of a
    batch is mixed of a labelled and an unlabelled crop, either being the one that is pasted.

    When an epoch is over, classes whose volume is not within `DRIFT` of that in labelled scans are told; one that has
    more does not count in unlabelled crops until that is mended, and where nothing is found at all, no voxel does.

    Args:
        teacher: follows the network that is trained.
        schedule: of momentum and weight.
        inferer: runs the teacher, as it runs the student.
        watch: over volumes.
        mixing: prepares the labelled crops.
        batch_size: crops of a step on this process.
        regions: see `decode`.

    Raises:
        UserError: when a batch is too small to be halved.
    """

    def __init__(
        self,
        teacher: MomentumTeacher,
        schedule: SelfTrainingSchedule,
        inferer: Inferer,
        watch: VolumeWatch,
        mixing: CropMixing,
        batch_size: int,
        regions: Regions = False,
    ) -> None:
        require_whole(2, batch_size=batch_size)
        super().__init__(teacher, schedule)
        self.schedule: SelfTrainingSchedule = schedule
        self.teacher, self.inferer, self.watch = teacher.network, inferer, watch
        self.mixing, self.regions = mixing, regions

    def attach(self, engine: Workflow) -> None:
        """Serve a trainer, whose ``prepare_batch`` is `prepare`."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), self._tell_of_few)  # a budget has had its say
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.watch.judge())

    def _tell_of_few(self) -> None:
        if self.schedule.weight and self.schedule.total_steps < FEW_STEPS:
            logger.warning(
                "self_training: %d steps are few: a teacher that has learnt little teaches its faults. Give the run %d "
                "or more (max_epochs, minutes), or leave self_train.yaml out.", self.schedule.total_steps, FEW_STEPS,
            )  # fmt: skip

    @property
    def weight(self) -> float:
        """Of a voxel that the teacher has labelled."""
        return 0.0 if self.watch.is_blank else self.schedule.risen(self.step)

    def prepare(
        self, batch: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of `WithUnlabelled` -> what the student sees, and labels with the weight of each voxel."""
        images, labels = self.mixing.prepare(batch, device, non_blocking, **kwargs)
        if self.step < self.schedule.supervised_steps:
            return images, labels
        weak, strong, draws = (moved(batch[n], device, non_blocking, **kwargs) for n in ("weak", "strong", "draws"))
        guessed, half = self._labelled(weak), len(images) - len(strong)
        foreign = cuboids(draws[:, 1:], images.shape[2:]) == (draws[:, :1] < 0.5)[..., None, None, None]
        weights = self.weight * ~torch.isin(guessed, guessed.new_tensor(self.watch.excessive))
        known, taught = torch.cat((labels, torch.ones_like(labels)), dim=1), torch.cat((guessed, weights), dim=1)
        mixed, targets = torch.where(foreign, strong, images[half:]), torch.where(foreign, taught, known[half:])
        return torch.cat((images[:half], mixed)), torch.cat((known[:half], targets))

    @torch.no_grad()
    def _labelled(self, crops: torch.Tensor) -> torch.Tensor:
        labels = decode(self.inferer(crops, self.teacher), self.regions)
        self.watch.add(labels)
        return labels

    def scalars(self) -> dict[str, float]:
        """Momentum, the weight of unlabelled voxels, and the ratios of volumes that were judged last."""
        ratios = {f"volume_ratio_{name}": ratio for name, ratio in self.watch.ratios.items()}
        return {**super().scalars(), "unlabelled_weight": self.weight, **ratios}

    def state_dict(self) -> dict[str, Any]:
        """All that the steps so far have led to."""
        return {**super().state_dict(), "teacher": self.teacher.state_dict(), "watch": self.watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"])
        self.watch.load_state_dict(state["watch"])
