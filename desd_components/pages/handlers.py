"""Handlers that leave pictures for a run's page: an evaluation's cases, some segmented scans, an encoder's maps.

Scans are read again from their files, so that they are shown as stored, whatever the preprocessing; see
`desd_components.pages`, which draws. Whatever fails here is said in one line and ends no run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.workflow import Workflow
from monai.transforms import LoadImage
from monai.utils.enums import CommonKeys
from torch.utils.data import Dataset

from ..base.encoders import Encoder
from ..base.processes import from_all_processes
from ..base.statistics import dice_score
from ..health.features import draw_feature_maps
from ..runs.layout import ScanLayout
from ..scans.names import CaseNames
from ..scans.read import ScanReader
from ..scans.volume import scan_path, voxel_size
from ..segmentation.scores import judged
from .compare import best_median_worst
from .outlines import ras, voxels
from .pictures import Album
from .run_end import comfort
from .slices import case_figure, case_stack, color_word, labels_figure, window_words

FAILED = "a picture for the page could not be drawn"


@dataclass
class KeptCase:
    """A scored scan with its label maps, small enough to keep hundreds: label maps compress to a hundredth."""

    path: str
    dice: float
    maps: tuple[bytes, bytes]  # of the truth, and of the prediction
    shape: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def of(cls, path: str, prediction: torch.Tensor, truth: torch.Tensor) -> KeptCase:
        """Keep label maps (1, X, Y, Z) on one grid."""
        found, true = judged(*(torch.from_numpy(voxels(each).round().astype(np.int16)) for each in (prediction, truth)))
        present = [value for value in torch.cat([found, true]).unique() if value > 0]
        scores = [dice_score(found == value, true == value) for value in present]
        affine = np.asarray(truth.affine) if isinstance(truth, MetaTensor) else np.eye(4)
        of_truth, of_prediction = (zlib.compress(volume.numpy().tobytes(), 1) for volume in (true, found))
        return cls(path, float(np.mean(scores or 0.0)), (of_truth, of_prediction), tuple(true.shape), affine)

    def unpacked(self) -> list[MetaTensor]:
        """The label maps (1, X, Y, Z), turned to RAS."""
        volumes = [np.frombuffer(zlib.decompress(each), np.int16).reshape(1, *self.shape).copy() for each in self.maps]
        return [ras(MetaTensor(torch.from_numpy(each), affine=torch.as_tensor(self.affine))) for each in volumes]


class _Pictures:
    """What the three have in common: an album for each run of an engine, and a guard, for no picture may end a run.

    Args:
        output_dir: the run's folder.
        case_names: what scans are called: as in the data, or as their results; by default by their files alone.
    """

    part: ClassVar[str]
    most: ClassVar[int]  # pictures that are drawn as scans come

    def __init__(self, output_dir: str | Path, case_names: CaseNames | ScanLayout | None = None) -> None:
        self.output_dir, self.case_names = Path(output_dir), case_names or CaseNames()

    def attach(self, engine: Workflow) -> None:
        """Watch an engine from its start to its end; the first process writes the album."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._guarded, self._see)
        engine.add_event_handler(Events.COMPLETED, self._guarded, self._end)
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self._guarded, lambda _: self._album.close())

    def _start(self, engine: Workflow) -> None:
        self._album = Album(self.output_dir, self.part)

    def _guarded(self, engine: Workflow, act: Callable[[Workflow], None]) -> None:
        with comfort(FAILED):
            act(engine)

    def _see(self, engine: Workflow) -> None:
        """After each iteration."""

    def _end(self, engine: Workflow) -> None:
        """When all is done, before the album is closed."""

    def _is_full(self) -> bool:
        return len(self._album.pictures) >= self.most


class CasePictures(_Pictures):
    """Draw an evaluation's best, median and worst case: three planes, and all slices to leaf through.

    It watches an evaluator whose outputs are decollated and decoded.

    Args:
        output_dir: the run's folder.
        case_names: what scans are called; by default by their files alone.
    """

    part = "evaluation"

    def _start(self, engine: Workflow) -> None:
        super()._start(engine)
        self.cases: list[KeptCase] = []

    def _see(self, engine: Workflow) -> None:
        for sample in engine.state.output:
            path = scan_path(sample.get(CommonKeys.IMAGE, sample[CommonKeys.LABEL]))
            if path is not None:
                self.cases.append(KeptCase.of(path, sample[CommonKeys.PRED], sample[CommonKeys.LABEL]))

    def _end(self, engine: Workflow) -> None:
        ranked = sorted(from_all_processes(self.cases), key=lambda case: (-case.dice, case.path))
        if idist.get_rank() == 0:
            for word, case in best_median_worst(ranked).items():
                self._draw(word, case)

    def _draw(self, word: str, case: KeptCase) -> None:
        maps, image, name = case.unpacked(), voxels(scan_as_stored(case.path)), self.case_names.image(case.path)
        truth, prediction = map(voxels, maps)
        title, spacing = f"{word.capitalize()} case", voxel_size(maps[0])
        figure = case_figure(image, truth, {"prediction": prediction}, spacing)
        caption = (
            f"{name}: Dice {case.dice:.3f}, mean of its classes. White: truth; blue: prediction. "
            f"Each plane is the one that shows most of the truth; {window_words(image)}; letters: the patient's right, "
            "left, front (A), back (P), head, feet."
        )
        alt = f"Three planes of {name}, the outlines of truth and prediction on them."
        self._album.add_figure(figure, f"{title}.", caption, alt)
        stack = case_stack(image, truth, prediction, spacing)
        caption = f"{name}, {stack.plane}, with the slider or the arrow keys. White: truth; blue: prediction."
        alt = f"The {stack.plane} slices of {name}, the outlines of truth and prediction on them."
        self._album.add(stack.save, f"{title}, slice by slice.", caption, alt, stack.slices, stack.first)


class ScanPictures(_Pictures):
    """Draw the first scans of an inference, each class outlined in its colour.

    It watches an evaluator whose outputs are decollated and decoded; a scan that failed has no output.

    Args:
        output_dir: the run's folder.
        class_names: name of each label value, the background first.
        case_names: what scans are called; here the layout of their results says it.
    """

    part, most = "inference", 6

    def __init__(
        self, output_dir: str | Path, class_names: Sequence[str], case_names: CaseNames | ScanLayout | None = None
    ) -> None:
        super().__init__(output_dir, case_names)
        self.class_names = list(class_names)

    def _see(self, engine: Workflow) -> None:
        for sample in engine.state.output or []:
            path = scan_path(sample[CommonKeys.PRED])
            if path is not None and not self._is_full():
                self._draw(path, sample[CommonKeys.PRED])

    def _draw(self, path: str, labels: torch.Tensor) -> None:
        image, found = scan_as_stored(path), ras(labels)
        values = [int(value) for value in np.unique(voxels(found)) if value > 0]
        figure = labels_figure(voxels(image), voxels(found), voxel_size(found))
        words = ", ".join(self._name(value) for value in values) or "no class was found"
        caption = f"{words}; {window_words(voxels(image))}; 20 mm about what was found."
        name = self.case_names.image(path)
        alt = f"Three planes of {name}, outlined: {words}."
        self._album.add_figure(figure, f"{name}.", caption, alt)

    def _name(self, value: int) -> str:
        return f"{self.class_names[value] if value < len(self.class_names) else value} ({color_word(value)})"


class FeaturePictures(_Pictures):
    """Draw what an encoder's stages make of a few volumes, coloured by principal components.

    On a trainer: of the first volumes of a dataset, when the last epoch is over. On an evaluator of an encoder (see
    `StageInferer`): of the first scans.

    Args:
        output_dir: the run's folder.
        encoder: which sees the volumes of `dataset`; None on an evaluator.
        dataset: samples {"image": (C, X, Y, Z)}, preprocessed; None on an evaluator.
        case_names: what scans are called; in an inference the layout of their results says it.
    """

    part, most = "features", 2

    def __init__(
        self,
        output_dir: str | Path,
        encoder: Encoder | None = None,
        dataset: Dataset | None = None,
        case_names: CaseNames | ScanLayout | None = None,
    ) -> None:
        super().__init__(output_dir, case_names)
        self.encoder, self.dataset = encoder, dataset

    def attach(self, engine: Workflow) -> None:
        """Draw at the end of a trainer, or while an evaluator sees its scans; on the first process only."""
        if idist.get_rank() == 0:
            super().attach(engine)

    def _see(self, engine: Workflow) -> None:
        output: Mapping[str, Any] = engine.state.output or {}
        if self.encoder is None and not self._is_full() and CommonKeys.PRED in output:
            self._draw(output[CommonKeys.IMAGE][0], [stage[0] for stage in output[CommonKeys.PRED]])

    def _end(self, engine: Workflow) -> None:
        stopped_by_a_signal = engine.state.epoch < engine.state.max_epochs
        if self.encoder is not None and self.dataset is not None and not stopped_by_a_signal:
            self._draw_dataset(self.encoder, self.dataset)

    @torch.no_grad()
    def _draw_dataset(self, encoder: Encoder, dataset: Dataset) -> None:
        device, was_training = next(encoder.parameters()).device, encoder.training
        encoder.eval()
        for index in range(min(self.most, len(dataset))):  # type: ignore[arg-type]
            image = dataset[index][CommonKeys.IMAGE].float()  # cached in half precision
            self._draw(image, [stage[0] for stage in encoder.stages(image[None].to(device))])
        encoder.train(was_training)

    def _draw(self, image: torch.Tensor, maps: Sequence[torch.Tensor]) -> None:
        spacing = voxel_size(image)
        volume = image[0].as_subclass(torch.Tensor).float().cpu().numpy()
        stages = [stage.as_subclass(torch.Tensor).float().cpu() for stage in maps]
        name = scan_path(image)
        title = f"{self.case_names.image(name)}." if name else f"Volume {len(self._album.pictures) + 1}."
        caption = (
            "Middle slices of a scan and of its stage maps, as preprocessed. Red, green and blue are the first "
            "three principal components of a map's channels: what has one colour looks alike to the encoder."
        )
        alt = (
            f"Grid of slices: {title} Rows are planes; columns are the scan and the maps of stages 1 to {len(stages)}."
        )
        self._album.add(lambda path: draw_feature_maps(volume, stages, path, spacing), title, caption, alt)


def scan_as_stored(path: str) -> MetaTensor:
    """The voxels of a scan as its file holds them, turned to RAS."""
    return ras(LoadImage(ScanReader(), ensure_channel_first=True)(path))
