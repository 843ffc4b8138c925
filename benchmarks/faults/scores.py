"""What a tiny pre-training was worth: how well its teacher's encoder knows volumes again that no run trains on.

Of the figures tried on healthy runs (retrieval of the nearest, effective rank, dense nearest neighbours against the
phantoms' labels) this one moves most by learning, against what seeds differ by.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from desd_components.base.draws import SampleKey
from desd_components.distillation.encoder import ResNet3DEncoder
from desd_components.distillation.views.make import MultiViews
from desd_components.health.probes import pooled_views
from desd_components.scans.contexts import collate_contexts

from .runs import contexts, recipe

ROUNDS = 4  # pairs of views of each volume


class KnownAgain:
    """The mean over all four stages of `known_again`, on views that are the same for every run.

    Args:
        records: volumes that no run trains on.
        cache: folder of the preprocessed volumes.
    """

    def __init__(self, records: list[dict[str, str]], cache: Path) -> None:
        dataset, views = contexts(records, cache, seed=0), MultiViews([recipe(), recipe()], 0)
        keys = [[SampleKey(epoch, index) for index in range(len(dataset))] for epoch in range(1, ROUNDS + 1)]
        self._views = [views(**_without_volume(collate_contexts([dataset[key] for key in epoch]))) for epoch in keys]

    @torch.no_grad()
    def __call__(self, encoder: ResNet3DEncoder) -> float:
        """The score of an encoder in eval mode: 1 always, 0.5 by luck."""
        stages = [stage for views in self._views for stage in pooled_views(encoder, views)]
        return float(np.mean([known_again(first, second) for first, second in stages]))


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
