"""Scores of segmentations: Dice and the 95 % Hausdorff distance (HD95, mm) of each class, per scan and on average.

Dice follows nnU-Net's rule for absent classes: a class absent from reference and prediction has no score (NaN, null in
a file), one that is predicted though absent has 0. HD95 is MONAI's, the larger of the two directed 95th percentiles; it
needs the class on both sides and is NaN otherwise. Means leave NaN out.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.metrics import compute_hausdorff_distance
from monai.utils import convert_to_tensor

from ..base.classes import IGNORE, Regions, class_members
from ..base.files import write_json
from ..base.processes import from_all_processes
from ..base.statistics import dice_score
from ..scans.names import CaseNames
from ..scans.volume import scan_path, voxel_size

logger = logging.getLogger(__name__)


Scores = dict[str, dict[str, float]]


def hd95_score(prediction: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float]) -> float:
    """HD95 in mm of two binary maps (X, Y, Z) with voxels of `spacing` mm; NaN when either is empty."""
    if not prediction.any() or not reference.any():
        return math.nan
    distance = compute_hausdorff_distance(
        prediction[None, None].cpu(), reference[None, None].cpu(), include_background=True, percentile=95,
        spacing=list(spacing),
    )  # fmt: skip
    return float(distance)


def case_scores(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    class_names: Sequence[str],
    spacing: Sequence[float],
    regions: Regions = False,
) -> Scores:
    """Dice and HD95 of each class but the background.

    Args:
        prediction, reference: label values (1, X, Y, Z) on one grid; where the reference is `IGNORE` nothing counts.
        class_names: name of label value 0 (background), 1, 2, ...
        spacing: voxel size in mm (x, y, z).
        regions: the label values that each class but the background covers, as it was trained; a bool: its own alone.

    Returns:
        {"dice": {class: score}, "hd95": {class: mm}}.
    """
    prediction, reference = judged(*(convert_to_tensor(v)[0].round().long().cpu() for v in (prediction, reference)))
    scores: Scores = {"dice": {}, "hd95": {}}
    for name, members in list(zip(class_names, class_members(len(class_names), regions), strict=True))[1:]:
        found, true = (torch.isin(labels, torch.tensor(members)) for labels in (prediction, reference))
        scores["dice"][name] = dice_score(found, true)
        scores["hd95"][name] = hd95_score(found, true, spacing)
    return scores


def judged(prediction: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both label maps, background where the reference is `IGNORE`."""
    unknown = reference == IGNORE
    return prediction.masked_fill(unknown, 0), reference.masked_fill(unknown, 0)


def mean_scores(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Scores:
    """Mean of each score over the cases that have it, per class, and "mean", the mean over the classes."""
    means: Scores = {}
    for kind in ("dice", "hd95"):
        per_class = {name: _mean([case[kind][name] for case in cases]) for name in class_names[1:]}
        means[kind] = {**per_class, "mean": _mean(list(per_class.values()))}
    return means


def _mean(values: Sequence[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


class SegmentationScores(Metric):
    """Ignite metric: the mean Dice over classes and cases; all other scores go along.

    Reads label maps from a list of {"pred", "label"} (1, X, Y, Z), as decollated and decoded. Under the metric's name
    `engine.state.metrics` gets the mean Dice (0 when no class has a score), and beside it "dice_<class>" and
    "hd95_<class>"; `engine.state.metric_details["cases"]` gets the scores of each scan. Several processes gather
    their cases; a scan seen twice, as a distributed sampler pads, counts once.

    Args:
        class_names: name of each label value, the background first.
        regions: see `case_scores`.
    """

    def __init__(self, class_names: Sequence[str], regions: Regions = False) -> None:
        self.class_names, self.regions = list(class_names), regions
        super().__init__()
        self._skip_unrolling = True

    def reset(self) -> None:
        """Forget all cases."""
        self.cases: list[dict[str, Any]] = []

    def update(self, output: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Score each sample of a decollated batch."""
        for sample in output:
            label = sample["label"]
            scores = case_scores(sample["pred"], label, self.class_names, voxel_size(label), self.regions)
            path = scan_path(sample.get("image", label)) or f"case {len(self.cases) + 1}"
            self.cases.append({"path": path, **scores})

    def gathered(self) -> list[dict[str, Any]]:
        """The cases of all processes, each scan once, sorted by path."""
        unique = {case["path"]: case for case in from_all_processes(self.cases)}
        return [unique[path] for path in sorted(unique)]

    def compute(self) -> float:
        """The mean Dice."""
        mean = mean_scores(self.gathered(), self.class_names)["dice"]["mean"]
        return 0.0 if math.isnan(mean) else mean

    def completed(self, engine: Engine, name: str) -> None:
        """Put the scores into the engine's state."""
        cases = self.gathered()
        for kind, means in mean_scores(cases, self.class_names).items():
            engine.state.metrics |= {f"{kind}_{class_name}": means[class_name] for class_name in self.class_names[1:]}
        engine.state.metrics[name] = self.compute()
        engine.state.metric_details["cases"] = cases  # type: ignore[attr-defined]


def metrics_table(report: Mapping[str, Any]) -> str:
    """The means of a report as a plain table."""
    rows = [f"{'class':<24} {'Dice':>8} {'HD95 mm':>9}   over {len(report['cases'])} scans"]
    for name, dice in report["mean"]["dice"].items():
        figures = f"{dice:>8.4f} {report['mean']['hd95'][name]:>9.2f}"
        rows.append(f"{name:<24} {figures.replace('nan', '  -')}")
    return "\n".join(rows)


class MetricsReportHandler:
    """When an evaluation ends, write its scores to `path` as JSON and print the table of means.

    The file holds the classes, each case's scores under its name, and their means.

    Args:
        path: the JSON file, written whole or not at all.
        class_names: name of each label value, the background first.
        case_names: what the scans are called.
        about: what else the file should say, such as the checkpoint.
    """

    def __init__(
        self, path: str | Path, class_names: Sequence[str], case_names: CaseNames, about: Mapping[str, Any]
    ) -> None:
        self.path, self.class_names, self.case_names, self.about = Path(path), list(class_names), case_names, about

    def attach(self, engine: Engine) -> None:
        """Report when `engine`, an evaluator with `SegmentationScores`, has finished."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write and print, in the first process only."""
        if idist.get_rank() > 0:
            return
        cases = engine.state.metric_details["cases"]  # type: ignore[attr-defined]
        file = self.case_names.file
        shown = [{"image": file(case["path"]), "dice": case["dice"], "hd95": case["hd95"]} for case in cases]
        report = {"classes": self.class_names, "cases": shown, "mean": mean_scores(cases, self.class_names)}
        write_json(self.path, {**report, **self.about})
        print(metrics_table(report))
        logger.info("scores of %d scans written to %s", len(cases), self.path)
