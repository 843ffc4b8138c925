"""Evaluation of a pre-trained encoder, stage by stage, against the same encoder with random weights.

Same views, same voxels, same neighbours for both; several random draws, for one may be lucky. The interval is a paired
bootstrap over volumes and random draws. It does not cover the pre-training: other seeds of it give other encoders.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from ..base.draws import drawn_from
from ..base.encoders import Encoder
from ..base.errors import UserError
from ..base.files import write_json
from ..base.manifests import manifest_path, read_manifest
from ..base.statistics import Statistic, percentiles, resampled_differences
from ..distillation.encoder import build_encoder
from ..scans.labelled import LabelledData, find_labelled, label_subset
from .measures import rank_of_gram, retrieved
from .probes import Samples, pooled_views

logger = logging.getLogger(__name__)

COVERS = (
    "volumes and random draws of the untrained encoder (paired bootstrap); neither the seed of the pre-training nor "
    "the labelled volumes that serve as neighbours."
)


def evaluated_manifest(checkpoint: str | Path | None) -> dict[str, Any]:
    """The manifest of the encoder to be evaluated.

    Raises:
        UserError: when there is no checkpoint, or it is not that of an encoder.
    """
    if checkpoint is None:
        raise UserError("encoder_checkpoint: null. Name what is to be evaluated: --encoder_checkpoint RUN/encoder.pt.")
    manifest = read_manifest(checkpoint)
    if manifest.get("kind") != "encoder":
        raise UserError(
            f"{manifest_path(checkpoint)}: kind is {manifest.get('kind')!r}, not 'encoder'. Give the encoder.pt of a "
            "pre-training run."
        )
    return manifest


def probe_data(
    dataset_dir: str | Path,
    class_names: Any = None,
    data_split: str | Path | None = None,
    in_channels: int = 1,
    num_volumes: int | None = 16,
    seed: int = 0,
) -> LabelledData:
    """Labelled volumes for the dense probe: `training` gives the neighbours, `validation` is judged; never `test`.

    Args:
        dataset_dir, class_names, data_split, in_channels, seed: see `find_labelled`.
        num_volumes: at most that many give neighbours; None takes all.

    Returns:
        Without scans where the folder has no usable labels; the log says why.
    """
    try:
        data = find_labelled(dataset_dir, class_names, data_split=data_split, in_channels=in_channels, seed=seed)
    except UserError as error:
        logger.warning("No dense probe, for there are no labels to use: %s", error)
        return LabelledData([], [], [])
    if num_volumes is not None and data.training:
        data.training = label_subset(data.training, min(num_volumes, len(data.training)), seed)
    return data


def mean_over(values: np.ndarray, volumes: np.ndarray) -> float:
    """Mean of per-volume scores over those volumes, NaN left out."""
    return float(np.nanmean(values[volumes]))


def rank_over(gram: np.ndarray, volumes: np.ndarray) -> float:
    """Effective rank over those volumes, of features with that Gram matrix (N, N), which is centred here."""
    part = gram[np.ix_(volumes, volumes)]
    return rank_of_gram(torch.from_numpy(part - part.mean(0) - part.mean(1, keepdims=True) + part.mean()))


def compare(
    trained: np.ndarray, untrained: Sequence[np.ndarray], statistic: Statistic, replicates: int, seed: int
) -> dict[str, Any]:
    """One score of the trained encoder and of the untrained ones, with the interval of the difference.

    The interval is a percentile bootstrap, moved by its bias (Efron and Tibshirani 1993, ch. 10): resampled volumes
    repeat, which lowers every rank, and the interval of a difference of ranks would else lie beside it.

    Args:
        trained: per-volume values, or the (N, N) Gram matrix; volumes along the first axis.
        untrained: the same of each random draw, on the same volumes.
        statistic: values and the volumes to use -> score.
        replicates: of the bootstrap; volumes and random draws are drawn anew in each.
        seed: of the bootstrap.
    """
    everything = np.arange(len(trained))
    of_draws = [statistic(values, everything) for values in untrained]
    differences = resampled_differences(trained, untrained, statistic, replicates, seed)
    score, reference = statistic(trained, everything), float(np.mean(of_draws))
    bias = np.nanmean(differences) - (score - reference)
    return {
        "trained": score,
        "untrained": reference,
        "untrained_draws": of_draws,
        "difference": score - reference,
        "interval_95": [float(end - bias) for end in percentiles(differences)],
    }


class EncoderEvaluation:
    """Score an encoder against untrained ones and write ``metrics.json``.

    Retrieval: share of volumes whose second view is the nearest to their first. Rank: effective rank of the first
    view's pooled features. Dense Dice: see `DenseProbe`; mean over classes.

    Args:
        encoder: with its pre-trained weights.
        view_loader: batches of contexts.
        prepare_views: makes views of a batch, as the trainer's ``prepare_batch``.
        output_dir: where ``metrics.json`` goes.
        probe: a `DenseProbe`; None leaves it out.
        neighbors: labelled volumes that it looks among.
        judged: labelled volumes that it scores.
        draws: how many untrained encoders.
        replicates: of the bootstrap.
        seed: of the untrained encoders and the bootstrap.
        device: where the encoders run.
        about: what else ``metrics.json`` should say.
    """

    def __init__(
        self,
        encoder: Encoder,
        view_loader: Iterable[Mapping[str, Any]],
        prepare_views: Callable[..., tuple[Sequence[torch.Tensor], None]],
        output_dir: str | Path,
        probe: Callable[[Encoder, Samples, Samples], torch.Tensor] | None = None,
        neighbors: Samples | None = None,
        judged: Samples | None = None,
        draws: int = 5,
        replicates: int = 500,
        seed: int = 0,
        device: torch.device | str = "cpu",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if draws < 1 or replicates < 20:
            raise UserError(f"untrained_draws={draws}, replicates={replicates}: give at least 1 and 20.")
        self.encoder, self.view_loader, self.prepare_views = encoder, view_loader, prepare_views
        self.path, self.probe, self.neighbors, self.judged = Path(output_dir) / "metrics.json", probe, neighbors, judged
        self.draws, self.replicates, self.seed, self.device = draws, replicates, seed, torch.device(device)
        self.about = dict(about or {})

    def run(self) -> dict[str, Any]:
        """Score, write, print the table; returns what was written."""
        batches = [self.prepare_views(batch, self.device)[0][:2] for batch in self.view_loader]
        trained = self._scores(self.encoder, batches)
        untrained = [self._scores(self._untrained(draw), batches) for draw in range(self.draws)]
        report: dict[str, Any] = {**self.about, "volumes": len(trained["retrieval"][0]), "interval_covers": COVERS}
        for name, stages in trained.items():
            statistic = rank_over if name == "rank" else mean_over
            report[name] = {}
            for stage, values in enumerate(stages):
                draws = [draw[name][stage] for draw in untrained]
                report[name][f"stage_{stage + 1}"] = compare(values, draws, statistic, self.replicates, self.seed)
                if name != "rank":  # so that two encoders can be compared volume by volume
                    report[name][f"stage_{stage + 1}"]["per_volume"] = [round(value, 6) for value in values.tolist()]
        write_json(self.path, report)
        print(evaluation_table(report))
        logger.info("Scores written to %s", self.path)
        return report

    def _untrained(self, draw: int) -> Encoder:
        with drawn_from(1_000_003 * (draw + 1) + self.seed):
            return build_encoder(**self.encoder.architecture)

    @torch.no_grad()
    def _scores(self, encoder: Encoder, batches: Sequence[Sequence[torch.Tensor]]) -> dict[str, list]:
        encoder = encoder.to(self.device)
        if encoder is not self.encoder:
            update_bn((view for views in batches for view in views), encoder)  # so that it is judged fairly
        encoder.eval()
        pooled = [pooled_views(encoder, views) for views in batches]
        stages = [torch.cat(stage, dim=1).double().cpu() for stage in zip(*pooled, strict=True)]
        scores = {
            "retrieval": [retrieved(views[0], views[1]).numpy() for views in stages],
            "rank": [(views[0] @ views[0].T).numpy() for views in stages],
        }
        if self.probe is not None and self.neighbors is not None and self.judged is not None:
            dice = self.probe(encoder, self.neighbors, self.judged)
            scores["dense_dice"] = [stage.numpy() for stage in dice.double().nanmean(dim=-1)]
        return scores


def evaluation_table(report: Mapping[str, Any]) -> str:
    """The report as a plain table."""
    rows = [f"{'':<22} {'trained':>9} {'untrained':>10} {'difference':>11}   95 % interval"]
    for name, label in (("retrieval", "retrieval"), ("rank", "feature rank"), ("dense_dice", "dense Dice")):
        for stage, figures in report.get(name, {}).items():
            low, high = figures["interval_95"]
            digits = 1 if name == "rank" else 3
            rows.append(
                f"{label + ', ' + stage.replace('_', ' '):<22} {figures['trained']:>9.{digits}f} "
                f"{figures['untrained']:>10.{digits}f} {figures['difference']:>+11.{digits}f}   "
                f"{low:+.{digits}f} to {high:+.{digits}f}"
            )
    return "\n".join([*rows, f"The interval covers {report['interval_covers']}"])
