"""Handlers that leave pictures for a run's page: an evaluation's cases, some segmented scans, an encoder's maps.

Scans are read again from their files, so that they are shown as stored, whatever the preprocessing; see
`desd_components.pages`, which draws. Whatever fails here is said in one line and ends no run.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.workflow import Workflow
from monai.transforms import LoadImage, Orientation
from monai.utils.enums import CommonKeys
from torch.utils.data import Dataset

from .encoder import ResNet3DEncoder
from .features import draw_feature_maps
from .finish import comfort
from .scans import stem
from .scoring import dice_score, from_all_processes, scan_path, voxel_size

FAILED = "a picture for the page could not be drawn"


@dataclass
class KeptCase:
    """A scored scan with its label maps, small enough to keep hundreds: label maps compress to a hundredth."""

    path: str
    dice: float
    truth: bytes
    prediction: bytes
    shape: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def of(cls, path: str, prediction: torch.Tensor, truth: torch.Tensor) -> KeptCase:
        """Keep label maps (1, X, Y, Z) on one grid."""
        maps = [np.asarray(volume[0].cpu()).round().astype(np.int16) for volume in (truth, prediction)]
        scores = [
            dice_score(torch.from_numpy(maps[1] == value), torch.from_numpy(maps[0] == value))
            for value in np.union1d(maps[0], maps[1])
            if value > 0
        ]
        known = [score for score in scores if score is not None]
        affine = np.asarray(truth.affine) if isinstance(truth, MetaTensor) else np.eye(4)
        packed = [zlib.compress(np.ascontiguousarray(volume).tobytes(), 1) for volume in maps]
        return cls(path, float(np.mean(known)) if known else 0.0, packed[0], packed[1], maps[0].shape, affine)

    def unpacked(self, what: bytes) -> MetaTensor:
        """A label map (1, X, Y, Z)."""
        volume = np.frombuffer(zlib.decompress(what), np.int16).reshape(self.shape)
        return MetaTensor(torch.from_numpy(volume.copy())[None], affine=torch.as_tensor(self.affine))


class CasePictures:
    """Draw an evaluation's best, median and worst case: three planes, the truth in white, the prediction in colour.

    Args:
        output_dir: the run's folder.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.cases: list[KeptCase] = []

    def attach(self, engine: Workflow) -> None:
        """Watch an evaluator whose outputs are decollated and decoded."""
        engine.add_event_handler(Events.STARTED, self.cases.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _keep(self, engine: Workflow) -> None:
        with comfort(FAILED):
            for sample in engine.state.output:
                path = scan_path(sample.get(CommonKeys.IMAGE, sample[CommonKeys.LABEL]))
                if path is not None:
                    self.cases.append(KeptCase.of(path, sample[CommonKeys.PRED], sample[CommonKeys.LABEL]))

    def _draw(self, engine: Workflow) -> None:
        cases = from_all_processes(self.cases)
        if idist.get_rank() != 0:
            return
        with comfort(FAILED):
            from .pages.pictures import Album

            album = Album(self.output_dir, "evaluation")
            for word, case in best_median_worst(cases).items():
                self._draw_case(album, word, case)
            album.close()

    def _draw_case(self, album: Any, word: str, case: KeptCase) -> None:
        from .pages.slices import case_figure, window_words

        truth, prediction = (ras(case.unpacked(what)) for what in (case.truth, case.prediction))
        image, spacing = scan_as_stored(case.path), voxel_size(truth)
        title, grey = f"{word.capitalize()} case.", window_words(_voxels(image))
        figure = case_figure(_voxels(image), _voxels(truth), {"prediction": _voxels(prediction)}, spacing)
        caption = (
            f"{stem(Path(case.path))}: Dice {case.dice:.3f}, mean of its classes. White: truth; blue: prediction. "
            f"Each plane is the one that shows most of the truth; {grey}; letters: the patient's right, left, "
            "front (A), back (P), head, feet."
        )
        alt = f"Three planes of {stem(Path(case.path))}, the outlines of truth and prediction on them."
        album.add(lambda path: figure.savefig(path, dpi=128, facecolor="black"), title, caption, alt)


def best_median_worst(cases: Sequence[KeptCase]) -> dict[str, KeptCase]:
    """ "best", "median" and "worst" case by Dice; fewer where there are fewer cases."""
    ranked = sorted(cases, key=lambda case: (-case.dice, case.path))
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    return {word: ranked[place] for word, place in places.items() if ranked and (word == "best" or place > 0)}


class ScanPictures:
    """Draw the first scans of an inference, each class outlined in its colour.

    Args:
        output_dir: the run's folder.
        class_names: name of each label value, the background first.
        count: of the scans.
    """

    def __init__(self, output_dir: str | Path, class_names: Sequence[str], count: int = 6) -> None:
        self.output_dir, self.class_names, self.count = Path(output_dir), list(class_names), count
        self._album: Any = None

    def attach(self, engine: Workflow) -> None:
        """Watch an evaluator whose outputs are decollated and decoded; a scan that failed has no output."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Workflow) -> None:
        with comfort(FAILED):
            from .pages.pictures import Album

            self._album = Album(self.output_dir, "inference")

    def _look(self, engine: Workflow) -> None:
        for sample in engine.state.output or []:
            path = scan_path(sample[CommonKeys.PRED])
            if path is not None and self._album is not None and len(self._album.pictures) < self.count:
                with comfort(FAILED):
                    self._draw(path, sample[CommonKeys.PRED])

    def _draw(self, path: str, labels: torch.Tensor) -> None:
        from .pages.slices import labels_figure, window_words

        image, found = scan_as_stored(path), ras(labels)
        values = [int(value) for value in np.unique(_voxels(found)) if value > 0]
        figure = labels_figure(_voxels(image), _voxels(found).round().astype(np.int16), voxel_size(found))
        words = ", ".join(self._name(value) for value in values) or "no class was found"
        caption = f"{words}; {window_words(_voxels(image))}; 20 mm about what was found."
        alt = f"Three planes of {stem(Path(path))}, outlined: {words}."
        self._album.add(
            lambda file: figure.savefig(file, dpi=128, facecolor="black"), f"{stem(Path(path))}.", caption, alt
        )

    def _name(self, value: int) -> str:
        from .pages.slices import color_word

        return f"{self.class_names[value] if value < len(self.class_names) else value} ({color_word(value)})"

    def _close(self, engine: Workflow) -> None:
        if self._album is not None:
            with comfort(FAILED):
                self._album.close()


class FeaturePictures:
    """Draw what an encoder's four stages make of a few volumes, coloured by principal components.

    On a trainer: of the first volumes of a dataset, when the last epoch is over. On an evaluator of an encoder (see
    `StageInferer`): of the first scans.

    Args:
        output_dir: the run's folder.
        encoder: which sees the volumes of `dataset`; None on an evaluator.
        dataset: samples {"image": (C, X, Y, Z)}, preprocessed; None on an evaluator.
        count: of the volumes.
    """

    def __init__(
        self,
        output_dir: str | Path,
        encoder: ResNet3DEncoder | None = None,
        dataset: Dataset | None = None,
        count: int = 2,
    ) -> None:
        self.output_dir, self.encoder, self.dataset, self.count = Path(output_dir), encoder, dataset, count
        self._album: Any = None

    def attach(self, engine: Workflow) -> None:
        """Draw at the end of a trainer, or while an evaluator sees its scans."""
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        if self.encoder is None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._look)
        else:
            engine.add_event_handler(Events.COMPLETED, self._draw_dataset)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Workflow) -> None:
        with comfort(FAILED):
            from .pages.pictures import Album

            self._album = Album(self.output_dir, "features")

    def _look(self, engine: Workflow) -> None:
        output: Mapping[str, Any] = engine.state.output or {}
        if self._album is None or len(self._album.pictures) >= self.count or CommonKeys.PRED not in output:
            return
        with comfort(FAILED):
            self._draw(output[CommonKeys.IMAGE][0], [stage[0] for stage in output[CommonKeys.PRED]])

    @torch.no_grad()
    def _draw_dataset(self, engine: Workflow) -> None:
        assert self.encoder is not None and self.dataset is not None
        if engine.state.epoch < engine.state.max_epochs:
            return  # a signal ended it
        with comfort(FAILED):
            device, was_training = next(self.encoder.parameters()).device, self.encoder.training
            self.encoder.eval()
            for index in range(min(self.count, len(self.dataset))):  # type: ignore[arg-type]
                image = self.dataset[index][CommonKeys.IMAGE]
                self._draw(image, [stage[0] for stage in self.encoder.stages(image[None].to(device))])
            self.encoder.train(was_training)

    def _draw(self, image: torch.Tensor, maps: Sequence[torch.Tensor]) -> None:
        spacing = voxel_size(image)
        volume = image[0].as_subclass(torch.Tensor).float().cpu().numpy()
        stages = [stage.as_subclass(torch.Tensor).float().cpu() for stage in maps]
        name = scan_path(image)
        title = f"{stem(Path(name))}." if name else f"Volume {len(self._album.pictures) + 1}."
        caption = (
            "Middle slices of a scan and of its four stage maps, as preprocessed. Red, green and blue are the first "
            "three principal components of a map's channels: what has one colour looks alike to the encoder."
        )
        alt = f"Grid of slices: {title} Rows are planes; columns are the scan and the maps of stages 1 to 4."
        self._album.add(lambda path: draw_feature_maps(volume, stages, path, spacing), title, caption, alt)

    def _close(self, engine: Workflow) -> None:
        if self._album is not None:
            with comfort(FAILED):
                self._album.close()


def scan_as_stored(path: str) -> MetaTensor:
    """The voxels of a scan as its file holds them, turned to RAS."""
    return ras(LoadImage(ensure_channel_first=True)(path))


def ras(volume: torch.Tensor) -> Any:
    """A volume (C, X, Y, Z) turned to RAS by its affine; a plain tensor is taken as it is."""
    return Orientation(axcodes="RAS", labels=None)(volume) if isinstance(volume, MetaTensor) else volume


def _voxels(volume: torch.Tensor) -> np.ndarray:
    """The first channel as an array (X, Y, Z)."""
    return np.asarray(volume[0].cpu())
